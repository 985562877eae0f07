//! The messages of ipset, the kernel's interface to its sets: values in, bytes out, and back.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::SetName;
use crate::netlink;
use crate::netlink::{
    ACKNOWLEDGE, DUMP, NETWORK_ORDER, REQUEST, attribute, attributes, find, message, nested, number, string,
    text,
};
use crate::ruleset::{Element, Family, SetKind};
use crate::state::HeldSet;

/// The subsystem of sets, in the upper half of a message's type.
const SUBSYSTEM: u16 = 6 << 8;
const CREATE: u16 = SUBSYSTEM | 2;
const DESTROY: u16 = SUBSYSTEM | 3;
const LIST: u16 = SUBSYSTEM | 7;
const ADD: u16 = SUBSYSTEM | 9;
const DELETE: u16 = SUBSYSTEM | 10;
const TYPE: u16 = SUBSYSTEM | 13;

/// The version of the interface: what every kernel since 2.6.39 speaks.
const VERSION: u8 = 6;

// Attributes of a command.
const PROTOCOL: u16 = 1;
const NAME: u16 = 2;
const TYPE_NAME: u16 = 3;
const REVISION: u16 = 4;
const FAMILY: u16 = 5;
const FLAGS: u16 = 6;
const DATA: u16 = 7;
const ELEMENTS: u16 = 8;
const LINE: u16 = 9;

// Attributes of an element, and of a set.
const ADDRESS: u16 = 1;
const PREFIX: u16 = 3;
const PORT: u16 = 4;
const TIMEOUT: u16 = 6;
const PROTO: u16 = 7;
const EXTENSIONS: u16 = 8;
const BUCKETS: u16 = 18;
const CAPACITY: u16 = 19;
const COUNT: u16 = 24;

const ADDRESS_V4: u16 = 1;
const ADDRESS_V6: u16 = 2;

/// List headers only, with the number of elements.
const HEADERS_ONLY: u32 = 1 << 2;

/// The most elements in one message: it has to fit the socket's buffer, and an attribute is at most 64 KiB long.
pub(super) const ELEMENTS_AT_ONCE: usize = 500;

/// What is asked for the newest revision of a type, and the answer's revision.
pub(super) fn revision_of(kind: SetKind, family: Family, sequence: u32) -> Vec<u8> {
    let body = [
        attribute(PROTOCOL, &[VERSION]),
        text(TYPE_NAME, kind.ipset()),
        attribute(FAMILY, &[family.number()]),
    ];
    message(TYPE, REQUEST, sequence, 0, &body.concat())
}

/// The revision in the answer to [`revision_of`].
pub(super) fn revision(body: &[u8]) -> Option<u8> {
    find(body, REVISION)?.first().copied()
}

/// The request for a new set.
pub(super) fn create(
    name: &SetName,
    kind: SetKind,
    revision: u8,
    family: Family,
    (buckets, capacity): (u32, u32),
    sequence: u32,
) -> Vec<u8> {
    let sizes = [
        attribute(BUCKETS | NETWORK_ORDER, &buckets.to_be_bytes()),
        attribute(CAPACITY | NETWORK_ORDER, &capacity.to_be_bytes()),
    ];
    let body = [
        attribute(PROTOCOL, &[VERSION]),
        text(NAME, name.as_str()),
        text(TYPE_NAME, kind.ipset()),
        attribute(REVISION, &[revision]),
        attribute(FAMILY, &[family.number()]),
        nested(DATA, &sizes),
    ];
    message(CREATE, REQUEST | ACKNOWLEDGE, sequence, 0, &body.concat())
}

/// The request to destroy a set.
pub(super) fn destroy(name: &SetName, sequence: u32) -> Vec<u8> {
    let body = [attribute(PROTOCOL, &[VERSION]), text(NAME, name.as_str())];
    message(DESTROY, REQUEST | ACKNOWLEDGE, sequence, 0, &body.concat())
}

/// The request to add these elements, or to delete them; what is there already, or gone already, is no error. At most
/// [`ELEMENTS_AT_ONCE`].
pub(super) fn change(name: &SetName, add: bool, elements: &[Element], sequence: u32) -> Vec<u8> {
    let elements: Vec<Vec<u8>> = elements
        .iter()
        .map(|element| nested(DATA, &fields(element)))
        .collect();
    let body = [
        attribute(PROTOCOL, &[VERSION]),
        text(NAME, name.as_str()),
        // Elements in one container have to have the number of a line, which would be named in an error.
        attribute(LINE | NETWORK_ORDER, &[0; 4]),
        nested(ELEMENTS, &elements),
    ];
    let command = if add { ADD } else { DELETE };
    message(command, REQUEST | ACKNOWLEDGE, sequence, 0, &body.concat())
}

