//! SCTP without a kernel that speaks it: the first two packets of an association (RFC 9260), INIT and INIT ACK, by raw
//! sockets. Conntrack and firewall rules treat them as any other SCTP.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Caller, Outcome, unspecified};
use crate::testbed::exec_in_netns;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The common header: ports, verification tag, checksum.
const HEADER: usize = 12;
/// An INIT or INIT ACK chunk without optional parameters.
const CHUNK: usize = 20;

/// A packet with one INIT or INIT ACK chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packet {
    source: u16,
    destination: u16,
    /// 0 for an INIT; for its answer the INIT's tag.
    verification: u32,
    chunk: u8,
    /// The sender's own tag.
    tag: u32,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + CHUNK);
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.verification.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.chunk, 0, 0, CHUNK as u8]);
        bytes.extend(self.tag.to_be_bytes());
        // Receiver window, outbound and inbound streams, first transmission number.
        bytes.extend(65_536u32.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(1u32.to_be_bytes());
        // RFC 9260, appendix A: the checksum is sent with its lowest byte first.
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..HEADER].copy_from_slice(&checksum);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            source: half(0)?,
            destination: half(2)?,
            verification: word(4)?,
            chunk: *bytes.get(HEADER)?,
            tag: word(16)?,
        })
    }

    fn answer(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            verification: self.tag,
            chunk: INIT_ACK,
            tag: !self.tag,
        }
    }
}

/// Sends an SCTP INIT to `to`, whose network namespace is `server`, where it is answered with an INIT ACK. Open is when
/// that comes back.
///
/// # Errors
/// When a namespace cannot be entered or a raw socket cannot be made, which takes root.
pub fn sctp_init(caller: &Caller, server: &Path, to: SocketAddr, timeout: Duration) -> Result<Outcome> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let init = Packet {
        source: 32_768 + (number % 28_000) as u16,
        destination: to.port(),
        verification: 0,
        chunk: INIT,
        tag: 0x5246_0000 ^ number,
    };
    // Both listen before anything is sent.
    let there = raw_socket(server, to.ip())?;
    let source = caller.source.unwrap_or_else(|| unspecified(to.ip()));
    let here = raw_socket(&caller.netns, source)?;
    let deadline = Instant::now() + timeout;
    let outcome = thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&there, init, deadline));
        let asked = ask(&here, init, to.ip(), deadline);
        let answered = answering
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the answering side panicked")));
        answered.and(asked)
    });
    Ok(match outcome {
        Ok(true) => Outcome::Open,
        Ok(false) => Outcome::TimedOut,
        Err(error) => Outcome::of(&error),
    })
}

/// The standard library's type for datagrams serves for raw ones as well.
fn raw_socket(netns: &Path, at: IpAddr) -> Result<UdpSocket> {
    let at = SocketAddr::new(at, 0);
    let socket = exec_in_netns(netns, || {
        let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::SCTP))?;
        socket.bind(&SockAddr::from(at))?;
        Ok::<_, io::Error>(UdpSocket::from(socket))
    })?;
    socket.with_context(|| {
        format!(
            "open a raw socket at {} in {} (takes root)",
            at.ip(),
            netns.display()
        )
    })
}

/// Sends the INIT; whether its answer came in time.
fn ask(socket: &UdpSocket, init: Packet, to: IpAddr, deadline: Instant) -> io::Result<bool> {
    socket.send_to(&init.bytes(), SocketAddr::new(to, 0))?;
    Ok(receive(socket, init.answer(), deadline)?.is_some())
}

/// Answers the INIT if it comes in time.
fn answer(socket: &UdpSocket, init: Packet, deadline: Instant) -> io::Result<()> {
    match receive(socket, init, deadline)? {
        Some(from) => socket
            .send_to(&init.answer().bytes(), SocketAddr::new(from, 0))
            .map(drop),
        None => Ok(()),
    }
}

/// Waits for the packet; gives its sender. A raw socket hears all SCTP of its namespace.
fn receive(socket: &UdpSocket, wanted: Packet, deadline: Instant) -> io::Result<Option<IpAddr>> {
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let packet = &buffer[..length];
                // IPv4 raw sockets hand out the IP header as well, IPv6 ones do not.
                let packet = if from.is_ipv4() {
                    behind_ip_header(packet)
                } else {
                    packet
                };
                if Packet::read(packet) == Some(wanted) {
                    return Ok(Some(from.ip()));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

fn behind_ip_header(packet: &[u8]) -> &[u8] {
    let length = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    packet.get(length..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PACKET: Packet = Packet {
        source: 40_000,
        destination: 7000,
        verification: 0,
        chunk: INIT,
        tag: 0x0102_0304,
    };

    #[test]
    fn a_packet_reads_as_what_was_written() {
        let bytes = PACKET.bytes();
        assert_eq!(bytes.len(), HEADER + CHUNK);
        assert_eq!(Packet::read(&bytes), Some(PACKET));
        assert_eq!(Packet::read(&bytes[..HEADER]), None);
        let with_ip_header = [&[0x45][..], &[0; 19], &bytes].concat();
        assert_eq!(Packet::read(behind_ip_header(&with_ip_header)), Some(PACKET));
    }

    #[test]
    fn the_checksum_is_that_of_the_packet_without_one() {
        let mut bytes = PACKET.bytes();
        let sum = u32::from_le_bytes(bytes[8..HEADER].try_into().unwrap());
        bytes[8..HEADER].fill(0);
        assert_eq!(sum, crc32c::crc32c(&bytes));
    }

    #[test]
    fn an_answer_carries_the_tag_that_it_answers() {
        let answer = PACKET.answer();
        assert_eq!((answer.source, answer.destination), (7000, 40_000));
        assert_eq!((answer.verification, answer.chunk), (PACKET.tag, INIT_ACK));
    }
}
