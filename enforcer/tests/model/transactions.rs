//! Transactions between worlds made by hand: what they change, their text, and what happens when one fails.

use ringfence_enforcer::diff::diff;
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::Kernel;
use ringfence_enforcer::names;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::Planner;
use ringfence_enforcer::render;
use ringfence_enforcer::ruleset::{Family, Hook};
use ringfence_enforcer::simulate::passes;
use ringfence_enforcer::state::{Glance, Phase, SetChange, State};
use ringfence_enforcer::{Error, Result};
use ringfence_policy::{Direction, Flow, IpBlock, Peer, PortMatch, PortSpec, Protocol, Rule};

use super::small::{pod, policy, small_world};
use super::{NODE, committed, moments, ruleset, take, verdict};

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
fn the_comparison_with_the_mark_comes_and_goes_alone_and_is_no_tightening() {
    let mut planner = Planner::new(&Family::ALL, &Options::default());
    let mut state = committed(State::default(), planner.ruleset());
    for (revoked, expected) in [(false, [1, 0]), (true, [0, 1]), (false, [1, 0])] {
        planner.guard(revoked);
        let phases = diff(&state, planner.ruleset()).expect("a transaction").phases;
        assert_eq!(phases.len(), Family::ALL.len(), "{phases:?}");
        for phase in &phases {
            let Phase::Chains(_, change) = phase else {
                panic!("{phase:?}")
            };
            assert!(change.is_about_revoked(), "{change:?}");
            let jump = &change.jumps[&Hook::Forward];
            assert_eq!([jump.remove.len(), jump.insert.len()], expected, "{jump:?}");
            state.apply(phase).expect("the model takes it");
        }
        let left = diff(&state, planner.ruleset()).expect("a transaction").phases;
        assert_eq!(left, [], "the jumps are where they belong");
    }
    // Where somebody has put a rule above ours, they are put first again, and that tightens.
    let tables = state.families.get_mut(&Family::V4).expect("it is enforced");
    let jumps = tables.jumps.get_mut(&Hook::Forward).expect("it is there");
    jumps.iter_mut().for_each(|(place, _)| *place += 1);
    let phases = diff(&state, planner.ruleset()).expect("a transaction").phases;
    let [Phase::Chains(Family::V4, change)] = phases.as_slice() else {
        panic!("{phases:?}")
    };
    assert!(!change.is_about_revoked(), "{change:?}");
}

#[test]
fn a_peer_of_many_ranges_that_comes_is_one_element_of_a_set_and_no_chain() {
    let mut pods = vec![pod("api", &[("api", "")], NODE, "10.0.0.1")];
    let mut policies = Vec::new();
    for number in 0..30 {
        let name = format!("peer-{number}");
        pods.push(pod(&name, &[(&name, "")], "node-b", &format!("10.0.1.{number}")));
        let mut policy = policy(&name, "api", &[&name]);
        for rule in policy.ingress.iter_mut().flatten() {
            rule.ports = Some(vec![PortMatch {
                protocol: Protocol::Tcp,
                // The first ten overlap, so their peers are looked up together as well.
                port: Some(PortSpec::Range(
                    1_000 + 10 * number,
                    if number < 10 { 9_000 } else { 1_009 + 10 * number },
                )),
            }]);
        }
        policies.push(policy);
    }
    let mut world = small_world(pods, policies);
    let options = Options::default();
    let rules = ruleset(&world, &options);
    assert!(
        rules.families[&Family::V4]
            .chains
            .keys()
            .any(|chain| names::is_port_chain(chain))
    );
    let state = committed(State::default(), &rules);
    world.insert_pod(pod("more", &[("peer-3", "")], "node-b", "10.0.2.1"));
    let phases = diff(&state, &ruleset(&world, &options))
        .expect("a transaction")
        .phases;
    let [Phase::Sets(changes)] = phases.as_slice() else {
        panic!("{phases:?}")
    };
    assert!(changes.len() > 1, "{changes:?}");
    for change in changes {
        assert!(
            matches!(change, SetChange::Add(_, elements) if elements.len() == 1),
            "{change:?}"
        );
    }
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

/// The part of a pod's rules that finds the grants of a port: the root, the halves, and where two share a part.
#[test]
fn the_rules_of_many_ranges() {
    let mut pods = vec![pod("api", &[("api", "")], NODE, "10.0.0.1")];
    let mut policies = Vec::new();
    for (number, (first, last)) in [(1, 9), (10, 19), (20, 29), (30, 39), (40, 49), (35, 99)]
        .into_iter()
        .enumerate()
    {
        let name = format!("peer-{number}");
        pods.push(pod(&name, &[(&name, "")], "node-b", &format!("10.0.1.{number}")));
        let mut policy = policy(&name, "api", &[&name]);
        for rule in policy.ingress.iter_mut().flatten() {
            rule.ports = Some(vec![PortMatch {
                protocol: Protocol::Sctp,
                port: Some(PortSpec::Range(first, last)),
            }]);
        }
        policies.push(policy);
    }
    let options = Options {
        port_leaf: 1,
        ..Options::default()
    };
    let rules = ruleset(&small_world(pods, policies), &options);
    let pods_chains =
        |chain: &&String| chain.starts_with(&names::isolation_chain("")) || names::is_port_chain(chain);
    let tables = &rules.families[&Family::V4];
    let lines = tables
        .chains
        .iter()
        .filter(|(chain, _)| pods_chains(chain))
        .flat_map(|(chain, rules)| rules.iter().map(move |rule| format!("-A {chain} {rule}")));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
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
                take(&mut self.state, &half);
            }
            (Some(0), Phase::Chains(..)) => {}
            _ => {
                self.after = self.after.map(|writes| writes - 1);
                take(&mut self.state, phase);
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
