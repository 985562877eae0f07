//! One case for each sentence of the API's documentation that people read differently, from YAML to verdict.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{
    API, EVERYONE, NOBODY, NODE, OTHER, OTHER_NODE, OUTSIDE, WEB, allowed, pod, reaches_api, refused, world,
};
use ringfence_policy::{ObjectKey, Protocol, World};

#[test]
fn a_pod_that_no_policy_selects_is_open() {
    assert_eq!(
        reaches_api(&["{podSelector: {matchLabels: {app: web}}}"]),
        EVERYONE
    );
}

#[test]
fn without_policy_types_ingress_is_always_governed() {
    assert_eq!(reaches_api(&["{podSelector: {}}"]), NOBODY);
    assert_eq!(reaches_api(&["{podSelector: {}, policyTypes: []}"]), NOBODY);
    assert_eq!(reaches_api(&["{podSelector: {}, egress: [{}]}"]), NOBODY);
}

#[test]
fn without_policy_types_egress_is_governed_only_with_egress_rules() {
    let egress = |spec: &str| allowed(&world(&[spec]), WEB, OUTSIDE, Protocol::Tcp, 443);
    assert!(egress("{podSelector: {}}"));
    assert!(egress("{podSelector: {}, egress: []}"));
    assert!(!egress("{podSelector: {}, egress: [{ports: [{port: 53}]}]}"));
    assert!(!egress("{podSelector: {}, policyTypes: [Egress]}"));
}

#[test]
fn policy_types_egress_leaves_ingress_alone_even_with_ingress_rules() {
    assert_eq!(
        reaches_api(&["{podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], ingress: []}"]),
        EVERYONE
    );
}

#[test]
fn the_six_empty_shapes() {
    let api = |rules: &str| {
        reaches_api(&[&format!(
            "{{podSelector: {{matchLabels: {{app: api}}}}, {rules}}}"
        )])
    };
    assert_eq!(api("ingress: []"), NOBODY, "no rule");
    assert_eq!(api("ingress: [{}]"), EVERYONE, "the empty rule");
    assert_eq!(api("ingress: [{from: []}]"), EVERYONE, "no peers is anyone");
    assert_eq!(
        api("ingress: [{from: [{podSelector: {}}]}]"),
        [true, false, false],
        "every pod of the namespace"
    );
    assert_eq!(
        api("ingress: [{from: [{namespaceSelector: {}}]}]"),
        [true, true, false],
        "every pod of the cluster"
    );
    assert_eq!(
        api("ingress: [{from: [{podSelector: {}}], ports: []}]"),
        [true, false, false],
        "no ports is any port"
    );
}

#[test]
fn selectors_are_anded_inside_a_peer_and_ored_across_peers() {
    let api = |from: &str| {
        reaches_api(&[&format!(
            "{{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{from: {from}}}]}}"
        )])
    };
    let namespace = "namespaceSelector: {matchLabels: {team: other}}";
    assert_eq!(
        api(&format!(
            "[{{{namespace}, podSelector: {{matchLabels: {{app: web}}}}}}]"
        )),
        [false, true, false]
    );
    assert_eq!(
        api(&format!(
            "[{{{namespace}, podSelector: {{matchLabels: {{app: x}}}}}}]"
        )),
        NOBODY
    );
    assert_eq!(
        api(&format!(
            "[{{{namespace}}}, {{podSelector: {{matchLabels: {{app: web}}}}}}]"
        )),
        [true, true, false]
    );
}

#[test]
fn not_in_on_a_namespace_selector_is_supported() {
    let from = "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [shop]}]}}";
    assert_eq!(
        reaches_api(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{from}]}}]}}")]),
        [false, true, false]
    );
}

#[test]
fn an_ip_block_matches_addresses_but_not_its_exceptions() {
    let api = |block: &str| {
        reaches_api(&[&format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {block}}}]}}]}}"
        )])
    };
    assert_eq!(api("{cidr: 203.0.113.0/24}"), [false, false, true]);
    assert_eq!(api("{cidr: 203.0.113.0/24, except: [203.0.113.0/29]}"), NOBODY);
    assert_eq!(api("{cidr: 0.0.0.0/0}"), EVERYONE);
    assert_eq!(
        api("{cidr: 10.244.9.9/16}"),
        [true, true, false],
        "bits behind the prefix do not count"
    );
    assert_eq!(api("{cidr: '::/0'}"), NOBODY, "of the other family");
}

#[test]
fn a_named_port_means_what_the_destination_declares_for_that_protocol() {
    let world = world(&["{podSelector: {}, ingress: [{ports: [{port: http}, {port: dns, protocol: UDP}]}]}"]);
    let on = |to, protocol, port| allowed(&world, OTHER, to, protocol, port);
    assert!(on(API, Protocol::Tcp, 8080) && on(WEB, Protocol::Tcp, 80) && on(API, Protocol::Udp, 5353));
    assert!(!on(API, Protocol::Tcp, 80) && !on(WEB, Protocol::Tcp, 8080) && !on(API, Protocol::Tcp, 5353));
}

#[test]
fn a_named_port_that_nobody_declares_matches_nothing() {
    assert_eq!(
        reaches_api(&["{podSelector: {}, ingress: [{ports: [{port: nope}]}]}"]),
        NOBODY
    );
}

#[test]
fn a_named_port_in_an_egress_rule_without_peers_opens_only_pods_that_declare_it() {
    let world = world(&["{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"]);
    let to = |to, port| allowed(&world, WEB, to, Protocol::Tcp, port);
    assert!(to(API, 8080) && to(OTHER, 80));
    assert!(!to(API, 80) && !to(OTHER, 8080) && !to(OUTSIDE, 80) && !to(OUTSIDE, 8080));
}

