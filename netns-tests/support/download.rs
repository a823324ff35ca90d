//! Long downloads whose every byte is known, from a server that hands them out as the test allows.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::namespace::Namespace;
use super::server::listen;
use super::wait::PATIENCE;

const BLOCK: usize = 1 << 20;

/// An HTTP server with one file of `size` bytes. A byte is sent once [`Downloads::allow`] has allowed it.
/// Block n (1 MiB) of the file is pseudo-random, with n in its first 8 bytes: a lost, repeated or altered one shows.
pub struct Downloads {
    allowed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Downloads {
    #[track_caller]
    pub fn start(namespace: &Namespace, address: SocketAddr, size: u64) -> Downloads {
        let listener = namespace.inside(|| listen(address)).unwrap_or_else(|e| panic!("listen at {address}: {e}"));
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let (allowed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (limit, end) = (allowed.clone(), stop.clone());
        let acceptor = std::thread::spawn(move || accept(&listener, size, &limit, &end));
        Downloads { allowed, stop, acceptor: Some(acceptor) }
    }

    /// Lets the downloads proceed to this many bytes of the file.
    pub fn allow(&self, bytes: u64) {
        self.allowed.store(bytes, Ordering::Release);
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.acceptor.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, size: u64, allowed: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (allowed, stop) = (allowed.clone(), stop.clone());
                threads.push(std::thread::spawn(move || {
                    let _ = hand_out(stream, size, &allowed, &stop); // A client that leaves is its own affair.
                }));
            }
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn hand_out(mut stream: TcpStream, size: u64, allowed: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; 2048];
    if stream.read(&mut request)? == 0 {
        return Ok(()); // A health check.
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
    let (mut block, mut at, mut number) = (first_block(), 0, u64::MAX);
    while at < size && !stop.load(Ordering::Acquire) {
        let limit = allowed.load(Ordering::Acquire).min(size);
        if at >= limit {
            sleep(Duration::from_millis(2));
            continue;
        }
        if at / BLOCK as u64 != number {
            number = at / BLOCK as u64;
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        let offset = (at % BLOCK as u64) as usize;
        let end = (BLOCK as u64).min(offset as u64 + (limit - at)) as usize;
        match stream.write(&block[offset..end]) {
            Ok(n) => at += n as u64,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn first_block() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

/// The file, for whom it should equal.
pub fn write_file(mut to: impl Write, size: u64) -> io::Result<()> {
    let mut block = first_block();
    for number in 0..size.div_ceil(BLOCK as u64) {
        block[..8].copy_from_slice(&number.to_le_bytes());
        let n = (size - number * BLOCK as u64).min(BLOCK as u64);
        to.write_all(&block[..n as usize])?;
    }
    Ok(())
}

/// A client's reading of the file, byte for byte; `got` follows how far it is.
pub struct Reading {
    thread: JoinHandle<Result<u64, String>>,
    got: Arc<AtomicU64>,
}

impl Reading {
    /// Starts to download from `from` in `namespace`; `pause` is slept after every 64 KiB, for a slow reader.
    pub fn start(namespace: &Namespace, from: SocketAddr, pause: Duration) -> Reading {
        let got = Arc::new(AtomicU64::new(0));
        let progress = got.clone();
        let thread = namespace.thread(move || read_all(from, pause, &progress).map_err(|e| format!("{from}: {e}")));
        Reading { thread, got }
    }

    pub fn got(&self) -> u64 {
        self.got.load(Ordering::Acquire)
    }

    /// Waits for the end; the number of bytes, or what was wrong with them.
    pub fn finish(self) -> Result<u64, String> {
        self.thread.join().expect("the reader's thread")
    }
}

fn read_all(from: SocketAddr, pause: Duration, progress: &AtomicU64) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let wrong = |what: String| io::Error::new(ErrorKind::InvalidData, what);
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.trim().parse().ok());
    let size: u64 = length.ok_or_else(|| wrong(format!("a strange head: {head}")))?;
    let (mut block, mut at, mut buffer) = (first_block(), 0, vec![0; 65_536]);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let mut seen = 0;
        while seen < n {
            block[..8].copy_from_slice(&(at / BLOCK as u64).to_le_bytes());
            let offset = (at % BLOCK as u64) as usize;
            let part = (n - seen).min(BLOCK - offset);
            let (is, should) = (&buffer[seen..seen + part], &block[offset..offset + part]);
            if let Some(place) = (is != should).then(|| is.iter().zip(should).position(|(a, b)| a != b)).flatten() {
                return Err(wrong(format!("byte {} of {size} is wrong", at + place as u64)));
            }
            seen += part;
            at += part as u64;
        }
        progress.store(at, Ordering::Release);
        sleep(pause);
    }
    if at == size { Ok(at) } else { Err(wrong(format!("the connection ended at byte {at} of {size}"))) }
}
