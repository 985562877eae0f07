//! The rules mean what the policies mean, also half way through a transaction: random worlds, no kernel.

mod bounds;
mod depth;
mod events;
mod gate;
mod small;
mod transactions;
mod watches;

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use ringfence_enforcer::diff::diff;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{DIRECTIONS, Planner, Stale};
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_enforcer::simulate::{allows, passes};
use ringfence_enforcer::state::{Phase, SetChange, State};
use ringfence_policy::{Compiled, Direction, Flow, Node, Pod, World, evaluate, resolve, testing};

const NODE: &str = "node-a";

/// Small limits, so that both the flattened form and rules of their own, and trees with several levels, of addresses and
/// of ports, occur.
fn options() -> impl Strategy<Value = Options> {
    let limits = (
        prop_oneof![0..20usize, Just(20_000)],
        1..4usize,
        0..4usize,
        any::<bool>(),
    );
    limits.prop_map(
        |(flat_entries, leaf_size, port_leaf, gate_unknown_pods)| Options {
            flat_entries,
            leaf_size,
            port_leaf,
            gate_unknown_pods,
            ..Options::default()
        },
    )
}

/// Half of the pods of a world run on the node under test, so that it has some.
fn world() -> impl Strategy<Value = World> {
    (testing::world(), any::<u16>()).prop_map(|(mut world, here)| {
        let node = world.nodes.pop_first().map(|(_, node)| Node {
            name: NODE.to_owned(),
            ..node
        });
        world.nodes.extend(node.map(|node| (NODE.to_owned(), node)));
        for (i, pod) in world.pods.values_mut().enumerate() {
            if here >> (i % 16) & 1 == 1 {
                pod.node = Some(NODE.to_owned());
            }
        }
        world
    })
}

/// What a world may have become in a moment: some objects as they were, some of another world.
fn next_world(world: World) -> impl Strategy<Value = (World, World)> {
    (self::world(), any::<u64>()).prop_map(move |(other, keep)| {
        let mut next = other.clone();
        let mut bits = (0..64).cycle().map(move |i| keep >> i & 1 == 1);
        let mut chosen = || bits.next().unwrap_or(false);
        for (key, pod) in &world.pods {
            if chosen() {
                next.pods.insert(key.clone(), pod.clone());
            }
        }
        for (key, policy) in &world.policies {
            if chosen() {
                next.policies.insert(key.clone(), policy.clone());
            }
        }
        if chosen() {
            next.namespaces.clone_from(&world.namespaces);
        }
        (world.clone(), next)
    })
}

fn flows(world: &World) -> impl Strategy<Value = Vec<Flow>> + use<> {
    proptest::collection::vec(testing::flow(world), 60)
}

fn ruleset(world: &World, options: &Options) -> Ruleset {
    ruleset_with(world, options, &ranges())
}

/// The rules of a node that gives its pods addresses of these ranges.
fn ruleset_with(world: &World, options: &Options, ranges: &[IpNet]) -> Ruleset {
    let node = world
        .nodes
        .get(NODE)
        .map(|node| node.addresses.clone())
        .unwrap_or_default();
    let options = Options {
        police_own_node: world.polices_own_node,
        ..options.clone()
    };
    let mut planner = Planner::new(&Family::ALL, &options);
    let compiled = Compiled::from(&resolve(world, NODE));
    planner.update(&compiled, &node, &Stale::everything());
    planner.update_gate(&compiled, &node, ranges);
    planner.ruleset().clone()
}

/// What the node gives its pods addresses of. Random pods have others, too, and pods of other nodes have some of these.
fn ranges() -> [IpNet; 2] {
    ["10.244.0.0/23", "fd24::/31"].map(|range| range.parse().expect("a range"))
}

/// The same ranges before and after, mostly; or some of them.
fn ranges_of_two() -> impl Strategy<Value = (Vec<IpNet>, Vec<IpNet>)> {
    let all = ranges().to_vec();
    let some = proptest::sample::subsequence(all.clone(), 0..=all.len());
    prop_oneof![
        3 => Just((all.clone(), all)),
        1 => (some.clone(), some),
    ]
}

/// The state after all phases, as the kernel would make it.
fn committed(mut state: State, ruleset: &Ruleset) -> State {
    for phase in diff(&state, ruleset).expect("a transaction").phases {
        take(&mut state, &phase);
    }
    state
}

/// Makes the change, as a kernel that takes nothing that leads nowhere.
fn take(state: &mut State, phase: &Phase) {
    state.apply(phase).expect("the kernel takes the phase");
    assert_eq!(state.fault(), None, "after {phase:?}");
}

fn local(world: &World, address: IpAddr) -> Option<&Pod> {
    world
        .pod_at(address)
        .filter(|pod| pod.node.as_deref() == Some(NODE))
}

/// What this node alone has to say about a flow in one direction.
fn verdict(world: &World, flow: &Flow, direction: Direction) -> bool {
    let verdict = evaluate(world, flow);
    match direction {
        Direction::Egress => local(world, flow.source).is_none() || verdict.egress.allowed(),
        Direction::Ingress => local(world, flow.destination).is_none() || verdict.ingress.allowed(),
    }
}

