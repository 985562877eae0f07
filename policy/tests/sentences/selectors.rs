//! `LabelSelector` and `LabelSelectorRequirement`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use ringfence_policy::{Labels, Selector};

use super::cluster::{labels, reaches_api};
use super::sentences;

fn selector(yaml: &str) -> Selector {
    Selector::try_from(&serde_yaml_ng::from_str::<LabelSelector>(yaml).unwrap()).unwrap()
}

fn refused(requirement: &str) -> String {
    let yaml = format!("{{matchExpressions: [{requirement}]}}");
    Selector::try_from(&serde_yaml_ng::from_str::<LabelSelector>(&yaml).unwrap())
        .unwrap_err()
        .field
}

/// Whether a selector selects pods without labels, with app=web, and with app=api.
fn selects(yaml: &str) -> [bool; 3] {
    let objects: [Labels; 3] = [labels(&[]), labels(&[("app", "web")]), labels(&[("app", "api")])];
    objects.map(|labels| selector(yaml).matches(&labels))
}

sentences! {
    a_selector_is_a_query_over_labels:
        "LabelSelector" "A label selector is a label query over a set of resources." => {
        assert_eq!(selects("{matchLabels: {app: web}}"), [false, true, false]);
    }
    match_labels_and_match_expressions_are_anded:
        "LabelSelector" "The result of matchLabels and matchExpressions are ANDed." => {
        let both = selector("{matchLabels: {app: web}, matchExpressions: [{key: old, operator: DoesNotExist}]}");
        assert!(both.matches(&labels(&[("app", "web")])));
        assert!(!both.matches(&labels(&[("app", "web"), ("old", "")])) && !both.matches(&labels(&[])));
    }
    an_empty_selector_matches_all_objects:
        "LabelSelector" "An empty label selector matches all objects." => {
        assert_eq!(selects("{}"), [true; 3]);
        assert_eq!(selects("{matchLabels: {}, matchExpressions: []}"), [true; 3]);
    }
    a_null_selector_selects_nothing_by_itself:
        "LabelSelector" "A null label selector matches no objects." => {
        // A peer whose namespaceSelector is null selects in no other namespace; with it empty, in all.
        let from = |peer: &str| reaches_api(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}")]);
        assert_eq!(from("{podSelector: {}, namespaceSelector: null}"), [true, false, false]);
        assert_eq!(from("{podSelector: {}, namespaceSelector: {}}"), [true, true, false]);
    }
    match_expressions_is_a_list_of_requirements:
        "LabelSelector.matchExpressions" "matchExpressions is a list of label selector requirements." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: Exists}]}"), [false, true, true]);
    }
    the_requirements_of_match_expressions_are_anded:
        "LabelSelector.matchExpressions" "The requirements are ANDed." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: Exists}, {key: app, operator: NotIn, values: [api]}]}"), [false, true, false]);
    }
    match_labels_is_a_map:
        "LabelSelector.matchLabels" "matchLabels is a map of {key,value} pairs." => {
        assert_eq!(selects("{matchLabels: {app: api}}"), [false, false, true]);
    }
    a_pair_of_match_labels_is_a_requirement_with_in:
        "LabelSelector.matchLabels" "A single {key,value} in the matchLabels map is equivalent to an element of matchExpressions, whose key field is \"key\", the operator is \"In\", and the values array contains only \"value\"." => {
        assert_eq!(selector("{matchLabels: {app: web}}"), selector("{matchExpressions: [{key: app, operator: In, values: [web]}]}"));
    }
    the_pairs_of_match_labels_are_anded:
        "LabelSelector.matchLabels" "The requirements are ANDed." => {
        let both = selector("{matchLabels: {app: web, tier: front}}");
        assert!(both.matches(&labels(&[("app", "web"), ("tier", "front")])) && !both.matches(&labels(&[("app", "web")])));
    }
    a_requirement_has_a_key_an_operator_and_values:
        "LabelSelectorRequirement" "A label selector requirement is a selector that contains values, a key, and an operator that relates the key and values." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: In, values: [web, db]}]}"), [false, true, false]);
    }
    the_key_is_the_label_that_is_looked_at:
        "LabelSelectorRequirement.key" "key is the label key that the selector applies to." => {
        assert_eq!(selects("{matchExpressions: [{key: tier, operator: In, values: [web]}]}"), [false; 3]);
    }
    the_operator_relates_the_key_to_the_values:
        "LabelSelectorRequirement.operator" "operator represents a key's relationship to a set of values." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: In, values: [web]}]}"), [false, true, false]);
        assert_eq!(selects("{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}"), [true, false, true], "an absent label is in no set");
    }
    the_operators_are_four:
        "LabelSelectorRequirement.operator" "Valid operators are In, NotIn, Exists and DoesNotExist." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: Exists}]}"), [false, true, true]);
        assert_eq!(selects("{matchExpressions: [{key: app, operator: DoesNotExist}]}"), [true, false, false]);
        assert_eq!(refused("{key: app, operator: Gt, values: ['1']}"), "matchExpressions[0].operator");
    }
    the_values_are_strings:
        "LabelSelectorRequirement.values" "values is an array of string values." => {
        assert_eq!(selects("{matchExpressions: [{key: app, operator: In, values: [api, web]}]}"), [false, true, true]);
    }
    in_and_not_in_need_values:
        "LabelSelectorRequirement.values" "If the operator is In or NotIn, the values array must be non-empty." => {
        for operator in ["In", "NotIn"] {
            assert_eq!(refused(&format!("{{key: app, operator: {operator}, values: []}}")), "matchExpressions[0].values");
        }
    }
    exists_and_does_not_exist_take_no_values:
        "LabelSelectorRequirement.values" "If the operator is Exists or DoesNotExist, the values array must be empty." => {
        for operator in ["Exists", "DoesNotExist"] {
            assert_eq!(refused(&format!("{{key: app, operator: {operator}, values: [x]}}")), "matchExpressions[0].values");
        }
    }
}
