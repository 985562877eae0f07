//! The rules mean what the policies mean, also half way through a transaction: random worlds, no kernel.

use std::net::IpAddr;

use proptest::prelude::*;
use ringfence_enforcer::diff::diff;
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::Kernel;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{DIRECTIONS, plan};
use ringfence_enforcer::render;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_enforcer::simulate::{allows, passes};
use ringfence_enforcer::state::{Glance, Phase, SetChange, State};
use ringfence_enforcer::{Error, Result};
use ringfence_policy::{
    Direction, Flow, IpBlock, Namespace, Node, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec,
    Protocol, Requirement, Rule, Selector, World, evaluate, resolve, testing,
};

const NODE: &str = "node-a";

/// Small limits, so that both the flattened form and rules of their own, and trees with several levels, occur.
fn options() -> impl Strategy<Value = Options> {
    (prop_oneof![0..20usize, Just(20_000)], 1..4usize).prop_map(|(flat_entries, leaf_size)| Options {
        flat_entries,
        leaf_size,
        ..Options::default()
    })
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
    let node = world
        .nodes
        .get(NODE)
        .map(|node| node.addresses.clone())
        .unwrap_or_default();
    let options = Options {
        police_own_node: world.polices_own_node,
        ..options.clone()
    };
    plan(&resolve(world, NODE), &node, &Family::ALL, &options)
}

/// The state after all phases, as the kernel would make it.
fn committed(mut state: State, ruleset: &Ruleset) -> State {
    for phase in diff(&state, ruleset).expect("a transaction").phases {
        state.apply(&phase).expect("the kernel takes the phase");
    }
    state
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
            state.apply(&step).expect("the kernel takes the step");
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
            let verdict = DIRECTIONS.iter().all(|direction| verdict(&world, flow, *direction));
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
            })
    ) {
        let before = committed(State::default(), &ruleset(&old, &options));
        let wanted = ruleset(&new, &options);
        let phases = diff(&before, &wanted).expect("a transaction").phases;
        let moments = moments(&before, &phases);
        let after = committed(before.clone(), &wanted);
        prop_assert_eq!(diff(&after, &wanted).expect("a transaction").phases, vec![]);
        let flows = flows.iter().filter(|flow| same_family(flow));
        for (flow, direction) in flows.flat_map(|flow| DIRECTIONS.map(|direction| (flow, direction))) {
            let (was, is) = (verdict(&old, flow, direction), verdict(&new, flow, direction));
            prop_assert_eq!(allows(&after, flow, direction), Ok(is), "{:?} {}", flow, direction);
            for moment in &moments {
                let allowed = allows(moment, flow, direction).expect("a sound state");
                prop_assert!(allowed || !(was && is), "closed for a moment: {:?} {}", flow, direction);
                prop_assert!(!allowed || was || is, "open for a moment: {:?} {}", flow, direction);
            }
        }
    }
}

fn pod(name: &str, labels: &[(&str, &str)], node: &str, address: &str) -> Pod {
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Pod {
        key: ObjectKey::new("default", name),
        uid: name.to_owned(),
        labels: labels.iter().map(label).collect(),
        node: Some(node.to_owned()),
        addresses: vec![address.parse().expect("an address")],
        host_network: false,
        finished: false,
        terminating: false,
        ports: vec![],
        service_account: "default".to_owned(),
    }
}

/// A policy for the pods with the label, that lets pods with the labels in, at TCP 80.
fn policy(name: &str, selects: &str, peers: &[&str]) -> Policy {
    let labelled = |key: &str| {
        Selector::new(vec![Requirement {
            key: key.to_owned(),
            operator: Operator::Exists,
        }])
    };
    let peer = |key: &&str| Peer::Pods {
        namespaces: None,
        pods: Some(labelled(key)),
    };
    Policy {
        key: ObjectKey::new("default", name),
        uid: name.to_owned(),
        pod_selector: labelled(selects),
        ingress: Some(vec![Rule {
            peers: Some(peers.iter().map(peer).collect()),
            ports: Some(vec![PortMatch {
                protocol: Protocol::Tcp,
                port: Some(PortSpec::Range(80, 80)),
            }]),
        }]),
        egress: None,
    }
}

fn small_world(pods: Vec<Pod>, policies: Vec<Policy>) -> World {
    let mut world = World::default();
    world.insert_namespace(Namespace {
        name: "default".to_owned(),
        labels: [].into(),
    });
    pods.into_iter().for_each(|pod| world.insert_pod(pod));
    policies
        .into_iter()
        .for_each(|policy| world.insert_policy(policy));
    world
}

