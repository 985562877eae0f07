//! What one event costs as a cluster grows: the same events in worlds of 1,000 to 50,000 pods, in turns, so that a machine
//! that is slower for a while is so for all of them. Prints medians, and the largest world's against the smallest's.
//!
//! A namespace has 100 pods and ten policies in all of the worlds, and the node the same 100 pods: what grows is the number
//! of pods, namespaces and policies that have nothing to do with the event.

#![allow(missing_docs)]

#[allow(dead_code, reason = "shared with the other benchmarks")]
mod big;

use std::time::{Duration, Instant};

use big::events::{gone_and_back, moved, relabelled, rewritten};
use big::{LIKE_OTHERS, SAME_NODE, alone, pod, world};
use ringfence_policy::{Event, ObjectKey, Resolver};

const PODS: [usize; 3] = [1_000, 10_000, 50_000];
/// Events of each kind in each world; the first tenth is not counted.
const ROUNDS: usize = 2_000;

/// A kind of event, and where the next one comes from.
type Source = (&'static str, Box<dyn FnMut() -> Event>);

/// The events of a world of so many pods, and a resolver that knows it.
fn prepare(pods: usize) -> (Resolver, Vec<Source>) {
    let namespaces = pods / 100;
    let world = world(pods, namespaces);
    let resolver = Resolver::from_world(SAME_NODE, &world);
    let local = pod(LIKE_OTHERS, namespaces, pods);
    let alone = pod(alone(namespaces), namespaces, pods);
    // The next of the namespace is on another node, and a peer of the same policies.
    let peer = pod(LIKE_OTHERS + namespaces, namespaces, pods);
    assert_eq!(resolver.compiled().pods.len(), 100);
    assert!([&local, &alone].map(|pod| pod.node.as_deref()) == [Some(SAME_NODE); 2]);
    assert!(peer.node != local.node && peer.key.namespace == local.key.namespace);
    let policy = &world.policies[&ObjectKey::new("ns-0", "policy-0")];
    let sources: Vec<Source> = vec![
        ("a peer elsewhere: its labels", Box::new(relabelled(&peer))),
        ("a peer elsewhere: gone, or back", Box::new(gone_and_back(&peer))),
        ("a pod of the node: its labels", Box::new(relabelled(&local))),
        (
            "a pod of the node: gone, or back",
            Box::new(gone_and_back(&local)),
        ),
        (
            "the only one of its kind: gone, or back",
            Box::new(gone_and_back(&alone)),
        ),
        ("a policy of the node's pods: a port", Box::new(rewritten(policy))),
        (
            "a namespace of 100 peers: its labels",
            Box::new(moved(&world.namespaces["ns-0"])),
        ),
    ];
    (resolver, sources)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn main() {
    let mut worlds: Vec<(Resolver, Vec<Source>)> = PODS.into_iter().map(prepare).collect();
    let kinds = worlds[0].1.len();
    println!(
        "{:40} {:>12} {:>12} {:>12} {:>8}",
        "one event about, in µs", "1,000 pods", "10,000 pods", "50,000 pods", "ratio"
    );
    for kind in 0..kinds {
        let mut times = vec![Vec::with_capacity(ROUNDS); PODS.len()];
        let mut effective = 0;
        for round in 0..ROUNDS {
            for (times, (resolver, sources)) in times.iter_mut().zip(&mut worlds) {
                let event = sources[kind].1();
                let started = Instant::now();
                let changes = resolver.apply(event);
                let took = started.elapsed();
                // Some labels are nobody's business; most are somebody's.
                effective += usize::from(!changes.is_empty());
                if round >= ROUNDS / 10 {
                    times.push(took);
                }
            }
        }
        assert!(effective * 3 > ROUNDS, "most events of a kind do nothing");
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        println!(
            "{:40} {:12.1} {:12.1} {:12.1} {:8.2}",
            worlds[0].1[kind].0,
            medians[0],
            medians[1],
            medians[2],
            medians[2] / medians[0]
        );
    }
}
