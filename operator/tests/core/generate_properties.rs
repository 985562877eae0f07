//! What holds for whatever users write.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ringfence_operator::generate::outline;
use ringfence_operator::names::Origin;
use ringfence_policy::{Direction, Policy};
use serde_json::{Value, json};

use crate::cluster::generated;
use crate::random::{HOME, cluster, ground, wishes};

/// What the API server does to a NetworkPolicy it is given.
fn defaulted(mut policy: Value) -> Value {
    let spec = policy["spec"].as_object_mut().unwrap();
    if spec
        .get("policyTypes")
        .is_none_or(|types| types.as_array().is_some_and(Vec::is_empty))
    {
        let egress = spec.contains_key("egress");
        spec.insert(
            "policyTypes".to_owned(),
            if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            },
        );
    }
    for rules in ["ingress", "egress"] {
        for rule in spec
            .get_mut(rules)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            for port in rule
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                port.as_object_mut()
                    .unwrap()
                    .entry("protocol")
                    .or_insert_with(|| "TCP".into());
            }
        }
    }
    policy
}

/// Paths of empty lists, and of empty maps but where emptiness means "all".
fn empties(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            if items.is_empty() {
                found.push(path.to_owned());
            }
            items.iter().for_each(|item| empties(item, path, found));
        }
        Value::Object(fields) => {
            if fields.is_empty() && !path.ends_with("Selector") {
                found.push(path.to_owned());
            }
            fields
                .iter()
                .for_each(|(key, item)| empties(item, &format!("{path}.{key}"), found));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn the_same_cluster_gives_the_same_policies_in_whatever_order_it_is_read(ground in ground(), wishes in wishes()) {
        let mut reversed = wishes.clone();
        reversed.others.reverse();
        let first = generated(&cluster(&ground, &wishes), HOME);
        prop_assert_eq!(&first, &generated(&cluster(&ground, &wishes), HOME));
        prop_assert_eq!(&first, &generated(&cluster(&ground, &reversed), HOME));
    }

    #[test]
    fn the_api_server_has_nothing_to_add_and_nothing_to_drop(ground in ground(), wishes in wishes()) {
        for policy in generated(&cluster(&ground, &wishes), HOME).policies {
            let value = serde_json::to_value(&policy).unwrap();
            prop_assert_eq!(&defaulted(value.clone()), &value);
            let mut found = Vec::new();
            empties(&value["spec"], "spec", &mut found);
            prop_assert!(found.is_empty(), "{found:?} in {value}");
        }
    }

    #[test]
    fn names_are_unique_and_policies_valid(ground in ground(), wishes in wishes()) {
        let policies = generated(&cluster(&ground, &wishes), HOME).policies;
        let names: BTreeSet<_> = policies.iter().map(|policy| policy.metadata.name.clone()).collect();
        prop_assert_eq!(names.len(), policies.len());
        for policy in &policies {
            prop_assert!(Policy::from_api(policy).is_ok(), "{policy:?}");
            prop_assert!(Origin::of_policy(policy).is_some());
        }
    }

    #[test]
    fn policies_exist_only_for_denied_directions_and_with_their_deny(ground in ground(), wishes in wishes()) {
        let view = cluster(&ground, &wishes);
        let denied = view.denied(HOME);
        let policies = generated(&view, HOME).policies;
        for (direction, denied) in [(Direction::Ingress, denied.ingress), (Direction::Egress, denied.egress)] {
            let read: Vec<Policy> = policies.iter().map(|policy| Policy::from_api(policy).unwrap()).collect();
            let governing: Vec<&Policy> = read.iter().filter(|policy| policy.rules(direction).is_some()).collect();
            prop_assert_eq!(governing.is_empty(), !denied);
            let denies = governing.iter().filter(|policy| policy.rules(direction) == Some(&[])).count();
            prop_assert_eq!(denies, usize::from(denied));
        }
    }

    #[test]
    fn the_outlines_of_all_grants_are_what_is_generated_of_them(ground in ground(), wishes in wishes()) {
        let view = cluster(&ground, &wishes);
        let mut outlined: Vec<String> = Vec::new();
        for access in view.accesses.values() {
            outlined.extend(outline(&view, access).policies.iter().map(|policy| policy.metadata.name.clone().unwrap()));
        }
        outlined.sort();
        let generated = generated(&view, HOME).policies;
        let mut of_grants: Vec<String> = generated
            .iter()
            .filter(|policy| policy.metadata.name.as_ref().unwrap().contains("-access-"))
            .map(|policy| policy.metadata.name.clone().unwrap())
            .collect();
        of_grants.sort();
        prop_assert_eq!(outlined, of_grants);
    }
}
