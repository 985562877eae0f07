//! `NetworkPolicyPeer` and `IPBlock`.

use super::cluster::{API, EVERYONE, NOBODY, allowed, reaches_api, refused, world};
use super::sentences;
use ringfence_policy::Protocol::Tcp;

fn from(peers: &str) -> [bool; 3] {
    reaches_api(&[&format!(
        "{{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{from: [{peers}]}}]}}"
    )])
}

fn refused_peer(peer: &str) -> String {
    refused(&format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}"))
}

sentences! {
    a_peer_allows_traffic_to_or_from:
        "NetworkPolicyPeer" "NetworkPolicyPeer describes a peer to allow traffic to/from." => {
        let world = world(&["{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}"]);
        assert!(allowed(&world, super::cluster::WEB, API, Tcp, 8080) && !allowed(&world, super::cluster::OTHER, API, Tcp, 8080));
    }
    only_certain_combinations_of_fields_are_allowed:
        "NetworkPolicyPeer" "Only certain combinations of fields are allowed" => {
        assert_eq!(refused_peer("{}"), "spec.ingress[0].from[0]");
        assert_eq!(from("{podSelector: {}, namespaceSelector: {}}"), [true, true, false]);
    }
    an_ip_block_defines_policy_on_addresses:
        "NetworkPolicyPeer.ipBlock" "ipBlock defines policy on a particular IPBlock." => {
        assert_eq!(from("{ipBlock: {cidr: 203.0.113.7/32}}"), [false, false, true]);
    }
    an_ip_block_stands_alone:
        "NetworkPolicyPeer.ipBlock" "If this field is set then neither of the other fields can be." => {
        for selector in ["podSelector", "namespaceSelector"] {
            assert_eq!(refused_peer(&format!("{{ipBlock: {{cidr: 10.0.0.0/8}}, {selector}: {{}}}}")), "spec.ingress[0].from[0]");
        }
    }
    namespace_selector_selects_by_the_namespaces_labels:
        "NetworkPolicyPeer.namespaceSelector" "namespaceSelector selects namespaces using cluster-scoped labels." => {
        assert_eq!(from("{namespaceSelector: {matchLabels: {team: other}}}"), [false, true, false]);
        assert_eq!(from("{namespaceSelector: {matchLabels: {app: web}}}"), NOBODY, "not by the pods'");
    }
    an_empty_namespace_selector_selects_all_namespaces:
        "NetworkPolicyPeer.namespaceSelector" "This field follows standard label selector semantics; if present but empty, it selects all namespaces." => {
        assert_eq!(from("{namespaceSelector: {}}"), [true, true, false]);
        assert_eq!(from("{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [shop]}]}}"), [false, true, false]);
    }
    with_a_pod_selector_beside_it_a_namespace_selector_selects_those_pods_there:
        "NetworkPolicyPeer.namespaceSelector" "If podSelector is also set, then the NetworkPolicyPeer as a whole selects the pods matching podSelector in the namespaces selected by namespaceSelector." => {
        let there = |app: &str| from(&format!("{{namespaceSelector: {{matchLabels: {{team: other}}}}, podSelector: {{matchLabels: {{app: {app}}}}}}}"));
        assert_eq!([there("web"), there("api")], [[false, true, false], NOBODY]);
    }
    without_a_pod_selector_a_namespace_selector_selects_all_pods_there:
        "NetworkPolicyPeer.namespaceSelector" "Otherwise it selects all pods in the namespaces selected by namespaceSelector." => {
        assert_eq!(from("{namespaceSelector: {matchLabels: {team: shop}}}"), [true, false, false]);
    }
    pod_selector_selects_pods_by_label:
        "NetworkPolicyPeer.podSelector" "podSelector is a label selector which selects pods." => {
        assert_eq!(from("{podSelector: {matchLabels: {app: web}}}"), [true, false, false]);
        assert_eq!(from("{podSelector: {matchLabels: {app: api}}}"), NOBODY);
    }
    an_empty_pod_selector_selects_all_pods:
        "NetworkPolicyPeer.podSelector" "This field follows standard label selector semantics; if present but empty, it selects all pods." => {
        assert_eq!(from("{podSelector: {}}"), [true, false, false], "of the policy's namespace");
        assert_eq!(from("{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}"), [true, false, false]);
    }
    with_a_namespace_selector_beside_it_a_pod_selector_selects_there:
        "NetworkPolicyPeer.podSelector" "If namespaceSelector is also set, then the NetworkPolicyPeer as a whole selects the pods matching podSelector in the Namespaces selected by NamespaceSelector." => {
        assert_eq!(from("{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}"), [true, true, false]);
        assert_eq!(from("{namespaceSelector: {}}, {podSelector: {matchLabels: {app: none}}}"), [true, true, false], "two peers are ORed");
    }
    a_pod_selector_alone_selects_in_the_policys_own_namespace:
        "NetworkPolicyPeer.podSelector" "Otherwise it selects the pods matching podSelector in the policy's own namespace." => {
        assert_eq!(from("{podSelector: {matchLabels: {app: web}}}"), [true, false, false]);
    }
    a_block_is_a_cidr_of_either_family:
        "IPBlock" "IPBlock describes a particular CIDR (Ex. \"192.168.1.0/24\",\"2001:db8::/64\") that is allowed to the pods matched by a NetworkPolicySpec's podSelector." => {
        assert_eq!(from("{ipBlock: {cidr: 10.244.2.0/24}}"), [false, true, false], "pods too, by their address");
        assert_eq!(from("{ipBlock: {cidr: '2001:db8::/64'}}"), NOBODY);
        let mut world = world(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '2001:db8::/64'}}]}]}"]);
        let api = ringfence_policy::ObjectKey::new("shop", "api");
        world.pods.get_mut(&api).unwrap().addresses.push("fd00::3".parse().unwrap());
        assert!(allowed(&world, "2001:db8::7", "fd00::3", Tcp, 8080) && !allowed(&world, "2001:db8:1::7", "fd00::3", Tcp, 8080));
    }
    exceptions_are_not_included_within_this_rule:
        "IPBlock" "The except entry describes CIDRs that should not be included within this rule." => {
        assert_eq!(from("{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.1.0/24, 203.0.113.0/24]}}"), [false, true, false]);
        assert_eq!(from("{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}, {podSelector: {}}"), [true, false, true], "another peer may include them");
    }
    a_cidr_is_written_with_its_prefix:
        "IPBlock.cidr" "cidr is a string representing the IPBlock Valid examples are \"192.168.1.0/24\" or \"2001:db8::/64\"" => {
        assert_eq!(from("{ipBlock: {cidr: 0.0.0.0/0}}"), EVERYONE);
        for wrong in ["192.168.1.0", "192.168.1.0/33", "2001:db8::/129", "example.com/24", ""] {
            assert_eq!(refused_peer(&format!("{{ipBlock: {{cidr: '{wrong}'}}}}")), "spec.ingress[0].from[0].ipBlock.cidr", "{wrong}");
        }
    }
    an_exception_outside_its_cidr_is_refused:
        "IPBlock.except" "except is a slice of CIDRs that should not be included within an IPBlock Valid examples are \"192.168.1.0/24\" or \"2001:db8::/64\" Except values will be rejected if they are outside the cidr range" => {
        for outside in ["192.168.2.0/24", "192.168.0.0/16", "2001:db8::/64"] {
            assert_eq!(
                refused_peer(&format!("{{ipBlock: {{cidr: 192.168.1.0/24, except: [192.168.1.0/25, '{outside}']}}}}")),
                "spec.ingress[0].from[0].ipBlock.except[1]"
            );
        }
    }
}