#[test]
fn a_peer_that_comes_is_one_element_and_no_chain() {
    let api = pod("api", &[("api", "")], NODE, "10.0.0.1");
    let web = pod("web", &[("web", "")], "node-b", "10.0.1.1");
    let mut world = small_world(vec![api, web], vec![policy("api", "api", &["web"])]);
    let options = Options::default();
    let state = committed(State::default(), &ruleset(&world, &options));
    world.insert_pod(pod("web2", &[("web", "")], "node-b", "10.0.1.2"));
    let phases = diff(&state, &ruleset(&world, &options))
        .expect("a transaction")
        .phases;
    let [Phase::Sets(changes)] = phases.as_slice() else {
        panic!("{phases:?}")
    };
    let [SetChange::Add(_, elements)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(elements.len(), 1, "{elements:?}");
}

#[test]
fn a_pod_that_changes_policies_never_meets_the_new_peers_of_those_it_leaves() {
    let web = pod("web", &[("web", "")], "node-b", "10.0.1.1");
    let stays = pod("stays", &[("one", ""), ("two", "")], NODE, "10.0.0.1");
    let moves = |labels| pod("moves", labels, NODE, "10.0.0.2");
    let old = small_world(
        vec![web.clone(), stays.clone(), moves(&[("one", ""), ("two", "")])],
        vec![policy("one", "one", &["cron"]), policy("two", "two", &["cron"])],
    );
    let new = small_world(
        vec![web, stays, moves(&[("one", "")])],
        vec![policy("one", "one", &["cron"]), policy("two", "two", &["web"])],
    );
    let flow = Flow {
        source: "10.0.1.1".parse().expect("an address"),
        destination: "10.0.0.2".parse().expect("an address"),
        protocol: Protocol::Tcp,
        port: 80,
    };
    assert!(!verdict(&old, &flow, Direction::Ingress) && !verdict(&new, &flow, Direction::Ingress));
    let options = Options::default();
    for (from, to) in [(&old, &new), (&new, &old)] {
        let before = committed(State::default(), &ruleset(from, &options));
        let phases = diff(&before, &ruleset(to, &options))
            .expect("a transaction")
            .phases;
        for moment in moments(&before, &phases) {
            assert_eq!(passes(&moment, &flow), Ok(false), "{moment:#?}");
        }
    }
}

/// Reads like the tools' own manual; a change of it is a change of every node's firewall.
#[test]
fn the_scripts_of_a_small_world() {
    let api = pod("api", &[("api", "")], NODE, "10.0.0.1");
    let web = pod("web", &[("web", "")], "node-b", "10.0.1.1");
    let mut policy = policy("api", "api", &["web"]);
    let block = IpBlock {
        cidr: "0.0.0.0/0".parse().expect("a network"),
        except: vec!["10.0.0.0/8".parse().expect("a network")],
    };
    policy.egress = Some(vec![
        Rule {
            peers: Some(vec![Peer::Block(block)]),
            ports: None,
        },
        Rule {
            peers: None,
            ports: Some(vec![
                PortMatch {
                    protocol: Protocol::Udp,
                    port: Some(PortSpec::Range(53, 53)),
                },
                PortMatch {
                    protocol: Protocol::Tcp,
                    port: Some(PortSpec::Range(30000, 32767)),
                },
            ]),
        },
    ]);
    let world = small_world(vec![api, web], vec![policy]);
    let phases = diff(&State::default(), &ruleset(&world, &Options::default()))
        .expect("a transaction")
        .phases;
    let scripts = phases.iter().map(|phase| match phase {
        Phase::Sets(changes) => format!("# ipset restore\n{}", render::sets(changes)),
        Phase::Chains(family, change) => format!("# {family}\n{}", render::chains(change)),
    });
    insta::assert_snapshot!(scripts.collect::<Vec<_>>().join("\n"));
}

/// A kernel that refuses the write that is due after some, half way through it where half is possible.
struct Failing {
    state: State,
    after: Option<usize>,
}

impl Kernel for Failing {
    fn read(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn glance(&mut self) -> Result<Glance> {
        Ok(self.state.glance())
    }

    fn write(&mut self, phase: &Phase) -> Result<()> {
        match (self.after, phase) {
            (Some(0), Phase::Sets(changes)) => {
                let half = Phase::Sets(changes[..changes.len() / 2].to_vec());
                self.state.apply(&half).expect("the kernel takes the lines");
            }
            (Some(0), Phase::Chains(..)) => {}
            _ => {
                self.after = self.after.map(|writes| writes - 1);
                self.state.apply(phase).expect("the kernel takes the phase");
                return Ok(());
            }
        }
        self.after = None;
        Err(Error::LockHeld {
            tool: "iptables".to_owned(),
            seconds: 1,
        })
    }
}

#[test]
fn a_transaction_that_fails_half_way_is_finished_by_the_next() {
    let pods = || {
        vec![
            pod("api", &[("api", "")], NODE, "10.0.0.1"),
            pod("db", &[("db", "")], NODE, "10.0.0.2"),
            pod("web", &[("web", "")], "node-b", "10.0.1.1"),
        ]
    };
    let options = Options::default();
    let old = ruleset(
        &small_world(pods(), vec![policy("api", "api", &["web"])]),
        &options,
    );
    let new = ruleset(
        &small_world(pods(), vec![policy("db", "db", &["api", "web"])]),
        &options,
    );
    for after in 0..3 {
        let before = committed(State::default(), &old);
        let mut engine = Engine::new(Failing {
            state: before,
            after: Some(after),
        });
        assert_eq!(engine.sync(&old).expect("nothing to write").writes, 0);
        engine.sync(&new).expect_err("the kernel refuses");
        assert!(
            engine.sync(&new).expect("the kernel takes the rest").writes > 0,
            "after {after}"
        );
        assert_eq!(engine.sync(&new).expect("nothing to write").writes, 0);
        let held = engine.held().expect("the kernel was read");
        assert_eq!(
            diff(held, &new).expect("a transaction").phases,
            vec![],
            "after {after}"
        );
    }
}
