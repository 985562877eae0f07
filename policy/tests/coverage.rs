//! Who is covered, and what is open all the same.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::world;
use proptest::prelude::*;
use ringfence_policy::{
    Coverage, Direction, DirectionCoverage, DirectionVerdict, ObjectKey, Openness, Policy, World, coverage,
    evaluate, testing,
};

fn is_foreign(policy: &Policy) -> bool {
    policy.key.name != "p0"
}

fn read(policies: &[&str]) -> (World, Coverage) {
    let world = world(policies);
    let coverage = coverage(&world, is_foreign);
    (world, coverage)
}

/// How the api pod's ingress is covered.
fn api(policies: &[&str]) -> DirectionCoverage {
    read(policies).1.pods[&ObjectKey::new("shop", "api")]
        .ingress
        .clone()
}

#[test]
fn a_pod_without_policies_is_open_to_everything() {
    let api = api(&[]);
    assert!(
        !api.is_isolated()
            && api.is_open()
            && api.is_open_to_the_world()
            && api.is_open_to_other_namespaces()
    );
}

#[test]
fn a_default_deny_covers_its_direction_and_no_other() {
    let (_, coverage) = read(&["{podSelector: {}}"]);
    let pod = &coverage.pods[&ObjectKey::new("shop", "api")];
    assert_eq!(pod.ingress.isolated_by, [ObjectKey::new("shop", "p0")]);
    assert!(!pod.ingress.is_open() && !pod.ingress.is_open_to_the_world() && pod.egress.is_open());
    let open: Vec<String> = coverage
        .open(Direction::Ingress)
        .map(ToString::to_string)
        .collect();
    assert_eq!(open, ["other/web"]);
}

#[test]
fn an_allow_all_counts_as_open() {
    let api = api(&["{podSelector: {}, ingress: [{}]}"]);
    assert!(api.is_isolated() && api.is_open() && api.is_open_to_the_world());
}

#[test]
fn rules_that_together_leave_nobody_and_nothing_out_count_as_an_allow_all() {
    for rules in [
        "{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}",
        "{from: [{ipBlock: {cidr: 0.0.0.0/1}}]}, {from: [{podSelector: {}}, {ipBlock: {cidr: 128.0.0.0/1}}]}",
        "{ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP, port: 1, endPort: 65535}]}",
        "{ports: [{protocol: TCP}]}, {from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{protocol: UDP}, {protocol: SCTP}]}",
    ] {
        let api = api(&[&format!("{{podSelector: {{}}, ingress: [{rules}]}}")]);
        assert!(api.is_isolated() && api.is_open(), "{rules}");
    }
    for rules in [
        "{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.1/32]}}]}",
        "{from: [{ipBlock: {cidr: '::/0'}}]}",
        "{from: [{namespaceSelector: {}}]}",
        "{ports: [{protocol: TCP}, {protocol: UDP}]}",
        "{ports: [{protocol: TCP, port: 2, endPort: 65535}, {protocol: UDP}, {protocol: SCTP}]}",
    ] {
        let api = api(&[&format!("{{podSelector: {{}}, ingress: [{rules}]}}")]);
        assert!(!api.is_open(), "{rules}");
    }
}

#[test]
fn everyone_at_one_port_is_not_everything_and_still_the_world() {
    let api = api(&["{podSelector: {}, ingress: [{ports: [{port: 80}]}]}"]);
    assert!(!api.is_open() && api.is_open_to_the_world() && api.is_open_to_other_namespaces());
}

#[test]
fn the_internet_without_private_ranges_and_in_parts_is_the_world() {
    for blocks in [
        "{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]}}",
        "{ipBlock: {cidr: 0.0.0.0/1}}, {ipBlock: {cidr: 128.0.0.0/2}}",
        "{ipBlock: {cidr: '2000::/3'}}",
        "{ipBlock: {cidr: '::/0'}}",
    ] {
        let api = api(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{blocks}]}}]}}")]);
        assert!(api.is_open_to_the_world() && !api.is_open(), "{blocks}");
    }
    let office = api(&[
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: 'fd00::/8'}}]}]}",
    ]);
    assert!(!office.is_open_to_the_world());
    assert!(matches!(&office.openings[0].to, Openness::Networks(networks) if networks.len() == 2));
}

