//! Packets meet what the policies say: every pair of pods, every served port, both families, both variants.

use ringfence_enforcer::kernel::Variant;
use ringfence_policy::{Flow, Policy, Protocol, World, evaluate};

use super::net::{Lab, PORTS};
use super::world::{block, peers, policy, ports, rule, ruleset, world};

const PODS: u8 = 4;

/// Policies with every kind of grant: a set of pairs, of networks, a range, everybody, both directions.
fn policies() -> Vec<Policy> {
    let tcp = |port| ports(Protocol::Tcp, port, port);
    vec![
        policy(
            "in-0",
            &[0],
            Some(vec![
                rule(vec![peers(&[1])], vec![tcp(80)]),
                rule(vec![peers(&[2])], vec![]),
            ]),
            None,
        ),
        policy(
            "more-0",
            &[0],
            Some(vec![rule(vec![], vec![ports(Protocol::Udp, 8000, 8999)])]),
            None,
        ),
        policy(
            "in-1",
            &[1],
            Some(vec![rule(
                vec![
                    block("10.244.0.0/16", &["10.244.2.0/24"]),
                    block("fd00:244::/32", &["fd00:244:0:2::/64"]),
                ],
                vec![ports(Protocol::Tcp, 8000, 8999), ports(Protocol::Udp, 53, 53)],
            )]),
            None,
        ),
        policy(
            "out-1",
            &[1],
            None,
            Some(vec![rule(vec![peers(&[0, 3])], vec![tcp(80)])]),
        ),
    ]
}

fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    for (from, to) in (0..PODS)
        .flat_map(|from| (0..PODS).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
    {
        for (source, destination) in Lab::addresses(from).into_iter().zip(Lab::addresses(to)) {
            flows.extend(PORTS.map(|(protocol, port)| Flow {
                source,
                destination,
                protocol,
                port,
            }));
        }
    }
    flows
}

/// Only pods 0 and 1 run on the node: between the others nothing is enforced here, and no policy selects them.
fn assert_packets_obey(lab: &Lab, world: &World, when: &str) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let check = |flow: Flow| {
            let allowed = evaluate(world, &flow).allowed();
            (!lab.obeys(&flow, allowed)).then(|| format!("{flow:?} should pass: {allowed}"))
        };
        let checks: Vec<_> = flows()
            .into_iter()
            .map(|flow| scope.spawn(move || check(flow)))
            .collect();
        checks
            .into_iter()
            .filter_map(|check| check.join().expect("the check ends"))
            .collect()
    });
    assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
}

fn packets_obey_in(variant: Variant) {
    let lab = Lab::new(PODS);
    let (mut engine, _) = lab.router.engine(variant);
    let open = world(PODS, vec![]);
    assert_packets_obey(&lab, &open, "before anything");
    let closed = world(PODS, policies());
    engine
        .sync(&ruleset(&closed))
        .expect("the kernel takes the rules");
    assert_packets_obey(&lab, &closed, "with policies");
    engine.sync(&ruleset(&open)).expect("the kernel takes the rules");
    assert_packets_obey(&lab, &open, "after the policies are gone");
}

#[test]
fn packets_obey_the_policies_in_nft() {
    packets_obey_in(Variant::Nft);
}

#[test]
fn packets_obey_the_policies_in_legacy() {
    packets_obey_in(Variant::Legacy);
}