fn fields(element: &Element) -> Vec<Vec<u8>> {
    let net = element.net;
    let address = match net.addr() {
        IpAddr::V4(v4) => attribute(ADDRESS_V4 | NETWORK_ORDER, &v4.octets()),
        IpAddr::V6(v6) => attribute(ADDRESS_V6 | NETWORK_ORDER, &v6.octets()),
    };
    let mut fields = vec![nested(ADDRESS, &[address])];
    if net.prefix_len() < net.max_prefix_len() {
        fields.push(attribute(PREFIX, &[net.prefix_len()]));
    }
    if let Some((protocol, port)) = element.port {
        fields.push(attribute(PORT | NETWORK_ORDER, &port.to_be_bytes()));
        fields.push(attribute(PROTO, &[netlink::protocol_number(protocol)]));
    }
    fields.push(attribute(LINE | NETWORK_ORDER, &[0; 4]));
    fields
}

/// The request for all sets, or for their headers only.
pub(super) fn list(headers_only: bool, sequence: u32) -> Vec<u8> {
    let flags = if headers_only { HEADERS_ONLY } else { 0 };
    let body = [
        attribute(PROTOCOL, &[VERSION]),
        attribute(FLAGS | NETWORK_ORDER, &flags.to_be_bytes()),
    ];
    message(LIST, REQUEST | DUMP, sequence, 0, &body.concat())
}

/// A part of a listed set. A large set comes in several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    /// The set without elements, where this part has its header.
    pub(super) header: Option<HeldSet>,
    /// How many elements it has, where the header says.
    pub(super) count: Option<usize>,
    /// Its elements in this part; `None` stands for one of another form than we ever write.
    pub(super) elements: Vec<Option<Element>>,
}

/// The set in a part of a list.
pub(super) fn listed(body: &[u8]) -> Option<Listed> {
    let data = find(body, DATA);
    let family = find(body, FAMILY).and_then(|family| family.first()).copied();
    let header = string(body, TYPE_NAME).map(|kind| {
        let extended = data.is_some_and(|data| find(data, TIMEOUT).is_some() || extensions(data) != 0);
        HeldSet {
            // Extensions change what an element means; none of ours has any.
            kind: SetKind::ALL
                .into_iter()
                .find(|known| !extended && known.ipset() == kind),
            family: Family::ALL
                .into_iter()
                .find(|known| Some(known.number()) == family),
            capacity: data.and_then(|data| number(data, CAPACITY)).unwrap_or(0) as usize,
            members: std::sync::Arc::default(),
        }
    });
    let elements = find(body, ELEMENTS).into_iter().flat_map(attributes);
    Some(Listed {
        name: string(body, NAME)?.to_owned(),
        header,
        count: data
            .and_then(|data| number(data, COUNT))
            .map(|count| count as usize),
        elements: elements.map(|(_, fields)| element(fields)).collect(),
    })
}

/// Timeouts, counters, comments and the like: nothing that we ask for.
fn extensions(fields: &[u8]) -> u32 {
    number(fields, EXTENSIONS).unwrap_or(0)
}

fn element(fields: &[u8]) -> Option<Element> {
    let address = find(fields, ADDRESS)?;
    let v4 = || {
        find(address, ADDRESS_V4)
            .and_then(|bytes| bytes.first_chunk::<4>())
            .map(|bytes| IpAddr::from(*bytes))
    };
    let v6 = || {
        find(address, ADDRESS_V6)
            .and_then(|bytes| bytes.first_chunk::<16>())
            .map(|bytes| IpAddr::from(*bytes))
    };
    let address = v4().or_else(v6)?;
    let net = match find(fields, PREFIX) {
        None => IpNet::from(address),
        Some(prefix) => IpNet::new(address, *prefix.first()?).ok()?,
    };
    // An element that takes addresses out of its set, for example.
    if extensions(fields) != 0 {
        return None;
    }
    let port = match (find(fields, PROTO), find(fields, PORT)) {
        (None, None) => None,
        (Some(protocol), Some(port)) => Some((
            netlink::protocol(*protocol.first()?)?,
            u16::from_be_bytes(*port.first_chunk()?),
        )),
        _ => return None,
    };
    Some(Element { net, port })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_element_of_every_form_is_read_as_it_is_written() {
        for text in [
            "10.0.0.1",
            "10.0.0.0/24",
            "fd00::1",
            "8000::/1",
            "10.0.0.1,udp:53",
            "fd00::/64,sctp:1",
            "10.0.0.2,tcp:0",
        ] {
            let element = crate::observe::element(text).unwrap();
            assert_eq!(
                super::element(&fields(&element).concat()),
                Some(element),
                "{text}"
            );
        }
    }

    #[test]
    fn what_an_extension_changes_is_no_element_of_ours() {
        let mut strange = fields(&crate::observe::element("10.0.0.0/24").unwrap());
        strange.push(attribute(EXTENSIONS | NETWORK_ORDER, &4_u32.to_be_bytes()));
        assert_eq!(element(&strange.concat()), None);
    }

    #[test]
    fn a_full_request_fits_the_socket_and_an_attribute() {
        let element = crate::observe::element("fd00::/64,sctp:1").unwrap();
        let name = SetName::parse("RINGF-6p-abcdefghijklmnopqrst.a").unwrap();
        let request = change(&name, true, &vec![element; ELEMENTS_AT_ONCE], 1);
        assert!(request.len() <= usize::from(u16::MAX), "{}", request.len());
    }
}
