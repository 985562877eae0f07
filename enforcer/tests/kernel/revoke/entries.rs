//! Entries in the kernel's table of connections that no packet has made. The benchmark of the walk has them, too.

use std::net::Ipv4Addr;

use ringfence_enforcer::conntrack::wire;
use ringfence_enforcer::netlink::socket::Socket;
use ringfence_enforcer::netlink::{ACKNOWLEDGE, Incoming, REQUEST, attribute, message, nested};
use ringfence_enforcer::ruleset::Family;

/// "Make it, and it must not be there."
const NEW: u16 = 1 << 8;
const CREATE: u16 = 0x600;
/// How many are asked for at once.
const AT_ONCE: usize = 64;

/// A UDP connection from an address and port to another address, as ctnetlink writes it. It lives for ten minutes.
pub(crate) fn udp(source: Ipv4Addr, port: u16, destination: Ipv4Addr) -> Vec<u8> {
    let tuple = |kind, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
        let addresses = [attribute(1, &from.0.octets()), attribute(2, &to.0.octets())];
        let ports = [from.1, to.1].map(u16::to_be_bytes);
        let protocol = [
            attribute(1, &[17]),
            attribute(2, &ports[0]),
            attribute(3, &ports[1]),
        ];
        nested(kind, &[nested(1, &addresses), nested(2, &protocol)])
    };
    let (client, server) = ((source, port), (destination, 7002));
    let timeout = attribute(7, &600_u32.to_be_bytes());
    [tuple(1, client, server), tuple(2, server, client), timeout].concat()
}

/// Puts entries into the table of this thread's network namespace.
pub(crate) fn put(mut entries: impl Iterator<Item = Vec<u8>>) {
    let mut socket = Socket::open().expect("a netlink socket");
    loop {
        let some: Vec<_> = entries.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            return;
        }
        let mut requests = Vec::new();
        for entry in &some {
            let flags = REQUEST | ACKNOWLEDGE | CREATE;
            requests.extend(message(NEW, flags, socket.next_sequence(), 2, entry));
        }
        socket.send(&requests).expect("the kernel takes them");
        let mut answers = 0;
        while answers < some.len() {
            for answer in socket.receive().expect("the kernel answers") {
                let Incoming::Result { error, .. } = answer else {
                    continue;
                };
                assert_eq!(error, 0, "the kernel takes an entry");
                answers += 1;
            }
        }
    }
}

/// How many entries the table of this thread's network namespace has, or how many that have this bit in their mark.
pub(crate) fn count(marked: Option<u32>) -> usize {
    let mut socket = Socket::open().expect("a netlink socket");
    let request = wire::list(&Family::ALL, marked, socket.next_sequence());
    socket.send(&request).expect("the kernel takes it");
    let mut entries = 0;
    loop {
        for message in socket.receive().expect("the kernel lists") {
            match message {
                Incoming::Done { .. } => return entries,
                Incoming::Data { .. } => entries += 1,
                Incoming::Result { error, .. } => assert_eq!(error, 0, "the kernel lists"),
            }
        }
    }
}
