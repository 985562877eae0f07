//! `NetworkPolicyIngressRule` and `NetworkPolicyEgressRule`.

use super::cluster::{API, EVERYONE, NOBODY, OTHER, OUTSIDE, WEB, allowed, reaches_api, world};
use super::sentences;
use ringfence_policy::Protocol::{Sctp, Tcp, Udp};

fn ingress(rule: &str) -> [bool; 3] {
    reaches_api(&[&format!(
        "{{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{rule}]}}"
    )])
}

/// Whether web reaches the api pod's 8080, the other namespace's 80 and the outside's 443.
fn egress(rule: &str) -> [bool; 3] {
    let world = world(&[&format!(
        "{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{rule}]}}"
    )]);
    [(API, 8080), (OTHER, 80), (OUTSIDE, 443)].map(|(to, port)| allowed(&world, WEB, to, Tcp, port))
}

fn api_ports(ports: &str) -> [bool; 3] {
    let world = world(&[&format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}")]);
    [(Tcp, 8080), (Tcp, 9090), (Udp, 5353)]
        .map(|(protocol, port)| allowed(&world, OTHER, API, protocol, port))
}

sentences! {
    an_ingress_rule_allows_a_set_of_traffic_to_the_pods:
        "NetworkPolicyIngressRule" "NetworkPolicyIngressRule describes a particular set of traffic that is allowed to the pods matched by a NetworkPolicySpec's podSelector." => {
        assert_eq!(ingress("{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}"), [false, false, true]);
        let world = world(&["{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {}}]}]}"]);
        assert!(allowed(&world, OUTSIDE, WEB, Tcp, 80), "other pods are not touched");
    }
    an_ingress_rule_must_match_both_ports_and_from:
        "NetworkPolicyIngressRule" "The traffic must match both ports and from." => {
        assert_eq!(ingress("{from: [{podSelector: {}}], ports: [{port: 8080}]}"), [true, false, false]);
        assert_eq!(ingress("{from: [{podSelector: {}}], ports: [{port: 1}]}"), NOBODY);
        assert_eq!(ingress("{from: [{podSelector: {}}], ports: [{port: 1}]}, {from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 8080}]}"), NOBODY, "in one rule");
    }
    from_lists_the_sources_that_can_access_the_pods:
        "NetworkPolicyIngressRule.from" "from is a list of sources which should be able to access the pods selected for this rule." => {
        assert_eq!(ingress("{from: [{podSelector: {matchLabels: {app: web}}}]}"), [true, false, false]);
    }
    sources_are_ored:
        "NetworkPolicyIngressRule.from" "Items in this list are combined using a logical OR operation." => {
        assert_eq!(ingress("{from: [{podSelector: {}}, {ipBlock: {cidr: 203.0.113.0/24}}]}"), [true, false, true]);
    }
    an_empty_or_missing_from_is_every_source:
        "NetworkPolicyIngressRule.from" "If this field is empty or missing, this rule matches all sources (traffic not restricted by source)." => {
        assert_eq!([ingress("{from: []}"), ingress("{}"), ingress("{ports: [{port: 8080}]}")], [EVERYONE; 3]);
    }
    a_from_with_items_allows_only_what_matches_one:
        "NetworkPolicyIngressRule.from" "If this field is present and contains at least one item, this rule allows traffic only if the traffic matches at least one item in the from list." => {
        assert_eq!(ingress("{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}"), NOBODY);
    }
    ingress_ports_are_made_accessible_on_the_selected_pods:
        "NetworkPolicyIngressRule.ports" "ports is a list of ports which should be made accessible on the pods selected for this rule." => {
        assert_eq!(api_ports("[{port: 8080}]"), [true, false, false]);
    }
    ingress_ports_are_ored:
        "NetworkPolicyIngressRule.ports" "Each item in this list is combined using a logical OR." => {
        assert_eq!(api_ports("[{port: 8080}, {port: 9090}]"), [true, true, false]);
    }
    empty_or_missing_ingress_ports_are_all_ports_and_protocols:
        "NetworkPolicyIngressRule.ports" "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)." => {
        assert_eq!(api_ports("[]"), [true; 3]);
        let world = world(&["{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"]);
        assert!(allowed(&world, OTHER, API, Sctp, 7), "of every protocol");
    }
    ingress_ports_with_items_allow_only_what_matches_one:
        "NetworkPolicyIngressRule.ports" "If this field is present and contains at least one item, then this rule allows traffic only if the traffic matches at least one port in the list." => {
        assert_eq!(api_ports("[{port: 1}]"), [false; 3]);
    }
    an_egress_rule_allows_a_set_of_traffic_out_of_the_pods:
        "NetworkPolicyEgressRule" "NetworkPolicyEgressRule describes a particular set of traffic that is allowed out of pods matched by a NetworkPolicySpec's podSelector." => {
        assert_eq!(egress("{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}"), [false, false, true]);
    }
    an_egress_rule_must_match_both_ports_and_to:
        "NetworkPolicyEgressRule" "The traffic must match both ports and to." => {
        assert_eq!(egress("{to: [{namespaceSelector: {}}], ports: [{port: 80}]}"), [false, true, false]);
    }
    egress_ports_are_the_destinations_ports:
        "NetworkPolicyEgressRule.ports" "ports is a list of destination ports for outgoing traffic." => {
        assert_eq!(egress("{ports: [{port: 443}]}"), [false, false, true]);
    }
    egress_ports_are_ored:
        "NetworkPolicyEgressRule.ports" "Each item in this list is combined using a logical OR." => {
        assert_eq!(egress("{ports: [{port: 443}, {port: 80}]}"), [false, true, true]);
    }
    empty_or_missing_egress_ports_are_all_ports:
        "NetworkPolicyEgressRule.ports" "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)." => {
        assert_eq!([egress("{ports: []}"), egress("{}")], [[true; 3]; 2]);
    }
    egress_ports_with_items_allow_only_what_matches_one:
        "NetworkPolicyEgressRule.ports" "If this field is present and contains at least one item, then this rule allows traffic only if the traffic matches at least one port in the list." => {
        assert_eq!(egress("{ports: [{port: 1}]}"), [false; 3]);
    }
    to_lists_the_destinations_of_the_pods:
        "NetworkPolicyEgressRule.to" "to is a list of destinations for outgoing traffic of pods selected for this rule." => {
        assert_eq!(egress("{to: [{podSelector: {}}]}"), [true, false, false]);
    }
    destinations_are_ored:
        "NetworkPolicyEgressRule.to" "Items in this list are combined using a logical OR operation." => {
        assert_eq!(egress("{to: [{podSelector: {}}, {ipBlock: {cidr: 203.0.113.0/24}}]}"), [true, false, true]);
    }
    an_empty_or_missing_to_is_every_destination:
        "NetworkPolicyEgressRule.to" "If this field is empty or missing, this rule matches all destinations (traffic not restricted by destination)." => {
        assert_eq!([egress("{to: []}"), egress("{}")], [[true; 3]; 2]);
    }
    a_to_with_items_allows_only_what_matches_one:
        "NetworkPolicyEgressRule.to" "If this field is present and contains at least one item, this rule allows traffic only if the traffic matches at least one item in the to list." => {
        assert_eq!(egress("{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}"), [false; 3]);
    }
}