/// As [`verdict`], where unknown pods may be held back: addresses of the node's ranges that none of its pods has.
fn gated_verdict(
    world: &World,
    options: &Options,
    ranges: &[IpNet],
    flow: &Flow,
    direction: Direction,
) -> bool {
    let own = match direction {
        Direction::Egress => flow.source,
        Direction::Ingress => flow.destination,
    };
    let unknown = ranges.iter().any(|range| range.contains(&own)) && local(world, own).is_none();
    let node = world.nodes.get(NODE);
    let to_node = node.is_some_and(|node| node.addresses.contains(&flow.destination));
    let meets_rules = !to_node || world.polices_own_node;
    let from_node = node.is_some_and(|node| node.addresses.contains(&flow.source));
    let free = direction == Direction::Ingress && from_node;
    let held_back = options.gate_unknown_pods && unknown && meets_rules && !free;
    !held_back && verdict(world, flow, direction)
}

fn same_family(flow: &Flow) -> bool {
    flow.source.is_ipv4() == flow.destination.is_ipv4()
}

/// Every state between two phases, and between the lines of an `ipset restore`.
fn moments(state: &State, phases: &[Phase]) -> Vec<State> {
    let mut state = state.clone();
    let mut moments = Vec::new();
    for phase in phases {
        let steps = match phase {
            Phase::Sets(changes) => changes
                .iter()
                .flat_map(halves)
                .map(|change| Phase::Sets(vec![change]))
                .collect(),
            Phase::Chains(..) => vec![phase.clone()],
        };
        for step in steps {
            take(&mut state, &step);
            moments.push(state.clone());
        }
    }
    moments
}

fn halves(change: &SetChange) -> Vec<SetChange> {
    match change {
        SetChange::Add(name, elements) if elements.len() > 1 => {
            let (first, second) = elements.split_at(elements.len() / 2);
            [first, second]
                .map(|part| SetChange::Add(name.clone(), part.to_vec()))
                .to_vec()
        }
        change => vec![change.clone()],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_local_rejects: 10_000_000, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_mean_what_the_policies_mean(
        (world, options, flows) in (world(), options())
            .prop_flat_map(|(world, options)| (Just(world.clone()), Just(options), flows(&world)))
    ) {
        let state = committed(State::default(), &ruleset(&world, &options));
        for flow in flows.iter().filter(|flow| same_family(flow)) {
            let verdict = DIRECTIONS.iter().all(|direction| gated_verdict(&world, &options, &ranges(), flow, *direction));
            prop_assert_eq!(passes(&state, flow), Ok(verdict), "{:?}", flow);
        }
    }

    /// Judged for each direction by itself: the two checks of a flow belong to two pods, which may as well live on two
    /// nodes, and no order of writing makes two nodes switch at once.
    #[test]
    fn no_moment_of_a_transaction_is_more_open_or_more_closed_than_before_and_after(
        ((old, new), options, flows) in (world().prop_flat_map(next_world), options())
            .prop_flat_map(|(worlds, options)| {
                let flows = (flows(&worlds.0), flows(&worlds.1));
                (Just(worlds), Just(options), flows.prop_map(|(a, b)| [a, b].concat()))
            }),
        (from, to) in ranges_of_two(),
        restarts in proptest::bool::weighted(0.1)
    ) {
        // A gate comes and goes with the program's settings only.
        let was_options = Options { gate_unknown_pods: options.gate_unknown_pods != restarts, ..options.clone() };
        let mut new = new;
        if options.gate_unknown_pods || restarts {
            // A pod that goes in the very transaction that ends the policing of its node is unknown before it is free to
            // reach it: nobody is left to notice.
            new.polices_own_node = old.polices_own_node;
        }
        let before = committed(State::default(), &ruleset_with(&old, &was_options, &from));
        let wanted = ruleset_with(&new, &options, &to);
        let phases = diff(&before, &wanted).expect("a transaction").phases;
        let moments = moments(&before, &phases);
        let after = committed(before.clone(), &wanted);
        prop_assert_eq!(diff(&after, &wanted).expect("a transaction").phases, vec![]);
        let flows = flows.iter().filter(|flow| same_family(flow));
        for (flow, direction) in flows.flat_map(|flow| DIRECTIONS.map(|direction| (flow, direction))) {
            let (was, is) = (gated_verdict(&old, &was_options, &from, flow, direction), gated_verdict(&new, &options, &to, flow, direction));
            prop_assert_eq!(allows(&after, flow, direction), Ok(is), "{:?} {}", flow, direction);
            for moment in &moments {
                let allowed = allows(moment, flow, direction).expect("a sound state");
                prop_assert!(allowed || !(was && is), "closed for a moment: {:?} {}", flow, direction);
                prop_assert!(!allowed || was || is, "open for a moment: {:?} {}", flow, direction);
            }
        }
    }
}
