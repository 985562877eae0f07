//! The messages of nfnetlink_log, by which the kernel tells of logged packets.

use ringfence_policy::Direction;

use super::packet::{self, Refused, Verdict};
use crate::netlink::{ACKNOWLEDGE, Incoming, NETWORK_ORDER, REQUEST, attribute, find, message_to, string};
use crate::rules::text::log_prefix;

const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIGURE: u16 = SUBSYSTEM | 1;

// Attributes of a configuration.
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const TIMEOUT: u16 = 4;
const THRESHOLD: u16 = 5;

const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

// Attributes of a packet.
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// How much of a packet is wanted: headers, with options and extensions.
const ENOUGH: u32 = 128;
/// How long the kernel may keep messages back to send several at once, in hundredths of a second, and how many.
const WAIT: u32 = 10;
const AT_ONCE: u32 = 64;

/// The request to be told what is logged to a group.
pub(super) fn bind(group: u16, sequence: u32) -> Vec<u8> {
    let mode = [ENOUGH.to_be_bytes().as_slice(), &[COPY_PACKET, 0]].concat();
    let body = [
        attribute(COMMAND, &[BIND]),
        attribute(MODE, &mode),
        attribute(TIMEOUT | NETWORK_ORDER, &WAIT.to_be_bytes()),
        attribute(THRESHOLD | NETWORK_ORDER, &AT_ONCE.to_be_bytes()),
    ];
    let any_family = 0;
    message_to(
        CONFIGURE,
        REQUEST | ACKNOWLEDGE,
        sequence,
        (any_family, group),
        &body.concat(),
    )
}

/// The packet that a message tells of, if a policy dropped it.
pub(super) fn dropped(message: &Incoming<'_>) -> Option<Refused> {
    let Incoming::Data {
        kind: PACKET,
        attributes,
        ..
    } = message
    else {
        return None;
    };
    let prefix = string(attributes, PREFIX)?;
    let directions = [Direction::Egress, Direction::Ingress];
    let direction = directions
        .into_iter()
        .find(|direction| log_prefix(*direction) == prefix)?;
    let (source, destination, transport) = packet::read(find(attributes, PAYLOAD)?)?;
    Some(Refused {
        verdict: Verdict::Dropped,
        direction,
        source,
        destination,
        transport,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::{incoming, message, text};

    fn logged(prefix: &str) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0, 1, 0, 80]);
        let body = [text(PREFIX, prefix), attribute(PAYLOAD, &ip)].concat();
        message(PACKET, 0, 0, 2, &body)
    }

    #[test]
    fn the_prefix_says_whose_policies_dropped_it() {
        let bytes = logged("ringfence-egress");
        let packet = dropped(&incoming(&bytes)[0]).unwrap();
        assert_eq!(packet.direction, Direction::Egress);
        assert_eq!(packet.transport.to_string(), "TCP 80");
    }

    #[test]
    fn what_others_log_to_the_same_group_is_not_ours() {
        assert_eq!(dropped(&incoming(&logged("somebody: "))[0]), None);
    }
}
