//! A table with 200,000 connections: what must end ends, nothing else is touched, and other changes do not wait.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringfence_enforcer::cluster::Update;
use ringfence_enforcer::conntrack::wire;
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::netlink::socket::Socket;
use ringfence_enforcer::netlink::{self, Incoming, attribute, nested};
use ringfence_enforcer::options::DEFAULT_REVOKED_MARK;
use ringfence_enforcer::ruleset::Family;

use super::super::net::Lab;
use super::{Scene, assert_over, assert_unharmed, lets_in, lets_out, tell, upsert};

/// Connections of others, that no policy of this node speaks of.
const OTHERS: u32 = 160_000;
/// Connections to pod 0 that are to be revoked, and that are not.
const FORBIDDEN: u32 = 20_000;
const ALLOWED: u32 = 20_000;

/// A UDP connection between two addresses, as ctnetlink writes it.
fn udp(source: IpAddr, port: u16, destination: IpAddr) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("the crowd speaks IPv4"),
    };
    let tuple = |kind, from: (IpAddr, u16), to: (IpAddr, u16)| {
        let addresses = nested(1, &[attribute(1, &octets(from.0)), attribute(2, &octets(to.0))]);
        let ports = [from.1, to.1].map(u16::to_be_bytes);
        let protocol = nested(
            2,
            &[
                attribute(1, &[17]),
                attribute(2, &ports[0]),
                attribute(3, &ports[1]),
            ],
        );
        nested(kind, &[addresses, protocol])
    };
    let (client, server) = ((source, port), (destination, 7002));
    let timeout = attribute(7, &600_u32.to_be_bytes());
    [tuple(1, client, server), tuple(2, server, client), timeout].concat()
}

/// Puts connections into the router's table.
fn fill(lab: &Lab, connections: impl Iterator<Item = Vec<u8>> + Send) {
    const NEW: u16 = 1 << 8;
    const CREATE: u16 = 0x600;
    let connections: Vec<_> = connections.collect();
    lab.router.inside(|| {
        let mut socket = Socket::open().expect("a netlink socket");
        for some in connections.chunks(64) {
            let mut requests = Vec::new();
            for body in some {
                let sequence = socket.next_sequence();
                let flags = netlink::REQUEST | netlink::ACKNOWLEDGE | CREATE;
                requests.extend(netlink::message(NEW, flags, sequence, 2, body));
            }
            socket.send(&requests).expect("the kernel takes them");
            let mut answers = 0;
            while answers < some.len() {
                for answer in socket.receive().expect("the kernel answers") {
                    let Incoming::Result { error, .. } = answer else {
                        continue;
                    };
                    assert_eq!(error, 0, "the kernel takes a connection");
                    answers += 1;
                }
            }
        }
    });
}

/// The connections in the router's table, or those of them that are revoked.
fn count(lab: &Lab, marked: Option<u32>) -> usize {
    lab.router.inside(|| {
        let mut socket = Socket::open().expect("a netlink socket");
        let sequence = socket.next_sequence();
        socket
            .send(&wire::list(&Family::ALL, marked, sequence))
            .expect("the kernel takes it");
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
    })
}

fn crowd() -> impl Iterator<Item = Vec<u8>> {
    let others = (0..OTHERS).map(|number| {
        let source = Ipv4Addr::from_bits(0x0a80_0000 + number).into();
        udp(
            source,
            4000,
            Ipv4Addr::from_bits(0x0ac0_0000 + number % 250).into(),
        )
    });
    let server = Lab::addresses(0)[0];
    let to_server = move |from: u8, number: u32| {
        let port = u16::try_from(number + 1024).expect("a port");
        udp(Lab::addresses(from)[0], port, server)
    };
    others
        .chain((0..FORBIDDEN).map(move |number| to_server(2, number)))
        .chain((0..ALLOWED).map(move |number| to_server(4, number)))
}

/// Processor time and the most memory of this process so far.
fn usage() -> (i64, i64) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
    let time = usage.user_time() + usage.system_time();
    (time.num_milliseconds(), usage.max_rss())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_connections_are_looked_at_and_only_the_forbidden_end() {
    let scene = Scene::new(Variant::Nft, 5, vec![lets_in(&[2, 4]), lets_out(&[])]).await;
    // Its other end is a pod of the laboratory, so these live; the crowd is only in the table.
    let (mut forbidden, allowed) = (scene.talks(2, 0), scene.talks(4, 0));
    tokio::task::block_in_place(|| fill(&scene.lab, crowd()));
    let whole = count(&scene.lab, None);
    assert!(whole >= 200_000, "{whole}");

    let (time, memory) = usage();
    let began = Instant::now();
    let before = scene.agent.counters.syncs.get();
    scene.agent.tell(upsert([lets_in(&[4])]));
    scene
        .agent
        .until("a sync", || scene.agent.counters.syncs.get() > before)
        .await;
    let tightened = began.elapsed();
    scene.agent.tell(upsert([lets_out(&[3])]));
    scene
        .agent
        .until("another", || scene.agent.counters.syncs.get() > before + 1)
        .await;
    let another = began.elapsed();
    let still_looking = scene.agent.counters.walk_due.get() == 1;
    scene
        .agent
        .until("a look at all", || scene.agent.counters.walk_due.get() == 0)
        .await;
    let looked = began.elapsed();
    let (time_after, memory_after) = usage();
    println!(
        "{whole} connections: rules after {tightened:?}, another change after {another:?} (while they were looked at: \
         {still_looking}), all looked at after {looked:?}; {} ms of processor time, {} KiB more memory",
        time_after - time,
        memory_after - memory
    );
    assert_over(&mut forbidden, "no policy allows these any more");
    assert_unharmed(&allowed, "the policies always allowed these");
    let expected = FORBIDDEN as usize + forbidden.len();
    assert_eq!(count(&scene.lab, Some(DEFAULT_REVOKED_MARK)), expected);
    assert_eq!(scene.agent.counters.revoked(), expected as u64, "each once");

    tell(&scene.agent, upsert([lets_in(&[2, 4])])).await;
    scene
        .agent
        .until("all restored", || {
            scene.agent.counters.restored() >= u64::from(FORBIDDEN)
        })
        .await;
    assert_unharmed(&allowed, "the policies always allowed these");
    let removed = Update::Remove(ringfence_enforcer::cluster::Kind::Policy, lets_out(&[]).key);
    tell(&scene.agent, [removed]).await;
    scene.agent.stop().await;
}
