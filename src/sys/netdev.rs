//! What XDP features a driver has, asked without touching it: the generic netlink family "netdev"
//! (Documentation/netlink/specs/netdev.yaml; Linux 6.3).

use super::socket::interface_index;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::io;

const HEADER: usize = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 1 << 3;

/// Whether the interface's driver lets AF_XDP sockets send and receive without a copy. False where the kernel is too old to be
/// asked.
pub fn offers_zero_copy(name: &str) -> io::Result<bool> {
    Ok(features(name)?.is_some_and(|features| features & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0))
}

/// NETDEV_XDP_ACT_*; None where the kernel is too old to be asked.
fn features(name: &str) -> io::Result<Option<u64>> {
    let index = interface_index(name)?;
    let family = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = match family {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        family => attribute(&family?, CTRL_ATTR_FAMILY_ID)
            .and_then(|id| Some(u16::from_ne_bytes(*id.first_chunk()?)))
            .ok_or_else(|| io::Error::other("the kernel does not number its netdev family"))?,
    };
    let answer = ask(family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes())?;
    Ok(attribute(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|bytes| Some(u64::from_ne_bytes(*bytes.first_chunk()?))))
}

/// Asks with one attribute; gives the answer's attributes.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = vec![0; HEADER];
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[16..18].copy_from_slice(&[command, 1]);
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short");
    if answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes()) {
        let code = answer.get(16..20).and_then(|code| code.try_into().ok()).ok_or_else(short)?;
        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(code)));
    }
    Ok(answer.get(HEADER..).ok_or_else(short)?.to_vec())
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some([a, b, c, d]) = bytes.first_chunk() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        if kind == wanted {
            return bytes.get(4..len);
        }
        bytes = bytes.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{Namespace, cable};

    #[test]
    fn a_virtual_cable_has_xdp_and_no_zero_copy() {
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        cable((&a, "c0"), (&b, "c1"));
        let (features, zero) = a.run(|| (features("c0").unwrap(), offers_zero_copy("c0").unwrap()));
        // Basic actions and redirection, where the kernel can be asked at all.
        assert!(features.is_none_or(|features| features & 3 == 3), "{features:?}");
        assert!(!zero);
        assert!(offers_zero_copy("fsdev-none").is_err());
    }

    #[test]
    fn attributes_are_found_behind_padded_ones() {
        let bytes = [5, 0, 7, 0, 1, 0, 0, 0, 6, 0, 9, 0, 2, 3, 0, 0];
        assert_eq!(attribute(&bytes, 9), Some(&[2, 3][..]));
        assert_eq!(attribute(&bytes, 8), None);
        // A length of zero does not go round for ever.
        assert_eq!(attribute(&[0; 8], 1), None);
    }
}
