//! The commands' end of the Unix socket. Errors are sentences.

use super::request::Request;
use super::rows::{What, Wish};
use crate::config::file::io_words;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long farside may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line of an answer, in bytes.
const LONGEST: u64 = 1 << 30;

/// A running farside, asked something.
pub struct Asked {
    lines: BufReader<UnixStream>,
    socket: String,
    over: bool,
}

/// What changed, one change a line.
pub fn reload(socket: &Path) -> Result<String, String> {
    sentence(ask(socket, &Request::Reload)?)
}

/// What was done.
pub fn drain(socket: &Path, target: &str, on: bool) -> Result<String, String> {
    let target = target.to_string();
    sentence(ask(socket, &if on { Request::Drain { target } } else { Request::Undrain { target } })?)
}

/// What would be answered to whom: an [`super::rows::ExplainRow`].
pub fn explain(socket: &Path, wish: Wish) -> Result<Value, String> {
    Ok(ask(socket, &Request::Explain(wish))?.piece()?.unwrap_or(Value::Null))
}

/// Asks for what `show` prints.
pub fn show(socket: &Path, what: What) -> Result<Asked, String> {
    ask(socket, &Request::Show { what })
}

fn sentence(mut asked: Asked) -> Result<String, String> {
    match asked.piece()? {
        Some(Value::String(said)) => Ok(said),
        _ => Ok(String::new()),
    }
}

fn ask(socket: &Path, request: &Request) -> Result<Asked, String> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("no farside is running: there is no socket {shown}"),
        ErrorKind::ConnectionRefused => format!("no farside is running: nobody answers at {shown}"),
        ErrorKind::PermissionDenied => format!("cannot use the socket {shown}: permission denied; try as root"),
        _ => format!("cannot use the socket {shown}: {}", io_words(&error)),
    })?;
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let prepared = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    prepared
        .and_then(|()| (&stream).write_all(&line))
        .map_err(|error| format!("cannot ask farside at {shown}: {}", io_words(&error)))?;
    Ok(Asked { lines: BufReader::with_capacity(1 << 16, stream), socket: shown.to_string(), over: false })
}

impl Asked {
    /// The next piece of the answer: rows of a long one, or the whole of a short one. None: that was all.
    pub fn piece(&mut self) -> Result<Option<Value>, String> {
        if self.over {
            return Ok(None);
        }
        let mut line = Vec::new();
        (&mut self.lines).take(LONGEST).read_until(b'\n', &mut line).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("farside at {} does not answer", self.socket),
            _ => format!("farside at {} broke off: {}", self.socket, io_words(&error)),
        })?;
        let broke_off = || format!("farside at {} broke off amid its answer", self.socket);
        if line.last() != Some(&b'\n') {
            return Err(broke_off());
        }
        let answer: Value = serde_json::from_slice(&line).map_err(|_| broke_off())?;
        let Value::Object(mut answer) = answer else { return Err(broke_off()) };
        if let Some(error) = answer.get("error") {
            return Err(error.as_str().unwrap_or("farside refused").to_string());
        }
        if let Some(rows) = answer.remove("rows") {
            return Ok(Some(rows));
        }
        self.over = true;
        match answer.remove("ok") {
            Some(Value::Null) => Ok(None),
            Some(answer) => Ok(Some(answer)),
            None => Err(broke_off()),
        }
    }
}
