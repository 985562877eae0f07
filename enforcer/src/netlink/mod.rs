//! The framing that all of the kernel's netfilter interfaces share: messages, and attributes inside them. Bytes in,
//! values out, and back; [`socket`] carries them.

pub mod socket;

use ringfence_policy::Protocol;

/// The length of a message's header, and of the netfilter header behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// The message asks for something.
pub const REQUEST: u16 = 0x1;
/// The kernel says how the request ended.
pub const ACKNOWLEDGE: u16 = 0x4;
/// The kernel lists everything.
pub const DUMP: u16 = 0x300;

/// How a request ended, as a message's type.
const ERROR: u16 = 2;
/// The end of a list.
const DONE: u16 = 3;
/// The list was not taken at one moment: what it is of changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// The bits of an attribute's type that are its number.
const TYPE_BITS: u16 = 0x3fff;
/// The attribute holds attributes.
pub const NESTED: u16 = 0x8000;
/// The attribute's value is in network byte order.
pub const NETWORK_ORDER: u16 = 0x4000;

/// Something the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Data: the subsystem and command, the family and the attributes.
    Data {
        /// The subsystem, then the command.
        kind: u16,
        /// The sequence number of the request that it answers.
        sequence: u32,
        /// The address family.
        family: u8,
        /// The attributes.
        attributes: &'a [u8],
        /// Whether the list it belongs to was not taken at one moment.
        interrupted: bool,
    },
    /// A list is complete; whether it was not taken at one moment.
    Done {
        /// The sequence number of the request that it answers.
        sequence: u32,
        /// Whether what it is of changed meanwhile.
        interrupted: bool,
    },
    /// How the request with this sequence number ended: 0, or an error number.
    Result {
        /// The request's sequence number.
        sequence: u32,
        /// 0, or an error number.
        error: i32,
    },
}

/// A message to a subsystem of netfilter. `kind` is the subsystem, then the command.
pub fn message(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[u8]) -> Vec<u8> {
    message_to(kind, flags, sequence, (family, 0), attributes)
}

/// A message about one resource of a subsystem, such as a group of logged packets.
pub fn message_to(
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    attributes: &[u8],
) -> Vec<u8> {
    let length = HEADER + GENERIC + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// An attribute with this number and value.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(padded(4 + value.len()));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(padded(4 + value.len()), 0);
    bytes
}

/// An attribute that holds a text, with the zero that ends it.
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// An attribute that holds attributes.
pub fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

/// Everything in what was received.
pub fn incoming(mut bytes: &[u8]) -> Vec<Incoming<'_>> {
    let mut messages = Vec::new();
    while let Some((header, body, rest)) = split(bytes) {
        let interrupted = header.flags & INTERRUPTED != 0;
        messages.extend(match header.kind {
            DONE => Some(Incoming::Done {
                sequence: header.sequence,
                interrupted,
            }),
            ERROR => body.first_chunk().map(|number| Incoming::Result {
                sequence: header.sequence,
                error: i32::from_ne_bytes(*number).saturating_neg(),
            }),
            kind => body.get(GENERIC..).map(|attributes| Incoming::Data {
                kind,
                sequence: header.sequence,
                family: body[0],
                attributes,
                interrupted,
            }),
        });
        bytes = rest;
    }
    messages
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// A message's header and body, and what follows it.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let header = Header {
        kind: u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
        flags: u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?),
        sequence: u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?),
    };
    let body = bytes.get(HEADER..length)?;
    Some((header, body, bytes.get(padded(length)..).unwrap_or_default()))
}

/// The attributes in these bytes, each with its number; ends where they are no attributes any more.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_BITS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the attribute with this number.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// The number in an attribute, in network byte order.
pub fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    find(bytes, wanted)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// The text in an attribute, without the zero that ends it.
pub fn string(bytes: &[u8], wanted: u16) -> Option<&str> {
    let text = find(bytes, wanted)?;
    std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()
}

/// The number of a protocol in IP packets, and to the kernel.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The protocol with this number, if policies speak of it.
pub fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol_number(*protocol) == number)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = [text(1, "name"), attribute(2, &[7])];
        let body = [nested(3, &inner), attribute(4, &9_u32.to_be_bytes())].concat();
        let bytes = [
            message(0x601, REQUEST, 5, 2, &body),
            message(DONE, INTERRUPTED, 5, 0, &[]),
        ]
        .concat();
        let messages = incoming(&bytes);
        let [
            Incoming::Data {
                kind: 0x601,
                sequence: 5,
                family: 2,
                attributes,
                interrupted: false,
            },
            Incoming::Done {
                sequence: 5,
                interrupted: true,
            },
        ] = messages.as_slice()
        else {
            panic!("{messages:?}")
        };
        let inside = find(attributes, 3).unwrap_or_default();
        assert_eq!(string(inside, 1), Some("name"));
        assert_eq!(find(inside, 2), Some([7].as_slice()));
        assert_eq!(number(attributes, 4), Some(9));
        assert_eq!(find(attributes, 5), None);
    }

    #[test]
    fn a_result_names_the_request_and_the_error() {
        let mut bytes = message(ERROR, 0, 8, 0, &[]);
        bytes[HEADER..].copy_from_slice(&(-17_i32).to_ne_bytes());
        let result = Incoming::Result {
            sequence: 8,
            error: 17,
        };
        assert_eq!(incoming(&bytes), [result]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in incoming(&bytes) {
                if let Incoming::Data { attributes, .. } = message {
                    find(attributes, 1);
                }
            }
        }
    }
}
