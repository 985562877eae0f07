//! What an explanation of a denial says, and that it is true.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{API, OTHER, OUTSIDE, WEB, flow, world};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule};
use proptest::prelude::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use ringfence_policy::{
    Direction, Explanation, Flow, IndexedWorld, NearMiss, Policy, Protocol, Remedy, World, evaluate, explain,
    testing,
};

/// How a denial of web or another client to the api pod's TCP 8080 is explained, where shop has these policies.
fn denial(policies: &[&str], from: &str) -> (World, NearMiss) {
    let world = world(policies);
    let explanation = explain(&world, &flow(from, API, Protocol::Tcp, 8080));
    let near = explanation.ingress.near_miss.expect("denied");
    (world, near)
}

fn said(rules: &str, from: &str) -> String {
    let (_, near) = denial(
        &[&format!(
            "{{podSelector: {{matchLabels: {{app: api}}}}, {rules}}}"
        )],
        from,
    );
    near.to_string()
}

#[test]
fn a_policy_without_rules_says_so() {
    assert_eq!(
        said("ingress: []", WEB),
        "NetworkPolicy shop/p0 spec.ingress: no rule at all"
    );
}

#[test]
fn a_pod_selector_names_the_requirement_and_the_label() {
    assert_eq!(
        said(
            "ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}, {podSelector: {matchLabels: {app: cart}}}]}]",
            WEB
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].from[1].podSelector: wants `app in (cart)`, and pod shop/web has app=web"
    );
    assert_eq!(
        said(
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]",
            WEB
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0].podSelector: wants `tier`, and pod shop/web has no label tier"
    );
}

#[test]
fn a_namespace_selector_names_the_requirement_and_the_label() {
    assert_eq!(
        said(
            "ingress: [{from: [{namespaceSelector: {matchLabels: {team: pay}}, podSelector: {matchLabels: {app: x}}}]}]",
            OTHER
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0].namespaceSelector: wants `team in (pay)`, and namespace other has \
         team=other; spec.ingress[0].from[0].podSelector: wants `app in (x)`, and pod other/web has app=web"
    );
}

#[test]
fn a_bare_pod_selector_does_not_reach_another_namespace() {
    assert_eq!(
        said(
            "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]",
            OTHER
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0].podSelector: stands for pods of the policy's own namespace, and \
         other/web is in another"
    );
}

#[test]
fn a_port_names_both_numbers() {
    assert_eq!(
        said("ingress: [{ports: [{port: 9090}]}]", WEB),
        "NetworkPolicy shop/p0 spec.ingress[0].ports[0].port: is 9090, and the flow goes to 8080"
    );
    assert_eq!(
        said("ingress: [{ports: [{port: 9090, endPort: 9099}]}]", WEB),
        "NetworkPolicy shop/p0 spec.ingress[0].ports[0].port: is 9090 to 9099, and the flow goes to 8080"
    );
}

#[test]
fn a_protocol_names_both() {
    assert_eq!(
        said(
            "ingress: [{ports: [{port: 9090}, {port: 8080, protocol: UDP}]}]",
            WEB
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].ports[1].protocol: is UDP, and the flow is TCP"
    );
}

#[test]
fn a_named_port_says_what_the_pod_declares() {
    assert_eq!(
        said("ingress: [{ports: [{port: nope}]}]", WEB),
        "NetworkPolicy shop/p0 spec.ingress[0].ports[0].port: is `nope`, and pod shop/api declares no TCP port of that name"
    );
    let world = world(&["{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"]);
    let near = |to, port| {
        explain(&world, &flow(WEB, to, Protocol::Tcp, port))
            .egress
            .near_miss
            .unwrap()
            .to_string()
    };
    assert_eq!(
        near(API, 80),
        "NetworkPolicy shop/p0 spec.egress[0].ports[0].port: is `http`, which pod shop/api declares as 8080, and the flow \
         goes to 80"
    );
    assert_eq!(
        near(OUTSIDE, 80),
        "NetworkPolicy shop/p0 spec.egress[0].ports[0].port: is `http`, which only a pod can declare, and no pod holds \
         203.0.113.7"
    );
}

#[test]
fn a_block_names_itself_or_its_exception() {
    assert_eq!(
        said("ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]", OUTSIDE),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0].ipBlock.cidr: 203.0.113.7 is not in 192.0.2.0/24"
    );
    assert_eq!(
        said(
            "ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/29]}}]}]",
            OUTSIDE
        ),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0].ipBlock.except: 203.0.113.7 is in the exception 203.0.113.0/29"
    );
}

#[test]
fn a_selector_never_stands_for_an_address_outside_the_cluster() {
    assert_eq!(
        said("ingress: [{from: [{namespaceSelector: {}}]}]", OUTSIDE),
        "NetworkPolicy shop/p0 spec.ingress[0].from[0]: stands for pods, and no pod holds 203.0.113.7"
    );
}

#[test]
fn one_wrong_field_is_nearer_than_two_and_any_rule_is_nearer_than_none() {
    let rules = "ingress: [{from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: 1}]}, \
                 {from: [{podSelector: {matchLabels: {app: x, tier: y}}}], ports: [{port: 8080}]}]";
    let (_, near) = denial(
        &["{podSelector: {}}", &format!("{{podSelector: {{}}, {rules}}}")],
        WEB,
    );
    assert_eq!(
        (near.policy.name.as_str(), near.rule, near.misses.len()),
        ("p1", Some(1), 1)
    );
}

