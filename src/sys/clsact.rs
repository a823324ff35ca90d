//! The clsact qdisc, into which the ingress program goes on kernels that have no tcx (before 6.6).

use super::socket::interface_index;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// TC_H_CLSACT, TC_H_MIN_INGRESS and TC_H_MIN_EGRESS (linux/pkt_sched.h).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };
const QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Adds the qdisc. False: it is there already.
pub(super) fn add(interface: &str) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(interface)?);
    match ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot add a clsact qdisc to {interface}: {error}"))),
    }
}

pub(super) fn exists(interface: &str) -> io::Result<bool> {
    let wanted = qdisc(interface)?;
    let found = ask(RouteNetlinkMessage::GetQueueDiscipline(wanted.clone()), NLM_F_DUMP)?;
    Ok(found.iter().any(|found| {
        matches!(found, RouteNetlinkMessage::NewQueueDiscipline(found)
            if found.header.index == wanted.header.index && found.attributes.contains(&wanted.attributes[0]))
    }))
}

/// Removes the qdisc unless somebody's filter is in it. True: removed.
pub(super) fn remove_if_empty(interface: &str) -> io::Result<bool> {
    for parent in [INGRESS, EGRESS] {
        let mut filters = qdisc(interface)?;
        filters.header.handle = TcHandle::default();
        filters.header.parent = parent;
        filters.attributes.clear();
        if !ask(RouteNetlinkMessage::GetTrafficFilter(filters), NLM_F_DUMP)?.is_empty() {
            return Ok(false);
        }
    }
    ask(RouteNetlinkMessage::DelQueueDiscipline(qdisc(interface)?), NLM_F_ACK)?;
    Ok(true)
}

fn qdisc(interface: &str) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(interface_index(interface)? as i32);
    message.header.handle = QDISC;
    message.header.parent = CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    Ok(message)
}

/// One request and all its answers.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut buf = vec![0; request.buffer_len()];
    request.serialize(&mut buf);
    socket.send(&buf, 0)?;

    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                _ => {}
            }
            let len = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}
