//! One client at a time, by hand: what it says, and what it learns.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::namespace::Namespace;
use super::wait::PATIENCE;

/// A line-based TCP session.
pub struct Session {
    stream: BufReader<TcpStream>,
}

/// Connects and waits for the other side's first line, e.g. `+OK r1a ready.`
pub fn open(namespace: &Namespace, to: SocketAddr) -> io::Result<(Session, String)> {
    let mut session = connect(namespace, to)?;
    let greeting = session.line()?;
    Ok((session, greeting))
}

/// Connects.
pub fn connect(namespace: &Namespace, to: SocketAddr) -> io::Result<Session> {
    connect_from(namespace, 0, to)
}

/// Connects from a port of choice.
pub fn connect_from(namespace: &Namespace, port: u16, to: SocketAddr) -> io::Result<Session> {
    let stream: TcpStream = namespace.inside(|| -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if port != 0 {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(Session { stream: BufReader::new(stream) })
}

/// Who serves `to`: the second word of the greeting of a session that ends again at once.
pub fn who(namespace: &Namespace, to: SocketAddr) -> io::Result<String> {
    let (mut session, greeting) = open(namespace, to)?;
    session.ask("QUIT")?;
    Ok(greeting.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

impl Session {
    /// The next line, without its end. An end of the stream is an error.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Sends a line and waits for one.
    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        self.send(line)?;
        self.line()
    }

    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())
    }

    /// Ends the session with RST instead of FIN.
    pub fn reset(self) {
        let _ = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
    }

    /// Sends FIN; can still receive.
    pub fn finish_sending(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("shut down");
    }
}

const TRIES: u32 = 6;

/// A UDP client with a port of its own.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    pub fn new(namespace: &Namespace, to: SocketAddr) -> Datagrams {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = namespace.inside(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            io::Result::Ok(socket)
        });
        let socket = socket.expect("a UDP socket");
        socket.set_read_timeout(Some(PATIENCE / TRIES)).expect("a timeout");
        Datagrams { socket }
    }

    /// Sends, and waits for an answer, or the error that ICMP brought. What brings neither is sent again, as clients do: under load
    /// the kernel loses datagrams between namespaces.
    pub fn ask(&self, text: &str) -> io::Result<String> {
        let mut buffer = [0; 65_536];
        for _ in 0..TRIES {
            self.socket.send(text.as_bytes())?;
            match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Ok(String::from_utf8_lossy(&buffer[..received?]).into_owned()),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
