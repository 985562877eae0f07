//! The gate and the rules of pods change in one transaction: no pod is let through before its rules are what they become.

use ipnet::IpNet;
use ringfence_enforcer::diff::diff;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::simulate::passes;
use ringfence_enforcer::state::State;
use ringfence_policy::{Direction, Flow, Pod, Policy, Protocol, World};

use super::small::{pod, policy, small_world};
use super::{NODE, committed, gated_verdict, moments, ranges, ruleset_with};

fn gated() -> Options {
    Options {
        gate_unknown_pods: true,
        ..Options::default()
    }
}

fn flow(source: &str, destination: &str) -> Flow {
    Flow {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        protocol: Protocol::Tcp,
        port: 80,
    }
}

fn api(name: &str, address: &str) -> Pod {
    pod(name, &[("api", "")], NODE, address)
}

fn web(name: &str, address: &str) -> Pod {
    pod(name, &[("web", "")], "node-b", address)
}

fn policies() -> Vec<Policy> {
    vec![policy("api", "api", &["web"])]
}

/// Whether the flow passes before, in each moment between, and after.
fn passing(from: (&World, &[IpNet]), to: (&World, &[IpNet]), flow: &Flow) -> Vec<bool> {
    let options = gated();
    let rules = |(world, ranges): (&World, &[IpNet])| ruleset_with(world, &options, ranges);
    for (world, ranges) in [from, to] {
        let verdict = gated_verdict(world, &options, ranges, flow, Direction::Ingress);
        let state = committed(State::default(), &rules((world, ranges)));
        assert_eq!(passes(&state, flow), Ok(verdict), "{flow:?}");
    }
    let before = committed(State::default(), &rules(from));
    let phases = diff(&before, &rules(to)).expect("a transaction").phases;
    let mut states = vec![before.clone()];
    states.extend(moments(&before, &phases));
    states
        .iter()
        .map(|state| passes(state, flow).expect("a sound state"))
        .collect()
}

#[test]
fn a_pod_that_comes_as_a_peer_goes_never_meets_it() {
    let without = small_world(vec![api("old", "10.244.0.1"), web("web", "10.0.1.1")], policies());
    let with = small_world(
        vec![
            api("old", "10.244.0.1"),
            api("new", "10.244.0.2"),
            web("else", "10.0.1.2"),
        ],
        policies(),
    );
    let flow = flow("10.0.1.1", "10.244.0.2");
    for (from, to) in [(&without, &with), (&with, &without)] {
        let passing = passing((from, &ranges()), (to, &ranges()), &flow);
        assert!(!passing.contains(&true), "{passing:?}");
    }
}

#[test]
fn a_pod_that_comes_as_its_range_does_is_never_held_back() {
    let without = small_world(vec![web("web", "10.0.1.1")], policies());
    let with = small_world(vec![api("new", "10.244.0.2"), web("web", "10.0.1.1")], policies());
    let flow = flow("10.0.1.1", "10.244.0.2");
    let (none, ranges): (&[IpNet], &[IpNet]) = (&[], &ranges());
    for (from, to) in [
        ((&without, none), (&with, ranges)),
        ((&with, ranges), (&without, none)),
    ] {
        let passing = passing(from, to, &flow);
        assert!(!passing.contains(&false), "{passing:?}");
    }
}

#[test]
fn a_range_that_comes_or_goes_with_a_peer_opens_nothing_in_between() {
    let isolated = small_world(
        vec![
            api("old", "10.244.0.1"),
            api("here", "10.244.0.2"),
            web("else", "10.0.1.2"),
        ],
        policies(),
    );
    let unknown = small_world(vec![api("old", "10.244.0.1"), web("web", "10.0.1.1")], policies());
    let flow = flow("10.0.1.1", "10.244.0.2");
    let (none, ranges): (&[IpNet], &[IpNet]) = (&[], &ranges());
    for (from, to) in [
        ((&isolated, none), (&unknown, ranges)),
        ((&unknown, ranges), (&isolated, none)),
    ] {
        let passing = passing(from, to, &flow);
        assert!(!passing.contains(&true), "{passing:?}");
    }
}

/// A set that is replaced changes as the chains do, and not before or after the others.
#[test]
fn a_gate_that_is_replaced_opens_nothing_in_between() {
    let crowd = (0..1250).map(|i| {
        api(
            &format!("api-{i}"),
            &format!("10.244.{}.{}", 2 + i / 250, i % 250),
        )
    });
    let few = small_world(vec![api("old", "10.244.0.1"), web("web", "10.0.1.1")], policies());
    let pods = [
        api("old", "10.244.0.1"),
        api("new", "10.244.0.2"),
        web("else", "10.0.1.2"),
    ];
    let crowded = small_world(pods.into_iter().chain(crowd).collect(), policies());
    let flow = flow("10.0.1.1", "10.244.0.2");
    for (from, to) in [(&few, &crowded), (&crowded, &few)] {
        let passing = passing((from, &ranges()), (to, &ranges()), &flow);
        assert!(!passing.contains(&true), "{passing:?}");
    }
}
