//! Connectivity, asked with real sockets from inside a network namespace.
//!
//! Each probe is one attempt, made on a thread of its own that enters the namespace; many may run at once. An `Err`
//! means that the question could not be asked (no such namespace, no root); what the network answered is an
//! [`Outcome`].

mod at_once;
mod dns;
mod sctp;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use socket2::{Domain, SockAddr, Socket, Type};

pub use at_once::all_at_once;
pub use sctp::sctp_init;

use crate::testbed::exec_in_netns;

/// What an attempt met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other side answered.
    Open,
    /// The other side, or a rule that rejects with a reset or a port error, said no.
    Refused,
    /// Nobody answered in time: what a rule that drops looks like.
    TimedOut,
    /// The way was reported closed, or the answer made no sense; the text says how.
    Unreachable(String),
}

impl Outcome {
    /// Whether the other side answered.
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Unreachable(error.to_string()),
        }
    }

    fn from_attempt(attempt: io::Result<()>) -> Self {
        attempt.map_or_else(|error| Self::of(&error), |()| Self::Open)
    }
}

/// Where a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The network namespace.
    pub netns: PathBuf,
    /// The address there; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
}

/// As [`tcp_connect`], from one of the caller's addresses.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn tcp_connect_from(caller: &Caller, to: SocketAddr, timeout: Duration) -> Result<Outcome> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(source) = caller.source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        socket.connect_timeout(&SockAddr::from(to), timeout)
    };
    exec_in_netns(&caller.netns, || Outcome::from_attempt(attempt()))
}

/// Sends one UDP packet and waits for any answer. The packet is a question that a DNS server answers, so this serves for
/// those and for servers that answer whatever they hear.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn udp_answer(caller: &Caller, to: SocketAddr, timeout: Duration) -> Result<Outcome> {
    let source = caller.source.unwrap_or_else(|| unspecified(to.ip()));
    let question = dns::query("kubernetes.default.svc.cluster.local")?;
    exec_in_netns(&caller.netns, || {
        Outcome::from_attempt(udp_ask_from(source, to, &question, timeout).map(drop))
    })
}

/// Opens a TCP connection and closes it again.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn tcp_connect(netns: &Path, to: SocketAddr, timeout: Duration) -> Result<Outcome> {
    let caller = Caller {
        netns: netns.to_owned(),
        source: None,
    };
    tcp_connect_from(&caller, to, timeout)
}

/// Asks a test server (`agnhost netexec --udp-port`) to echo a text in one UDP packet.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn udp_echo(netns: &Path, to: SocketAddr, timeout: Duration) -> Result<Outcome> {
    exec_in_netns(netns, || match udp_ask(to, b"echo ringfence", timeout) {
        Ok(answer) if answer == b"ringfence" => Outcome::Open,
        Ok(answer) => Outcome::Unreachable(format!(
            "an answer that is no echo: {}",
            String::from_utf8_lossy(&answer)
        )),
        Err(error) => Outcome::of(&error),
    })
}

/// Asks a DNS server for `name` over UDP. Any answer to the question is [`Outcome::Open`], also that there is no such
/// name: it is the path that is asked about.
///
/// # Errors
/// When the namespace cannot be entered, or `name` is no domain name.
pub fn dns_udp(netns: &Path, server: SocketAddr, name: &str, timeout: Duration) -> Result<Outcome> {
    let query = dns::query(name)?;
    exec_in_netns(netns, || match udp_ask(server, &query, timeout) {
        Ok(answer) => judge_dns(&query, &answer),
        Err(error) => Outcome::of(&error),
    })
}

/// As [`dns_udp`], over TCP.
///
/// # Errors
/// When the namespace cannot be entered, or `name` is no domain name.
pub fn dns_tcp(netns: &Path, server: SocketAddr, name: &str, timeout: Duration) -> Result<Outcome> {
    let query = dns::query(name)?;
    exec_in_netns(netns, || match dns_over_tcp(server, &query, timeout) {
        Ok(answer) => judge_dns(&query, &answer),
        Err(error) => Outcome::of(&error),
    })
}

fn judge_dns(query: &[u8], answer: &[u8]) -> Outcome {
    if dns::answers(query, answer) {
        return Outcome::Open;
    }
    Outcome::Unreachable(format!("{} bytes that do not answer the question", answer.len()))
}

/// Fetches `http://TO/PATH`; gives the body.
///
/// # Errors
/// When the namespace cannot be entered, the server does not answer within ten seconds, or its status is not 200.
pub fn http_get(netns: &Path, to: SocketAddr, path: &str) -> Result<String> {
    let response = exec_in_netns(netns, || fetch(to, path, Duration::from_secs(10)))?;
    let response = response.with_context(|| format!("GET http://{to}{path}"))?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        bail!(
            "GET http://{to}{path}: {} bytes that are no HTTP response",
            response.len()
        );
    };
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "GET http://{to}{path}: {status}"
    );
    Ok(body.to_owned())
}

/// HTTP 1.0, so that the body ends with the connection.
fn fetch(to: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(to, timeout)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn udp_ask(to: SocketAddr, message: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    udp_ask_from(unspecified(to.ip()), to, message, timeout)
}

fn udp_ask_from(source: IpAddr, to: SocketAddr, message: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((source, 0))?;
    // A connected socket hears of ICMP errors and of nobody else's packets.
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(message)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

/// Any address of the same family.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// In TCP a DNS message is preceded by its length.
fn dns_over_tcp(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(server, timeout)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
