//! A connection that is made again whenever it is lost, and what the log says of it: once that it is lost, once that it is back.

use super::resp::{Client, PATIENCE};
use crate::config::dns::Redis;
use crate::config::file::io_words;
use std::io::{self, Error};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tracing::{info, warn};

/// After a loss the next try is after this time, then after twice as long each time, up to the longest.
const WAIT: Duration = Duration::from_millis(500);

/// What is shared, in words, and how it goes on while the server is lost.
pub struct Words {
    pub what: &'static str,
    pub meanwhile: &'static str,
}

/// Connects, and logs in if there is a password.
pub fn connect(config: &Redis) -> io::Result<Client> {
    let password = config.password_file.as_ref().map(std::fs::read_to_string).transpose();
    let password = password.map_err(|why| Error::other(format!("cannot read `password_file`: {}", io_words(&why))))?;
    let stream = TcpStream::connect_timeout(&config.address, PATIENCE)?;
    stream.set_nodelay(true)?;
    let mut client = Client::new(stream);
    if let Some(password) = password {
        client.one(&[b"AUTH", password.trim_end().as_bytes()])?;
    }
    Ok(client)
}

/// Shares again and again. `share` returns when the server is lost, or without an error at the end; it calls what it is given once it
/// has begun. `ends` waits for so long, unless the end comes before: true.
pub fn keep(
    config: &Redis,
    words: &Words,
    longest_wait: Duration,
    connected: &AtomicBool,
    mut share: impl FnMut(&mut dyn FnMut()) -> io::Result<()>,
    mut ends: impl FnMut(Duration) -> bool,
) {
    let (mut wait, mut told) = (WAIT, false);
    let Words { what, meanwhile } = words;
    loop {
        let ended = share(&mut || {
            wait = WAIT;
            connected.store(true, Relaxed);
            let again = if std::mem::take(&mut told) { " again" } else { "" };
            info!("{what} are shared through {}{again}", config.address);
        });
        connected.store(false, Relaxed);
        let Err(why) = ended else { return };
        if !std::mem::replace(&mut told, true) {
            warn!("{what} are not shared through {}: {}; {meanwhile}", config.address, io_words(&why));
        }
        if ends(wait) {
            return;
        }
        wait = (wait * 2).min(longest_wait);
    }
}
