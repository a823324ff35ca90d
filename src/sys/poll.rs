//! Sleeping until one of some descriptors has something to say.

use std::os::fd::RawFd;
use std::time::Duration;

/// Descriptors to wait for, in a fixed order.
pub struct Poll {
    entries: Vec<libc::pollfd>,
}

impl Poll {
    pub fn new(fds: impl Iterator<Item = RawFd>) -> Poll {
        Poll { entries: fds.map(entry).collect() }
    }

    /// Keeps the first `count`, and puts these behind them.
    pub fn replace_behind(&mut self, count: usize, fds: impl Iterator<Item = RawFd>) {
        self.entries.truncate(count);
        self.entries.extend(fds.map(entry));
    }

    /// Sleeps until one of them can be read or has an error, or the timeout is over, or a signal comes.
    pub fn wait(&mut self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the entries are writable and as many as we say; the timeout is readable.
        let ready = unsafe {
            libc::ppoll(self.entries.as_mut_ptr(), self.entries.len() as libc::nfds_t, &timeout, std::ptr::null())
        };
        if ready < 0 {
            self.entries.iter_mut().for_each(|entry| entry.revents = 0);
        }
    }

    /// After [`Poll::wait`]: the i-th can be read, or has an error waiting.
    pub fn is_ready(&self, i: usize) -> bool {
        self.entries[i].revents != 0
    }

    /// After [`Poll::wait`]: the i-th has an error waiting.
    pub fn has_error(&self, i: usize) -> bool {
        self.entries[i].revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
    }

    /// Puts another descriptor in the i-th place.
    pub fn replace(&mut self, i: usize, fd: RawFd) {
        self.entries[i].fd = fd;
        self.entries[i].revents = 0;
    }
}

fn entry(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}