#[test]
fn a_port_range_includes_both_ends_and_neither_neighbour() {
    let world = world(&["{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8080}]}]}"]);
    let on = |port| allowed(&world, OTHER, API, Protocol::Tcp, port);
    assert_eq!([7999, 8000, 8080, 8081].map(on), [false, true, true, false]);
}

#[test]
fn the_same_number_of_another_protocol_is_closed() {
    let world = world(&["{podSelector: {}, ingress: [{ports: [{port: 8080}]}]}"]);
    let on = |protocol| allowed(&world, OTHER, API, protocol, 8080);
    assert_eq!(
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(on),
        [true, false, false]
    );
}

#[test]
fn policies_are_a_union() {
    let web = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}";
    let outside = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}";
    assert_eq!(
        reaches_api(&[web, "{podSelector: {}}", outside]),
        [true, false, true]
    );
}

#[test]
fn a_pod_always_reaches_itself_and_its_own_node_and_no_other_node() {
    let world = world(&["{podSelector: {}, policyTypes: [Ingress, Egress]}"]);
    for (from, to, expected) in [
        (API, API, true),
        (NODE, API, true),
        (API, NODE, true),
        (OTHER_NODE, API, false),
        (API, OTHER_NODE, false),
        (WEB, API, false),
    ] {
        assert_eq!(
            allowed(&world, from, to, Protocol::Tcp, 8080),
            expected,
            "{from} -> {to}"
        );
    }
}

#[test]
fn what_a_pod_sends_to_its_own_node_is_policed_where_the_option_is_on_and_probes_still_come_in() {
    let policed = |policies: &[&str]| World {
        polices_own_node: true,
        ..world(policies)
    };
    let closed = "{podSelector: {}, policyTypes: [Ingress, Egress]}";
    let world = policed(&[closed]);
    assert!(!allowed(&world, API, NODE, Protocol::Tcp, 8080), "to its node");
    assert!(allowed(&world, NODE, API, Protocol::Tcp, 8080), "from its node");
    assert!(allowed(&world, API, API, Protocol::Tcp, 8080), "to itself");
    let to_node = format!(
        "{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {NODE}/32}}}}]}}]}}"
    );
    let world = policed(&[closed, &to_node]);
    assert!(
        allowed(&world, API, NODE, Protocol::Tcp, 8080),
        "where a rule says so"
    );
}

#[test]
fn a_host_network_pod_is_neither_isolated_nor_a_peer() {
    let mut world = world(&["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"]);
    let mut agent = pod("shop", "agent", "web", "node-b", OTHER_NODE);
    agent.host_network = true;
    world.insert_pod(agent);
    assert!(!allowed(&world, OTHER_NODE, API, Protocol::Tcp, 8080));
    assert!(allowed(&world, OUTSIDE, OTHER_NODE, Protocol::Tcp, 8080));
}

#[test]
fn a_finished_pod_frees_its_address_and_a_terminating_one_keeps_it_until_it_is_reused() {
    let mut world = world(&["{podSelector: {matchLabels: {app: api}}}"]);
    let closed = |world: &World| !allowed(world, OTHER, API, Protocol::Tcp, 8080);
    let api = ObjectKey::new("shop", "api");
    assert!(closed(&world));
    world.pods.get_mut(&api).unwrap().terminating = true;
    assert!(closed(&world), "terminating");
    world.insert_pod(pod("shop", "new", "web", "node-a", API));
    assert!(!closed(&world), "reused while terminating");
    world.pods.remove(&ObjectKey::new("shop", "new"));
    world.pods.get_mut(&api).unwrap().finished = true;
    assert!(!closed(&world), "finished");
}

/// Specifications that the API server refuses, with the field.
const REFUSED: &[(&str, &str)] = &[
    ("{policyTypes: [Sideways]}", "spec.policyTypes[0]"),
    ("{ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]"),
    (
        "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
        "spec.ingress[0].from[0]",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: nope}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
    ),
    (
        "{ingress: [{ports: [{port: 0}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "{ingress: [{ports: [{port: 70000}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "{ingress: [{ports: [{port: 80, endPort: 79}]}]}",
        "spec.ingress[0].ports[0].endPort",
    ),
    (
        "{ingress: [{ports: [{endPort: 79}]}]}",
        "spec.ingress[0].ports[0].endPort",
    ),
    ("{policyTypes: [Ingress, Egress, Ingress]}", "spec.policyTypes"),
    (
        "{ingress: [{ports: [{port: ''}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "{ingress: [{ports: [{port: a-name-that-is-long}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "{ingress: [{ports: [{port: '8080'}]}]}",
        "spec.ingress[0].ports[0].port",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/+8}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
    ),
    (
        "{ingress: [{ports: [{port: http, endPort: 79}]}]}",
        "spec.ingress[0].ports[0].endPort",
    ),
    (
        "{ingress: [{ports: [{protocol: ICMP}]}]}",
        "spec.ingress[0].ports[0].protocol",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.podSelector.matchExpressions[0].values",
    ),
];

#[test]
fn what_the_api_server_refuses_is_an_error_that_names_the_field() {
    for (spec, field) in REFUSED {
        assert_eq!(refused(spec), *field, "{spec}");
    }
}

#[test]
fn old_spellings_of_addresses_mean_what_the_api_server_reads() {
    let api = |cidr: &str| {
        reaches_api(&[&format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: '{cidr}'}}}}]}}]}}"
        )])
    };
    assert_eq!(api("203.000.113.007/32"), [false, false, true]);
    assert_eq!(api("::ffff:203.0.113.7/128"), [false, false, true]);
}
