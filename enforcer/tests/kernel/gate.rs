//! Addresses of the node's pod ranges that no pod is known to have: nothing passes, but what the node itself sends and gets.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ipnet::IpNet;
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{Planner, Stale};
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{Compiled, Flow, ObjectKey, Policy, World, resolve};

use super::net::{Lab, PORTS, serve};
use super::world::{NODE, policy, world};

/// Pods 0 and 1 have addresses of these; pod 2 is elsewhere.
fn ranges() -> [IpNet; 2] {
    ["10.244.0.0/23", "fd00:244::/63"].map(|range| range.parse().expect("a range"))
}

fn ruleset(world: &World) -> Ruleset {
    let options = Options {
        gate_unknown_pods: true,
        ..Options::default()
    };
    let node: Vec<IpAddr> = ["10.244.0.1", "10.244.1.1", "fd00:244::1", "fd00:244:0:1::1"]
        .map(|address| address.parse().expect("an address"))
        .to_vec();
    let compiled = Compiled::from(&resolve(world, NODE));
    let mut planner = Planner::new(&Family::ALL, &options);
    planner.update(&compiled, &node, &Stale::everything());
    planner.update_gate(&compiled, &node, &ranges());
    planner.ruleset().clone()
}

/// Without pod 1, as long as the API server has not told its address.
fn before(policies: Vec<Policy>) -> World {
    let mut world = world(3, policies);
    world.pods.remove(&ObjectKey::new("default", "pod-1"));
    world
}

fn assert_connected(lab: &Lab, passes: impl Fn(u8, u8) -> bool, when: &str) {
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
        for (source, destination) in Lab::addresses(from).into_iter().zip(Lab::addresses(to)) {
            for (protocol, port) in PORTS {
                let flow = Flow {
                    source,
                    destination,
                    protocol,
                    port,
                };
                let wanted = passes(from, to);
                assert!(lab.obeys(&flow, wanted), "{when}: {flow:?} should pass: {wanted}");
            }
        }
    }
}

/// The kubelet's probes, and what a pod asks of its node.
fn assert_node_and_pod_are_connected(lab: &Lab, when: &str) {
    let connect = |to: SocketAddr| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
    for (pod, gateway) in Lab::addresses(1)
        .into_iter()
        .zip(["10.244.1.1", "fd00:244:0:1::1"])
    {
        let to = SocketAddr::new(pod, 80);
        assert!(
            lab.router.inside(|| connect(to)),
            "{when}: the node does not reach {to}"
        );
        let to = SocketAddr::new(gateway.parse().expect("an address"), 80);
        assert!(
            lab.pod(1).inside(|| connect(to)),
            "{when}: the pod does not reach {to}"
        );
    }
}

fn held_back_until_known(variant: Variant) {
    let lab = Lab::new(3);
    serve(&lab.router);
    let (mut engine, writes) = lab.router.engine(variant);
    engine
        .sync(&ruleset(&before(vec![])))
        .expect("the kernel takes the rules");
    assert_connected(&lab, |from, to| from != 1 && to != 1, "before pod 1 is known");
    assert_node_and_pod_are_connected(&lab, "before pod 1 is known");

    let written = writes.total();
    engine
        .sync(&ruleset(&world(3, vec![])))
        .expect("the kernel takes the rules");
    assert_eq!(
        writes.total() - written,
        1,
        "a pod without policies is an element and no rule"
    );
    assert_connected(&lab, |_, _| true, "when pod 1 is known");
    assert_node_and_pod_are_connected(&lab, "when pod 1 is known");

    engine
        .sync(&ruleset(&before(vec![])))
        .expect("the kernel takes the rules");
    assert_connected(&lab, |from, to| from != 1 && to != 1, "after pod 1 is gone");

    let closed = || vec![policy("closed", &[1], Some(vec![]), None)];
    engine
        .sync(&ruleset(&world(3, closed())))
        .expect("the kernel takes the rules");
    assert_connected(&lab, |_, to| to != 1, "when pod 1 is known, and isolated");
}

#[test]
fn an_unknown_pod_is_held_back_until_it_is_known_in_nft() {
    held_back_until_known(Variant::Nft);
}

#[test]
fn an_unknown_pod_is_held_back_until_it_is_known_in_legacy() {
    held_back_until_known(Variant::Legacy);
}
