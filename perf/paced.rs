//! HTTP requests at a fixed rate, for `perf/run paced`.
//!
//! paced HOST:PORT CONNECTIONS RATE SECONDS: RATE requests/s in all, dealt out to CONNECTIONS kept connections. Prints, a line for each,
//! how many microseconds a request took from when it was due until its answer was whole. One that is due while its connection still
//! waits for an earlier answer is sent when that is there, and its time runs meanwhile: a stop is charged to all that it held up.
//! Ends with 1 if a connection failed.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(5);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// One connection, and how long its answers are: all of them alike.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    fn open(to: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(REQUEST)?;
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        let length = loop {
            let got = stream.read(&mut part)?;
            if got == 0 {
                return Err("the server closed the connection".into());
            }
            answer.extend_from_slice(&part[..got]);
            if let Some(length) = whole(&answer)? {
                break length;
            }
        };
        answer.truncate(length);
        Ok(Connection { stream, answer })
    }

    fn request(&mut self) -> Result<()> {
        self.stream.write_all(REQUEST)?;
        self.stream.read_exact(&mut self.answer)?;
        if !self.answer.starts_with(b"HTTP/1.1 200") {
            return Err("an answer that is not 200".into());
        }
        Ok(())
    }
}

/// The length of the answer that `text` begins with, if all of it is there.
fn whole(text: &[u8]) -> Result<Option<usize>> {
    let text = std::str::from_utf8(text)?;
    let Some(head) = text.find("\r\n\r\n") else { return Ok(None) };
    let length =
        text[..head].lines().find_map(|line| line.strip_prefix("Content-Length: ")).ok_or("no Content-Length")?;
    let end = head + 4 + length.parse::<usize>()?;
    Ok((text.len() >= end).then_some(end))
}

/// Request number n is due at `start` + n * `every`. Returns microseconds.
fn run(mut connection: Connection, start: Instant, every: Duration, requests: u32) -> Result<Vec<u128>> {
    let mut taken = Vec::with_capacity(requests as usize);
    for number in 0..requests {
        let due = start + every * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        connection.request()?;
        taken.push(due.elapsed().as_micros());
    }
    Ok(taken)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [to, connections, rate, seconds] = &args[..] else {
        return Err("usage: paced HOST:PORT CONNECTIONS RATE SECONDS".into());
    };
    let (to, connections, rate, seconds) =
        (to.parse()?, connections.parse::<u32>()?, rate.parse::<u32>()?, seconds.parse::<u32>()?);
    // Sleeps end when they should, not up to 50 us later; threads inherit it.
    std::fs::write("/proc/self/timerslack_ns", "1")?;
    let open = (0..connections).map(|_| Connection::open(to)).collect::<Result<Vec<_>>>()?;
    let every = Duration::from_secs(1) * connections / rate;
    let start = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = (0..)
        .zip(open)
        .map(|(number, connection)| {
            let first = start + every * number / connections;
            thread::spawn(move || run(connection, first, every, rate * seconds / connections))
        })
        .collect();
    let mut out = String::new();
    for thread in threads {
        let taken = thread.join().map_err(|_| "a thread panicked")??;
        taken.iter().for_each(|us| out += &format!("{us}\n"));
    }
    std::io::stdout().write_all(out.as_bytes())?;
    Ok(())
}