#[test]
fn other_namespaces_are_named_and_the_own_is_none_of_them() {
    let openings =
        |from: &str| api(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{from}]}}]}}")]).openings;
    assert_eq!(
        openings("{namespaceSelector: {}}")[0].to,
        Openness::Namespaces(vec!["other".to_owned()])
    );
    assert_eq!(openings("{namespaceSelector: {matchLabels: {team: shop}}}"), []);
    assert_eq!(openings("{podSelector: {}}"), []);
}

#[test]
fn a_foreign_policy_that_reopens_is_named() {
    let ours = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8000, endPort: 9000}]}]}";
    let foreign = |rules: &str| {
        let policy = format!("{{podSelector: {{matchLabels: {{app: api}}}}, ingress: {rules}}}");
        let (_, coverage) = read(&[ours, &policy]);
        coverage
            .reopening()
            .into_iter()
            .map(|(by, pods)| format!("{by} {pods:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(foreign("[]"), Vec::<String>::new());
    let narrower = "[{from: [{podSelector: {matchLabels: {app: web, tier: x}}}], ports: [{port: 8080}]}]";
    assert_eq!(foreign(narrower), Vec::<String>::new(), "nothing new");
    for wider in [
        "[{}]",
        "[{from: [{podSelector: {matchLabels: {app: web}}}]}]",
        "[{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 8080}]}]",
        "[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080, protocol: UDP}]}]",
        "[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}, {port: 9001}]}]",
        "[{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]",
    ] {
        assert_eq!(foreign(wider).len(), 1, "{wider}");
    }
}

#[test]
fn a_foreign_policy_alone_reopens_nothing() {
    let other = "{podSelector: {matchLabels: {app: none}}}";
    assert!(
        api(&[other, "{podSelector: {}, ingress: [{}]}"])
            .reopened
            .is_empty()
    );
}

#[test]
fn host_network_pods_are_listed_apart() {
    let mut world = world(&[]);
    world
        .pods
        .get_mut(&ObjectKey::new("shop", "web"))
        .unwrap()
        .host_network = true;
    let coverage = coverage(&world, is_foreign);
    assert_eq!(coverage.host_network, [ObjectKey::new("shop", "web")]);
    assert!(!coverage.pods.contains_key(&ObjectKey::new("shop", "web")));
}

proptest! {
    #![proptest_config(testing::cases(2_000, 50_000))]

    #[test]
    fn what_is_said_of_openness_and_reopening_is_true_of_flows((world, flows) in testing::world_and_flows(40)) {
        let is_foreign = |policy: &Policy| policy.key.name == "policy-0";
        let covered = coverage(&world, is_foreign);
        let mut ours = world.clone();
        ours.policies.retain(|_, policy| !is_foreign(policy));
        for flow in flows {
            let (with, without) = (evaluate(&world, &flow), evaluate(&ours, &flow));
            let sides = [
                (Direction::Ingress, flow.destination, with.ingress, without.ingress),
                (Direction::Egress, flow.source, with.egress, without.egress),
            ];
            for (direction, own, with, without) in sides {
                let Some(pod) = world.pod_at(own) else { continue };
                let said = covered.pods[&pod.key].direction(direction);
                if !matches!(with, DirectionVerdict::AlwaysAllowed) {
                    prop_assert_eq!(said.is_isolated(), with != DirectionVerdict::NotIsolated);
                }
                prop_assert!(!said.is_open() || with.allowed());
                if said.reopened.is_empty() {
                    prop_assert!(!with.allowed() || without.allowed(), "{:?}", flow);
                }
            }
        }
    }
}
