//! What pods send to their own node: free, unless the enforcer is told to police it.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::names::SetId;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::plan;
use ringfence_enforcer::rules;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{Flow, Node, Policy, Protocol, World, evaluate, resolve};

use super::net::{Lab, PORTS, serve};
use super::world::{NODE, block, policy, ports, rule, world};

/// The node's addresses towards a pod.
fn gateways(pod: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 244, pod, 1]),
        IpAddr::from([0xfd00, 0x244, 0, u16::from(pod), 0, 0, 0, 1]),
    ]
}

fn node_addresses() -> Vec<IpAddr> {
    (0..2).flat_map(gateways).collect()
}

/// Pod 0 may send nothing but what `egress` says; pod 1 is open.
fn closed(police: bool, egress: Policy) -> World {
    let mut world = world(2, vec![policy("deny-0", &[0], None, Some(vec![])), egress]);
    world.polices_own_node = police;
    world.insert_node(Node {
        name: NODE.to_owned(),
        addresses: node_addresses(),
    });
    world
}

fn ruleset(world: &World) -> Ruleset {
    let options = Options {
        police_own_node: world.polices_own_node,
        ..Options::default()
    };
    plan(&resolve(world, NODE), &node_addresses(), &Family::ALL, &options)
}

fn assert_packets_obey(lab: &Lab, world: &World, when: &str) {
    let to_node = (0..2).flat_map(|pod| {
        let pairs = Lab::addresses(pod).into_iter().zip(gateways(pod));
        pairs.flat_map(|(source, destination)| {
            PORTS.map(|(protocol, port)| Flow {
                source,
                destination,
                protocol,
                port,
            })
        })
    });
    for flow in to_node {
        let allowed = evaluate(world, &flow).allowed();
        assert!(
            lab.obeys(&flow, allowed),
            "{when}: {flow:?} should pass: {allowed}"
        );
    }
    // The kubelet's probes, whatever is policed.
    for address in Lab::addresses(0) {
        let to = SocketAddr::new(address, 80);
        let probe = || TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
        assert!(lab.router.inside(probe), "{when}: the node does not reach {to}");
    }
}

fn policed_only_when_told_in(variant: Variant) {
    let lab = Lab::new(2);
    serve(&lab.router);
    let (mut engine, _) = lab.router.engine(variant);
    let nothing = || policy("out-0", &[0], None, Some(vec![]));
    let web = || {
        let peers = vec![block("10.244.0.1/32", &[]), block("fd00:244::1/128", &[])];
        let rules = vec![rule(peers, vec![ports(Protocol::Tcp, 80, 80)])];
        policy("out-0", &[0], None, Some(rules))
    };
    for (police, egress, when) in [
        (false, nothing(), "not policed"),
        (true, nothing(), "policed"),
        (true, web(), "policed, with a rule for the node"),
        (false, nothing(), "not policed any more"),
    ] {
        let world = closed(police, egress);
        engine.sync(&ruleset(&world)).expect("the kernel takes the rules");
        assert_packets_obey(&lab, &world, when);
        let rules = lab.router.run(&[&format!("iptables-{variant}-save")]);
        let jump = format!("-A INPUT {}", rules::Rule::<SetId>::Enter);
        assert_eq!(rules.contains(&jump), police, "{when}:\n{rules}");
    }
}

#[test]
fn a_pods_own_node_is_policed_only_when_told_in_nft() {
    policed_only_when_told_in(Variant::Nft);
}

#[test]
fn a_pods_own_node_is_policed_only_when_told_in_legacy() {
    policed_only_when_told_in(Variant::Legacy);
}
