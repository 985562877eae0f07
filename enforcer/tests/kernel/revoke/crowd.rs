//! A table with 200,000 connections: what must end ends, nothing else is touched, and other changes do not wait.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringfence_enforcer::conntrack::Connection;
use ringfence_enforcer::conntrack::socket::{Conntrack, Request};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::options::DEFAULT_REVOKED_MARK;
use ringfence_enforcer::ruleset::Family;

use super::super::net::Lab;
use super::entries::{count, put, udp};
use super::{Scene, assert_over, assert_unharmed, lets_in, lets_out, tell, upsert};

/// Connections of others, that no policy of this node speaks of.
const OTHERS: u32 = 160_000;
/// Connections to pod 0 that are to be revoked, and that are not.
const FORBIDDEN: u32 = 20_000;
const ALLOWED: u32 = 20_000;

/// So many connections of others.
pub(crate) fn others(count: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| {
        let source = Ipv4Addr::from_bits(0x0a80_0000 + number);
        udp(source, 4000, Ipv4Addr::from_bits(0x0ac0_0000 + number % 250))
    })
}

fn crowd() -> impl Iterator<Item = Vec<u8>> {
    let address = |pod| match Lab::addresses(pod)[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("IPv4 is first"),
    };
    let to_server = move |from: u8, number: u32| {
        let port = u16::try_from(number + 1024).expect("a port");
        udp(address(from), port, address(0))
    };
    others(OTHERS)
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
    let router = &scene.lab.router;
    router.inside(|| put(crowd()));
    let whole = router.inside(|| count(None));
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
    assert_eq!(router.inside(|| count(Some(DEFAULT_REVOKED_MARK))), expected);
    assert_eq!(scene.agent.counters.revoked(), expected as u64, "each once");

    tell(&scene.agent, upsert([lets_in(&[2, 4])])).await;
    scene
        .agent
        .until("all restored", || {
            scene.agent.counters.restored() >= u64::from(FORBIDDEN)
        })
        .await;
    assert_unharmed(&allowed, "the policies always allowed these");
    scene.agent.stop().await;
}

/// Going through the whole table costs the same however few are marked, so nobody does who knows them.
#[test]
fn marks_of_few_connections_are_taken_away_without_a_look_at_all_the_others() {
    let address = |pod| match Lab::addresses(pod)[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("IPv4 is first"),
    };
    let walked = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        put((0..500).map(|number| udp(address(2), 1024 + number, address(0))));
        put((0..5).map(|number| udp(address(3), 1024 + number, address(0))));
        let mut conntrack = Conntrack::open().expect("the kernel tracks connections");
        let mut walk = |only_revoked, forbidden: &[Ipv4Addr]| {
            let request = Request {
                families: &Family::ALL,
                bit: DEFAULT_REVOKED_MARK,
                only_revoked,
                per_second: u32::MAX,
            };
            let allowed =
                |connection: &Connection| !forbidden.iter().any(|it| connection.source == IpAddr::V4(*it));
            let walked = conntrack.walk(&request, allowed).expect("the kernel lists");
            (walked, count(Some(DEFAULT_REVOKED_MARK)))
        };
        let (both, one) = ([address(2), address(3)], [address(3)]);
        // Nobody has looked yet: the kernel is asked, and finds none.
        let first = walk(true, &both);
        [
            first,
            walk(false, &one),
            walk(true, &one),
            walk(true, &[]),
            walk(false, &both),
            walk(true, &one),
        ]
    });
    let walked = walked.join().expect("a table of its own");
    let shown = walked.map(|(walked, marked)| {
        (
            walked.seen,
            walked.standing,
            walked.revoked,
            walked.restored,
            marked,
        )
    });
    assert_eq!(
        shown,
        [
            (0, 0, 0, 0, 0),
            (505, 5, 5, 0, 5),
            (5, 5, 0, 0, 5),
            (5, 0, 0, 5, 0),
            (505, 505, 505, 0, 505),
            (505, 5, 0, 500, 5),
        ]
    );
}
