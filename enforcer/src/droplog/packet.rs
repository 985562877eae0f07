//! What a policy acted on in a packet: addresses, protocol, destination port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_policy::{Direction, Protocol};

use crate::conntrack::Connection;

/// What becomes of what one direction's policies refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A packet was dropped.
    Dropped,
    /// A connection was ended: policies no longer allow it.
    Ended,
    /// Nothing: a connection began that AuditNetworkPolicies would drop.
    WouldDrop,
    /// Nothing: a connection goes on that AuditNetworkPolicies would end.
    WouldEnd,
}

impl Verdict {
    /// Whether it is of policies on trial: nothing became of what it is about.
    pub fn is_on_trial(self) -> bool {
        matches!(self, Self::WouldDrop | Self::WouldEnd)
    }

    /// Its name in lines and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Ended => "ended",
            Self::WouldDrop => "would-drop",
            Self::WouldEnd => "would-end",
        }
    }
}

/// What one direction's policies refuse: a packet that was dropped, or a connection that would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Whose policies: egress is the source's, ingress the destination's.
    pub direction: Direction,
    /// Who sent it, before source NAT.
    pub source: IpAddr,
    /// To whom, after destination NAT.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
}

impl Refused {
    /// What policies of this direction say of a connection.
    pub fn of(connection: &Connection, direction: Direction, verdict: Verdict) -> Self {
        Self {
            verdict,
            direction,
            source: connection.source,
            destination: connection.destination,
            transport: Transport::of(connection.service, connection.protocol),
        }
    }
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP to this port.
    Tcp(u16),
    /// UDP to this port.
    Udp(u16),
    /// SCTP to this port.
    Sctp(u16),
    /// A control message.
    Icmp,
    /// Another protocol, by its number; also a fragment that is not the first.
    Other(u8),
}

impl Transport {
    /// What a connection carries: a protocol and port that policies speak of, or another protocol.
    pub fn of(service: Option<(Protocol, u16)>, number: u8) -> Self {
        match service {
            Some((Protocol::Tcp, port)) => Self::Tcp(port),
            Some((Protocol::Udp, port)) => Self::Udp(port),
            Some((Protocol::Sctp, port)) => Self::Sctp(port),
            None if matches!(number, 1 | 58) => Self::Icmp,
            None => Self::Other(number),
        }
    }

    /// Its name, as Kubernetes and people have it.
    pub fn protocol(self) -> String {
        match self {
            Self::Tcp(_) => "TCP".to_owned(),
            Self::Udp(_) => "UDP".to_owned(),
            Self::Sctp(_) => "SCTP".to_owned(),
            Self::Icmp => "ICMP".to_owned(),
            Self::Other(number) => number.to_string(),
        }
    }

    /// The destination port, where there is one.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Tcp(port) | Self::Udp(port) | Self::Sctp(port) => Some(port),
            Self::Icmp | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port() {
            Some(port) => write!(f, "{} {port}", self.protocol()),
            None => f.write_str(&self.protocol()),
        }
    }
}

/// What is in the first bytes of an IP packet: source, destination, and what it carries. `None` is no IP packet.
pub fn read(bytes: &[u8]) -> Option<(IpAddr, IpAddr, Transport)> {
    match bytes.first()? >> 4 {
        4 => read_v4(bytes),
        6 => read_v6(bytes),
        _ => None,
    }
}

fn read_v4(bytes: &[u8]) -> Option<(IpAddr, IpAddr, Transport)> {
    let address = |at: usize| {
        let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    let length = usize::from(bytes.first()? & 0xf) * 4;
    let fragment = u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?) & 0x1fff;
    let protocol = *bytes.get(9)?;
    let carried = if fragment == 0 {
        transport(protocol, bytes.get(length..).unwrap_or_default())
    } else {
        Transport::Other(protocol)
    };
    Some((address(12)?, address(16)?, carried))
}

