//! `NetworkPolicySpec`.

use super::cluster::{
    API, EVERYONE, NOBODY, NODE, OTHER, OTHER_NODE, OUTSIDE, WEB, allowed, reaches_api, refused, world,
};
use super::sentences;
use ringfence_policy::Protocol::Tcp;

const DENY_OUT: &str = "{podSelector: {}, policyTypes: [Egress]}";

fn web_reaches_outside(policies: &[&str]) -> bool {
    allowed(&world(policies), WEB, OUTSIDE, Tcp, 443)
}

sentences! {
    egress_is_a_list_of_rules_applied_to_the_selected_pods:
        "NetworkPolicySpec.egress" "egress is a list of egress rules to be applied to the selected pods." => {
        let of = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Egress], egress: [{{ports: [{{port: 53}}]}}, {{ports: [{{port: 80}}]}}]}}");
        assert!(!web_reaches_outside(&[&of("web")]) && web_reaches_outside(&[&of("api")]));
        let world = world(&[&of("web")]);
        assert!(allowed(&world, WEB, OUTSIDE, Tcp, 53) && allowed(&world, WEB, OUTSIDE, Tcp, 80));
    }
    outgoing_traffic_is_allowed_without_policies_or_by_one_rule_of_any_policy:
        "NetworkPolicySpec.egress" "Outgoing traffic is allowed if there are no NetworkPolicies selecting the pod (and cluster policy otherwise allows the traffic), OR if the traffic matches at least one egress rule across all of the NetworkPolicy objects whose podSelector matches the pod." => {
        let https = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 53}]}, {ports: [{port: 443}]}]}";
        let api_only = "{podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}";
        assert!(web_reaches_outside(&[]) && web_reaches_outside(&[DENY_OUT, https]));
        assert!(!web_reaches_outside(&[DENY_OUT, api_only]), "a rule of a policy that does not select the pod");
    }
    an_empty_egress_limits_all_outgoing_traffic:
        "NetworkPolicySpec.egress" "If this field is empty then this NetworkPolicy limits all outgoing traffic (and serves solely to ensure that the pods it selects are isolated by default)." => {
        assert!(!web_reaches_outside(&["{podSelector: {}, policyTypes: [Egress], egress: []}"]));
        assert!(!web_reaches_outside(&[DENY_OUT]));
        assert!(!allowed(&world(&[DENY_OUT]), WEB, API, Tcp, 8080), "inside the namespace too");
    }
    ingress_is_a_list_of_rules_applied_to_the_selected_pods:
        "NetworkPolicySpec.ingress" "ingress is a list of ingress rules to be applied to the selected pods." => {
        let of = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: [{{ports: [{{port: 1}}]}}, {{from: [{{podSelector: {{}}}}]}}]}}");
        assert_eq!(reaches_api(&[&of("api")]), [true, false, false]);
        assert_eq!(reaches_api(&[&of("web")]), EVERYONE);
    }
    traffic_is_allowed_without_policies_or_from_the_local_node_or_by_one_rule_of_any_policy:
        "NetworkPolicySpec.ingress" "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod (and cluster policy otherwise allows the traffic), OR if the traffic source is the pod's local node, OR if the traffic matches at least one ingress rule across all of the NetworkPolicy objects whose podSelector matches the pod." => {
        let deny = "{podSelector: {}}";
        assert_eq!(reaches_api(&[]), EVERYONE);
        assert!(allowed(&world(&[deny]), NODE, API, Tcp, 8080) && !allowed(&world(&[deny]), OTHER_NODE, API, Tcp, 8080));
        let web = "{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 1}]}, {from: [{podSelector: {matchLabels: {app: web}}}]}]}";
        assert_eq!(reaches_api(&[deny, web]), [true, false, false]);
    }
    an_empty_ingress_does_not_allow_any_traffic:
        "NetworkPolicySpec.ingress" "If this field is empty then this NetworkPolicy does not allow any traffic (and serves solely to ensure that the pods it selects are isolated by default)" => {
        assert_eq!(reaches_api(&["{podSelector: {}, ingress: []}"]), NOBODY);
        assert_eq!(reaches_api(&["{podSelector: {}}"]), NOBODY);
    }
    pod_selector_selects_the_pods_of_the_policys_namespace_it_applies_to:
        "NetworkPolicySpec.podSelector" "podSelector selects the pods to which this NetworkPolicy object applies." => {
        assert_eq!(reaches_api(&["{podSelector: {matchLabels: {app: api}}}"]), NOBODY);
        assert_eq!(reaches_api(&["{podSelector: {matchLabels: {app: web}}}"]), EVERYONE);
        let web_is_selected = world(&["{podSelector: {matchLabels: {app: web}}}"]);
        assert!(allowed(&web_is_selected, API, OTHER, Tcp, 80), "a pod with these labels in another namespace is not");
    }
    the_rules_are_applied_to_any_pods_selected:
        "NetworkPolicySpec.podSelector" "The array of rules is applied to any pods selected by this field." => {
        let world = world(&["{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, api]}]}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}"]);
        for to in [API, WEB] {
            assert!(allowed(&world, OUTSIDE, to, Tcp, 80) && !allowed(&world, OTHER, to, Tcp, 80));
        }
    }
    an_empty_selector_matches_all_pods_of_the_policys_namespace:
        "NetworkPolicySpec.podSelector" "An empty selector matches all pods in the policy's namespace." => {
        let world = world(&["{podSelector: {}}"]);
        assert_eq!([API, WEB, OTHER].map(|to| allowed(&world, OUTSIDE, to, Tcp, 80)), [false, false, true]);
    }
    several_policies_can_select_the_same_pods:
        "NetworkPolicySpec.podSelector" "Multiple network policies can select the same set of pods." => {
        let world = world(&["{podSelector: {matchLabels: {app: api}}}", "{podSelector: {matchLabels: {app: api}}}"]);
        let pod = world.pod_at(API.parse().unwrap()).unwrap();
        assert_eq!(ringfence_policy::isolating(&world, pod, ringfence_policy::Direction::Ingress).len(), 2);
    }
    the_rules_of_several_policies_are_combined_additively:
        "NetworkPolicySpec.podSelector" "In this case, the ingress rules for each are combined additively." => {
        let from = |peer: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}");
        let (web, outside) = (from("{podSelector: {}}"), from("{ipBlock: {cidr: 203.0.113.0/24}}"));
        assert_eq!(reaches_api(&[&web, &outside]), [true, false, true]);
        assert_eq!(reaches_api(&[&outside, &web]), [true, false, true], "in no order");
    }
    pod_selector_is_optional:
        "NetworkPolicySpec.podSelector" "This field is optional." => {
        assert_eq!(reaches_api(&["{policyTypes: [Ingress]}"]), NOBODY);
    }
    a_missing_pod_selector_is_an_empty_one:
        "NetworkPolicySpec.podSelector" "If it is not specified, it defaults to an empty selector." => {
        let rules = "ingress: [{from: [{podSelector: {}}]}]";
        assert_eq!(world(&[&format!("{{{rules}}}")]), world(&[&format!("{{podSelector: {{}}, {rules}}}")]));
    }
    policy_types_say_which_directions_the_policy_relates_to:
        "NetworkPolicySpec.policyTypes" "policyTypes is a list of rule types that the NetworkPolicy relates to." => {
        let open = |types: &str| {
            let policy = format!("{{podSelector: {{}}, policyTypes: [{types}]}}");
            (allowed(&world(&[&policy]), OTHER, API, Tcp, 8080), web_reaches_outside(&[&policy]))
        };
        assert_eq!(["Ingress", "Egress", "Ingress, Egress"].map(open), [(false, true), (true, false), (false, false)]);
    }
    other_policy_types_are_refused:
        "NetworkPolicySpec.policyTypes" "Valid options are [\"Ingress\"], [\"Egress\"], or [\"Ingress\", \"Egress\"]." => {
        assert_eq!(refused("{podSelector: {}, policyTypes: [Ingress, egress]}"), "spec.policyTypes[1]");
    }
    without_policy_types_egress_rules_decide_about_egress_and_ingress_is_always_meant:
        "NetworkPolicySpec.policyTypes" "If this field is not specified, it will default based on the existence of ingress or egress rules; policies that contain an egress section are assumed to affect egress, and all policies (whether or not they contain an ingress section) are assumed to affect ingress." => {
        let egress_rules = "{podSelector: {}, egress: [{ports: [{port: 53}]}]}";
        let ingress_rules = "{podSelector: {}, ingress: [{}]}";
        assert!(!web_reaches_outside(&[egress_rules]) && web_reaches_outside(&[ingress_rules]));
        assert_eq!(reaches_api(&[egress_rules]), NOBODY, "although it has no ingress section");
    }
    an_egress_only_policy_must_say_so:
        "NetworkPolicySpec.policyTypes" "If you want to write an egress-only policy, you must explicitly specify policyTypes [ \"Egress\" ]." => {
        let policy = "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53}]}]}";
        assert_eq!(reaches_api(&[&policy.replace("{}", "{matchLabels: {app: api}}")]), EVERYONE);
        assert!(!web_reaches_outside(&[policy]));
    }
    a_policy_that_allows_no_egress_must_name_egress:
        "NetworkPolicySpec.policyTypes" "Likewise, if you want to write a policy that specifies that no egress is allowed, you must specify a policyTypes value that include \"Egress\" (since such a policy would not include an egress section and would otherwise default to just [ \"Ingress\" ])." => {
        assert!(web_reaches_outside(&["{podSelector: {}}"]) && web_reaches_outside(&["{podSelector: {}, egress: []}"]));
        assert!(!web_reaches_outside(&["{podSelector: {}, policyTypes: [Ingress, Egress]}"]));
    }
}
