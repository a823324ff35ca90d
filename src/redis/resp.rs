//! The protocol of Redis and Valkey (RESP2): commands out, replies in. What a server sends is bounded in size and time.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The longest time that a round of commands and replies may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The most bytes, and the most parts, of one reply.
const MOST_BYTES: usize = 64 << 20;
const MOST_PARTS: usize = 1_000_000;

/// Arrays within arrays.
const DEEPEST: u32 = 8;

/// The longest line of anything but data.
const LONGEST_LINE: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Nothing,
    /// Data, a number, or a word such as OK.
    Data(Vec<u8>),
    Array(Vec<Reply>),
}

impl Reply {
    pub fn data(&self) -> Option<&[u8]> {
        match self {
            Reply::Data(data) => Some(data),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        self.data().and_then(|data| std::str::from_utf8(data).ok())
    }

    /// Of an array; empty of anything else.
    pub fn parts(&self) -> &[Reply] {
        match self {
            Reply::Array(parts) => parts,
            _ => &[],
        }
    }
}

/// A command, ready to be sent.
#[derive(Default)]
pub struct Command(Vec<u8>);

impl Command {
    /// Adds a command of these words.
    pub fn add(&mut self, words: &[&[u8]]) {
        self.0.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.0.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.0.extend_from_slice(word);
            self.0.extend_from_slice(b"\r\n");
        }
    }
}

/// A stream that gives up at a moment, however slowly the other side drips.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(room)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A connection.
pub struct Client(BufReader<Timed>);

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        Client(BufReader::with_capacity(1 << 16, Timed { stream, until: Instant::now() }))
    }

    /// Sends the commands, and gives their replies, `count` of them. An error reply is an error; after any error the connection is
    /// of no use.
    pub fn ask(&mut self, commands: &Command, count: usize) -> io::Result<Vec<Reply>> {
        let timed = self.0.get_mut();
        timed.until = Instant::now() + PATIENCE;
        timed.write_all(&commands.0).map_err(plain)?;
        (0..count).map(|_| read(&mut self.0, &mut Budget::default(), 0).map_err(plain)).collect()
    }

    /// One command, one reply.
    pub fn one(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        let mut command = Command::default();
        command.add(words);
        self.ask(&command, 1)?.pop().ok_or_else(|| wrong("no reply"))
    }
}

/// A timeout, by whatever name the system has for it.
fn plain(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::new(ErrorKind::TimedOut, "it does not answer"),
        ErrorKind::UnexpectedEof => Error::new(ErrorKind::UnexpectedEof, "it has closed the connection"),
        _ => error,
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("it does not speak as a Redis server does: {what}"))
}

#[derive(Default)]
struct Budget {
    bytes: usize,
    parts: usize,
}

impl Budget {
    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        (self.bytes, self.parts) = (self.bytes.saturating_add(bytes), self.parts + 1);
        if self.bytes > MOST_BYTES || self.parts > MOST_PARTS { Err(wrong("its reply is too long")) } else { Ok(()) }
    }
}

fn read(from: &mut impl BufRead, budget: &mut Budget, depth: u32) -> io::Result<Reply> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(if line.is_empty() { ErrorKind::UnexpectedEof.into() } else { wrong("a line without an end") });
    };
    let (kind, rest) = line.split_first().ok_or_else(|| wrong("an empty line"))?;
    let number = || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok());
    budget.spend(rest.len())?;
    match kind {
        b'+' | b':' => Ok(Reply::Data(rest.to_vec())),
        b'-' => Err(Error::other(format!("it says: {}", String::from_utf8_lossy(rest).escape_debug()))),
        b'$' => match number() {
            Some(-1) => Ok(Reply::Nothing),
            Some(long @ 0..) => {
                let long = usize::try_from(long).unwrap_or(usize::MAX);
                budget.spend(long)?;
                let mut data = vec![0; long];
                from.read_exact(&mut data)?;
                let mut end = [0; 2];
                from.read_exact(&mut end)?;
                if &end == b"\r\n" { Ok(Reply::Data(data)) } else { Err(wrong("data without an end")) }
            }
            _ => Err(wrong("data of no length")),
        },
        b'*' => match number() {
            Some(-1) => Ok(Reply::Nothing),
            Some(count @ 0..) if depth < DEEPEST => {
                (0..count).map(|_| read(from, budget, depth + 1)).collect::<io::Result<_>>().map(Reply::Array)
            }
            _ => Err(wrong("a list of no length, or too deep")),
        },
        _ => Err(wrong("an unknown kind of reply")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> io::Result<Reply> {
        read(&mut &bytes[..], &mut Budget::default(), 0)
    }

    #[test]
    fn replies_are_read_as_the_protocol_says() {
        let data = |text: &str| Reply::Data(text.into());
        assert_eq!(parse(b"+OK\r\n").unwrap(), data("OK"));
        assert_eq!(parse(b":-12\r\n").unwrap().text(), Some("-12"));
        assert_eq!(parse(b"$4\r\na\r\nb\r\n").unwrap(), data("a\r\nb"));
        assert_eq!([&b"$-1\r\n"[..], b"*-1\r\n"].map(|bytes| parse(bytes).unwrap()), [Reply::Nothing, Reply::Nothing]);
        let nested = Reply::Array(vec![data("1"), Reply::Array(vec![Reply::Nothing]), data("")]);
        assert_eq!(parse(b"*3\r\n:1\r\n*1\r\n$-1\r\n$0\r\n\r\n").unwrap(), nested);
        assert_eq!(parse(b"-ERR no\x1b\r\n").unwrap_err().to_string(), "it says: ERR no\\u{1b}");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let endless = b"*1\r\n".repeat(100);
        let long = [b"+".as_slice(), &[b'a'; 5000], b"\r\n"].concat();
        let wrong: [&[u8]; 11] = [
            b"",
            b"+OK",
            b"+OK\n",
            b"\r\n",
            b"$5\r\nab\r\n",
            b"$2\r\nabc\r\n",
            b"$9999999999999\r\n",
            b"$-2\r\n",
            b"?\r\n",
            &endless,
            &long,
        ];
        assert!(wrong.iter().all(|bytes| parse(bytes).is_err()));
        assert!(parse(&[b"*1000001\r\n".as_slice(), &b":1\r\n".repeat(1_000_001)].concat()).is_err());
    }

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![Just(b'*'), Just(b'$'), Just(b'1'), Just(b'\r'), Just(b'\n'), any::<u8>()]
    }

    proptest! {
        #[test]
        fn no_bytes_hurt(bytes in prop::collection::vec(byte(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn commands_are_lists_of_data() {
        let mut command = Command::default();
        command.add(&[b"GET", b"a b"]);
        assert_eq!(command.0, b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }
}