fn read_v6(bytes: &[u8]) -> Option<(IpAddr, IpAddr, Transport)> {
    let address = |at: usize| {
        let octets: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    let (source, destination) = (address(8)?, address(24)?);
    let (mut next, mut rest) = (*bytes.get(6)?, bytes.get(40..).unwrap_or_default());
    // Hop-by-hop options, routing and destination options say what follows and how long they are; a fragment header
    // does so too, and has ports behind it in the first fragment only.
    while let 0 | 43 | 44 | 60 = next {
        let Some([following, length, ..]) = rest.first_chunk::<8>() else {
            break;
        };
        let fragment = next == 44;
        let offset = u16::from_be_bytes([rest[2], rest[3]]) >> 3;
        if fragment && offset != 0 {
            return Some((source, destination, Transport::Other(*following)));
        }
        let length = if fragment {
            8
        } else {
            (usize::from(*length) + 1) * 8
        };
        next = *following;
        rest = rest.get(length..).unwrap_or_default();
    }
    Some((source, destination, transport(next, rest)))
}

fn transport(protocol: u8, payload: &[u8]) -> Transport {
    let port = payload
        .get(2..)
        .and_then(|bytes| bytes.first_chunk())
        .map(|bytes| u16::from_be_bytes(*bytes));
    match (protocol, port) {
        (6, Some(port)) => Transport::Tcp(port),
        (17, Some(port)) => Transport::Udp(port),
        (132, Some(port)) => Transport::Sctp(port),
        (1 | 58, _) => Transport::Icmp,
        _ => Transport::Other(protocol),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, fragment: u16, options: usize) -> Vec<u8> {
        let words = 5 + u8::try_from(options).unwrap();
        let mut bytes = vec![0x40 | words, 0, 0, 40, 0, 0];
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(vec![0; options * 4]);
        bytes.extend([0x9c, 0x40, 0x1f, 0x90]);
        bytes
    }

    fn v6(headers: &[u8], first: u8) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, first, 64];
        bytes.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(headers);
        bytes.extend([0x9c, 0x40, 0, 53]);
        bytes
    }

    fn carried(bytes: &[u8]) -> Transport {
        read(bytes).unwrap().2
    }

    #[test]
    fn addresses_and_the_destinations_port_are_read() {
        let (source, destination, transport) = read(&v4(6, 0, 0)).unwrap();
        assert_eq!(
            (source.to_string(), destination.to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );
        assert_eq!(transport, Transport::Tcp(8080));
        assert_eq!(carried(&v4(17, 0, 2)), Transport::Udp(8080), "behind options");
        assert_eq!(carried(&v4(132, 0, 0)), Transport::Sctp(8080));
        assert_eq!(carried(&v4(1, 0, 0)), Transport::Icmp);
        assert_eq!(carried(&v4(47, 0, 0)), Transport::Other(47));
        assert_eq!(carried(&v6(&[], 17)), Transport::Udp(53));
        assert_eq!(
            carried(&v6(&[17, 0, 0, 0, 0, 0, 0, 0], 0)),
            Transport::Udp(53),
            "behind hop-by-hop options"
        );
        assert_eq!(
            carried(&v6(&[6, 0, 0, 1, 0, 0, 0, 1], 44)),
            Transport::Tcp(53),
            "the first fragment"
        );
        assert_eq!(carried(&v6(&[], 58)), Transport::Icmp);
    }

    #[test]
    fn a_later_fragment_has_no_port() {
        assert_eq!(carried(&v4(17, 185, 0)), Transport::Other(17));
        assert_eq!(
            carried(&v6(&[17, 0, 0x05, 0xc8, 0, 0, 0, 1], 44)),
            Transport::Other(17)
        );
    }

    #[test]
    fn a_packet_that_is_cut_off_behind_its_addresses_has_no_port() {
        assert_eq!(carried(&v4(6, 0, 0)[..22]), Transport::Other(6));
        assert_eq!(read(&v4(6, 0, 0)[..18]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            read(&bytes);
        }
    }
}
