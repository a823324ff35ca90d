//! A program at the ingress of an interface: by a tcx link where the kernel has these (6.6), else as a filter of a clsact qdisc.

use super::clsact;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use std::error::Error;
use std::io;

/// Keeps a program at the ingress of one interface, until it is dropped.
pub struct Ingress {
    link: Option<SchedClassifierLink>,
    /// The interface at which we have added a clsact qdisc.
    clsact: Option<String>,
}

impl Drop for Ingress {
    fn drop(&mut self) {
        drop(self.link.take());
        if let Some(interface) = &self.clsact {
            // The interface may have gone, and the qdisc with it.
            let _ = clsact::remove_if_empty(interface);
        }
    }
}

impl Ingress {
    /// Puts a loaded program, `name` in its object, in front of all others. `clsact_only`: as on kernels before 6.6.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        name: &str,
        interface: &str,
        clsact_only: bool,
    ) -> io::Result<Ingress> {
        clean_leftovers(name, interface)?;
        let tcx = if clsact_only { Err(io::Error::other("not asked")) } else { Ingress::link(program, interface) };
        let tcx = match tcx {
            Ok(ingress) => return Ok(ingress),
            Err(tcx) => tcx,
        };
        let made = clsact::add(interface)?;
        let options = TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() });
        let id = program
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .map_err(|error| sentence(&format!("cannot attach the ingress program to {interface} ({tcx})"), &error))?;
        let link = program.take_link(id).map_err(lost)?;
        Ok(Ingress { link: Some(link), clsact: made.then(|| interface.to_owned()) })
    }

    /// As [`Ingress::attach`], and only in the way that ends with the process however it ends: from Linux 6.6 on.
    pub(super) fn link(program: &mut SchedClassifier, interface: &str) -> io::Result<Ingress> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .map_err(|error| sentence("tcx", &error))?;
        Ok(Ingress { link: Some(program.take_link(id).map_err(lost)?), clsact: None })
    }
}

fn lost(error: aya::programs::ProgramError) -> io::Error {
    sentence("the ingress link was lost", &error)
}

/// Takes away the program `name` that a process that crashed has left at the interface (kernels before 6.6). True: there was
/// one.
pub(super) fn clean_leftovers(name: &str, interface: &str) -> io::Result<bool> {
    if !clsact::exists(interface)? {
        return Ok(false);
    }
    match aya::programs::tc::qdisc_detach_program(interface, TcAttachType::Ingress, name) {
        // The qdisc was there for our filter, or is as good as not there.
        Ok(()) => clsact::remove_if_empty(interface).map(|_| true),
        Err(aya::programs::TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(sentence(&format!("cannot remove an old filter from {interface}"), &error)),
    }
}

/// The error with all its causes in one line.
pub(super) fn sentence(what: &str, error: &dyn Error) -> io::Error {
    let mut text = format!("{what}: {error}");
    let mut kind = io::ErrorKind::Other;
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            kind = error.kind();
        }
        cause = error.source();
    }
    if kind == io::ErrorKind::PermissionDenied {
        text.push_str(" (this needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW: run as root)");
    }
    io::Error::new(kind, text)
}