#[test]
fn the_remedy_opens_for_that_client_and_port_and_for_nobody_else() {
    for rules in [
        "ingress: []",
        "ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]",
        "ingress: [{from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: 1}]}]",
    ] {
        let (world, near) = denial(
            &[&format!(
                "{{podSelector: {{matchLabels: {{app: api}}}}, {rules}}}"
            )],
            WEB,
        );
        let after = near.remedy.apply(&world);
        let allowed = |from| evaluate(&after, &flow(from, API, Protocol::Tcp, 8080)).allowed();
        assert_eq!(
            [WEB, OTHER, OUTSIDE].map(allowed),
            [true, false, false],
            "{}",
            near.remedy
        );
    }
}

#[test]
fn labels_and_declared_ports_can_change_instead() {
    let (_, near) = denial(
        &["{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}]}]}"],
        WEB,
    );
    assert_eq!(
        near.instead.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["label pod shop/web: app=cart"]
    );
    let (_, near) = denial(&["{podSelector: {}, ingress: [{ports: [{port: nope}]}]}"], WEB);
    assert_eq!(
        near.instead.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["declare port `nope` as TCP 8080 in pod shop/api"]
    );
    let name = "{matchLabels: {kubernetes.io/metadata.name: x}}";
    let (_, near) = denial(
        &[&format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {name}}}]}}]}}"
        )],
        WEB,
    );
    assert_eq!(near.instead, [], "a namespace cannot be renamed");
}

#[test]
fn what_a_remedy_prints_can_be_pasted_into_the_policy() {
    let (_, near) = denial(&["{podSelector: {matchLabels: {app: api}}}"], OTHER);
    let Remedy::AddRule { rule, .. } = &near.remedy else {
        panic!("{:?}", near.remedy);
    };
    let text = near.remedy.to_string();
    let (_, yaml) = text.split_once(": ").unwrap();
    let api_rule: NetworkPolicyIngressRule = serde_yaml_ng::from_str(yaml).unwrap();
    let mut policy = NetworkPolicy::default();
    policy.spec.get_or_insert_default().ingress = Some(vec![api_rule]);
    assert_eq!(
        Policy::from_api(&policy).unwrap().ingress.unwrap(),
        std::slice::from_ref(rule)
    );
}

#[test]
fn an_explanation_reads_as_a_text() {
    let world = world(&[
        "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
    ]);
    assert_eq!(
        explain(&world, &flow(WEB, API, Protocol::Tcp, 8080)).to_string(),
        "10.244.1.2 -> 10.244.1.3 TCP 8080: allowed\n  egress: pod shop/web is open, no policy isolates it for egress\n  \
         ingress: pod shop/api: allowed by NetworkPolicy shop/p0 spec.ingress[0].from[0]\n"
    );
    assert_eq!(
        explain(&world, &flow(OUTSIDE, API, Protocol::Tcp, 8080)).to_string(),
        "203.0.113.7 -> 10.244.1.3 TCP 8080: denied\n  egress: not a pod, no policy applies\n  ingress: pod shop/api is \
         isolated by shop/p0, and no rule allows the flow\n    nearest: NetworkPolicy shop/p0 spec.ingress[0].from[0]: \
         stands for pods, and no pod holds 203.0.113.7\n    remedy: add to spec.ingress[0].from of NetworkPolicy shop/p0: \
         {ipBlock: {cidr: \"203.0.113.7/32\"}}\n"
    );
}

fn direction_allowed(explanation: &Explanation, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => explanation.ingress.verdict.allowed(),
        Direction::Egress => explanation.egress.verdict.allowed(),
    }
}

/// The remedies of the near misses make a denied flow pass. Returns whether it was denied.
fn check_remedies(world: &World, flow: &Flow) -> bool {
    let explanation = explain(world, flow);
    let verdict = evaluate(world, flow);
    assert_eq!(explanation.verdict(), verdict);
    assert_eq!(explanation.near_misses().count() > 0, !verdict.allowed());
    let mut after = world.clone();
    for near in explanation.near_misses() {
        assert!(!near.misses.is_empty() && !direction_allowed(&explain(&after, flow), near.direction));
        after = near.remedy.apply(&after);
        assert!(
            direction_allowed(&explain(&after, flow), near.direction),
            "{explanation}"
        );
    }
    assert!(evaluate(&after, flow).allowed(), "{explanation}");
    !verdict.allowed()
}

#[test]
fn the_remedies_make_ten_thousand_denied_flows_pass() {
    let mut runner = TestRunner::default();
    let mut denied = 0;
    while denied < 10_000 {
        let (world, flows) = testing::world_and_flows(200)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        denied += flows.iter().filter(|flow| check_remedies(&world, flow)).count();
    }
}

proptest! {
    #![proptest_config(testing::cases(2_000, 50_000))]

    #[test]
    fn what_could_change_instead_makes_that_direction_pass((world, flows) in testing::world_and_flows(40)) {
        for flow in flows {
            let explanation = explain(&world, &flow);
            for near in explanation.near_misses().filter(|near| !near.instead.is_empty()) {
                let after = near.instead.iter().fold(world.clone(), |world, change| change.apply(&world));
                prop_assert!(direction_allowed(&explain(&after, &flow), near.direction), "{:?} in {}", near.instead, explanation);
            }
        }
    }

    #[test]
    fn an_indexed_world_answers_as_the_naive_reading((world, flows) in testing::world_and_flows(40)) {
        let indexed = IndexedWorld::new(&world);
        for flow in flows {
            prop_assert_eq!(indexed.evaluate(&flow), evaluate(&world, &flow));
            prop_assert_eq!(indexed.explain(&flow), explain(&world, &flow));
        }
    }
}
