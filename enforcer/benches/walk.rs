//! What a walk through the kernel's connections costs: time, processor and memory, with 200,000 of them. Needs root; the
//! table is that of a network namespace that ends with the benchmark.

#![allow(missing_docs)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../tests/kernel/revoke/entries.rs"]
mod entries;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use entries::{count, put, udp};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringfence_enforcer::conntrack::Judge;
use ringfence_enforcer::conntrack::socket::{Conntrack, Request};
use ringfence_enforcer::options::DEFAULT_REVOKED_MARK;
use ringfence_enforcer::revoke::PER_SECOND;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{
    Grant, Isolation, LocalPod, NodePolicies, ObjectKey, PeerSet, Peers, PortRange, Ports, Protocol,
};

const CONNECTIONS: u32 = 200_000;
/// Half of the connections are of the node's pods.
const PODS: u32 = 250;
const GRANTS: u32 = 20;
const PEERS: u32 = 100;

fn pod(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0af4_0000 + number % PODS)
}

fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a80_0000 + number)
}

/// 250 pods, all isolated alike; who reaches them does so by the last of the grants, or by none.
fn judge(allow: bool) -> Judge {
    let grants = (0..GRANTS).map(|grant| {
        let peers =
            (0..PEERS).map(|number| IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + grant * PEERS + number)));
        let mut members = PeerSet {
            addresses: peers.collect(),
            networks: Vec::new(),
        };
        if allow && grant == GRANTS - 1 {
            members.networks = vec!["10.128.0.0/9".parse().expect("a network")];
        }
        let port = PortRange {
            protocol: Protocol::Udp,
            first: 7002,
            last: 7002,
        };
        Grant {
            peers: Peers::Group {
                id: grant.to_string(),
                members: Arc::new(members),
            },
            ports: Ports::Only([port].into()),
        }
    });
    let isolation = Arc::new(Isolation {
        id: "all".to_owned(),
        policies: Vec::new(),
        grants: grants.collect(),
    });
    let pods = (0..PODS).map(|number| {
        let local = LocalPod {
            addresses: vec![pod(number).into()],
            ingress: Some(Arc::clone(&isolation)),
            egress: None,
        };
        (ObjectKey::new("default", number.to_string()), local)
    });
    Judge::new(NodePolicies { pods: pods.collect() }, Vec::new(), false)
}

/// This thread's processor time, in milliseconds, and the most memory of the process so far, in KiB.
fn usage() -> (i64, i64) {
    let of = |who| getrusage(who).expect("the kernel counts");
    let thread = of(UsageWho::RUSAGE_THREAD);
    let time = (thread.user_time() + thread.system_time()).num_milliseconds();
    (time, of(UsageWho::RUSAGE_SELF).max_rss())
}

fn walk(conntrack: &mut Conntrack, what: &str, judge: &Judge, only_revoked: bool, per_second: u32) {
    let request = Request {
        families: &Family::ALL,
        bit: DEFAULT_REVOKED_MARK,
        only_revoked,
        per_second,
    };
    let (started, (time, memory)) = (Instant::now(), usage());
    let walked = conntrack
        .walk(&request, |connection| judge.allows(connection))
        .expect("the kernel lists");
    let (took, (after, most)) = (started.elapsed(), usage());
    let processor = after - time;
    println!(
        "{what:<44} {:>8} seen {:>8} marked {:>8} unmarked {:>6} ms, {processor:>5} ms of a processor, {:>6} KiB more",
        walked.seen,
        walked.revoked,
        walked.restored,
        took.as_millis(),
        most - memory
    );
}

fn main() {
    // `cargo test --benches` only wants to know that it compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (takes root)");
    let mut conntrack = Conntrack::open().expect("the kernel tracks connections");
    let (open, closed) = (judge(true), judge(false));
    let fast = u32::MAX;
    walk(&mut conntrack, "an empty table", &open, false, fast);
    put((0..CONNECTIONS).map(|number| {
        let local = number.is_multiple_of(2);
        let to = if local {
            pod(number / 2)
        } else {
            Ipv4Addr::from_bits(0x0ac0_0000 + number)
        };
        udp(peer(number), 4000, to)
    }));
    assert_eq!(count(None), CONNECTIONS as usize);
    for _ in 0..3 {
        walk(
            &mut conntrack,
            "nothing to mark, as fast as can be",
            &open,
            false,
            fast,
        );
        walk(
            &mut conntrack,
            "nothing to mark, at the enforcer's rate",
            &open,
            false,
            PER_SECOND,
        );
        walk(
            &mut conntrack,
            "revoked ones only, and there are none",
            &open,
            true,
            fast,
        );
        walk(
            &mut conntrack,
            "half to be marked, at the enforcer's rate",
            &closed,
            false,
            PER_SECOND,
        );
        walk(
            &mut conntrack,
            "revoked ones only, all to be restored",
            &open,
            true,
            PER_SECOND,
        );
    }
}
