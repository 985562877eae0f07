//! The messages of ctnetlink, the kernel's interface to its connections: bytes in, values out, and back.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ringfence_policy::Protocol;

use super::Connection;
use crate::netlink::{self, ACKNOWLEDGE, DUMP, Incoming, NESTED, REQUEST, attribute, find, message, number};
use crate::ruleset::Family;

/// The subsystem of connections, in the upper half of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;

/// What names a connection to the kernel: its family and the attributes of its original tuple, as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
}

/// The request for all connections of these families; with `marked`, for those only whose mark has that bit. The kernel
/// goes through its whole table whatever is asked for, so two families are one request.
pub fn list(families: &[Family], marked: Option<u32>, sequence: u32) -> Vec<u8> {
    let any = 0;
    let family = match families {
        [only] => only.number(),
        _ => any,
    };
    let bits = marked.map(|bit| bit.to_be_bytes());
    let filter = bits.map(|bits| [attribute(MARK, &bits), attribute(MARK_MASK, &bits)].concat());
    message(GET, REQUEST | DUMP, sequence, family, &filter.unwrap_or_default())
}

/// The request to set the bits of `mask` in a connection's mark to those of `mark`.
pub fn set_mark(name: &Name, mark: u32, mask: u32, sequence: u32) -> Vec<u8> {
    let mut body = attribute(TUPLE_ORIGINAL | NESTED, &name.original);
    if let Some(zone) = &name.zone {
        body.extend(attribute(ZONE, zone));
    }
    body.extend(attribute(MARK, &mark.to_be_bytes()));
    body.extend(attribute(MARK_MASK, &mask.to_be_bytes()));
    message(NEW, REQUEST | ACKNOWLEDGE, sequence, name.family, &body)
}

/// A connection as a message tells of it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What is judged.
    pub connection: Connection,
    family: u8,
    original: &'a [u8],
    zone: Option<&'a [u8]>,
}

impl Entry<'_> {
    /// A number by which it is told from others: the same whenever the kernel tells of it.
    pub fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.original, self.zone).hash(&mut hasher);
        hasher.finish()
    }

    /// What names it to the kernel.
    pub fn name(&self) -> Name {
        Name {
            family: self.family,
            original: self.original.to_vec(),
            zone: self.zone.map(<[u8]>::to_vec),
        }
    }
}

/// The connection that a message is about; `None` where it is about something else, or cannot be judged: not of two
/// addresses.
pub fn entry<'a>(message: &Incoming<'a>) -> Option<Entry<'a>> {
    let Incoming::Data {
        kind: NEW,
        family,
        attributes,
        ..
    } = message
    else {
        return None;
    };
    let original = find(attributes, TUPLE_ORIGINAL)?;
    // After destination NAT, whom the connection reached is who replies.
    let reply = find(attributes, TUPLE_REPLY)?;
    Some(Entry {
        connection: Connection {
            source: source(original)?,
            destination: source(reply)?,
            service: service(reply),
            protocol: protocol_number(reply)?,
            mark: number(attributes, MARK).unwrap_or(0),
        },
        family: *family,
        original,
        zone: find(attributes, ZONE),
    })
}

/// The source address of a tuple: the first attribute of the family's two.
fn source(tuple: &[u8]) -> Option<IpAddr> {
    let addresses = find(tuple, TUPLE_ADDRESSES)?;
    let v4 = find(addresses, 1)
        .and_then(|bytes| bytes.first_chunk::<4>())
        .map(|bytes| IpAddr::from(*bytes));
    v4.or_else(|| {
        find(addresses, 3)
            .and_then(|bytes| bytes.first_chunk::<16>())
            .map(|bytes| IpAddr::from(*bytes))
    })
}

/// The number of a tuple's protocol.
fn protocol_number(tuple: &[u8]) -> Option<u8> {
    find(find(tuple, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)?
        .first()
        .copied()
}

/// The protocol and source port of a tuple.
fn service(tuple: &[u8]) -> Option<(Protocol, u16)> {
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let number = netlink::protocol(protocol_number(tuple)?)?;
    Some((
        number,
        u16::from_be_bytes(*find(protocol, SOURCE_PORT)?.first_chunk()?),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::incoming;

    fn tuple(source: [u8; 4], destination: [u8; 4], protocol: u8, ports: [u16; 2]) -> Vec<u8> {
        let addresses = [attribute(1, &source), attribute(2, &destination)].concat();
        let ports = ports.map(u16::to_be_bytes);
        let protocol = [
            attribute(1, &[protocol]),
            attribute(2, &ports[0]),
            attribute(3, &ports[1]),
        ]
        .concat();
        [
            attribute(TUPLE_ADDRESSES | NESTED, &addresses),
            attribute(TUPLE_PROTOCOL | NESTED, &protocol),
        ]
        .concat()
    }

    /// A connection to a Service: its address and port are in the original tuple only.
    fn body() -> Vec<u8> {
        let original = tuple([10, 0, 0, 1], [10, 96, 0, 1], 6, [40000, 443]);
        let reply = tuple([10, 0, 0, 2], [10, 0, 0, 1], 6, [6443, 40000]);
        let attributes = [
            attribute(TUPLE_ORIGINAL | NESTED, &original),
            attribute(TUPLE_REPLY | NESTED, &reply),
            attribute(MARK, &0x4000_u32.to_be_bytes()),
        ];
        attributes.concat()
    }

    #[test]
    fn a_connection_is_judged_by_whom_it_reached_after_nat() {
        let bytes = message(NEW, 0, 1, 2, &body());
        let Entry { connection, .. } = entry(&incoming(&bytes)[0]).unwrap();
        assert_eq!(connection.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(connection.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(connection.service, Some((Protocol::Tcp, 6443)));
        assert_eq!(connection.mark, 0x4000);
    }

    #[test]
    fn a_request_names_the_connection_as_the_kernel_did() {
        let bytes = message(NEW, 0, 1, 2, &body());
        let name = entry(&incoming(&bytes)[0]).unwrap().name();
        let request = set_mark(&name, 0x20, 0x20, 7);
        let original = attribute(
            TUPLE_ORIGINAL | NESTED,
            &tuple([10, 0, 0, 1], [10, 96, 0, 1], 6, [40000, 443]),
        );
        let [Incoming::Data { attributes, .. }] = incoming(&request)[..] else {
            panic!("one request: {request:?}")
        };
        assert_eq!(attributes[..original.len()], original);
    }

    #[test]
    fn what_is_cut_off_or_strange_is_left_out_without_a_panic() {
        let whole = message(NEW, 0, 1, 2, &body());
        for length in 0..whole.len() {
            assert!(incoming(&whole[..length]).is_empty(), "{length}");
        }
        let no_tuple = message(NEW, 0, 1, 2, &attribute(MARK, &[0; 4]));
        assert!(entry(&incoming(&no_tuple)[0]).is_none());
    }
}
