//! Every sentence of the upstream type documentation of NetworkPolicy, each with a case named after it.
//!
//! The documentation is part of the API's schema. A test compares the sentences that have a case with those of the schema,
//! so that a sentence that is new or reworded upstream is noticed.

#![allow(clippy::unwrap_used)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod peers;
mod ports;
mod rules;
mod selectors;
mod spec;

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::{JsonSchema, SchemaGenerator};

/// Names a test, where its sentence stands, and the sentence.
macro_rules! sentences {
    ($($name:ident: $at:literal $sentence:literal => $body:block)*) => {
        pub(crate) const SENTENCES: &[(&str, &str)] = &[$(($at, $sentence)),*];
        $(
            #[test]
            fn $name() $body
        )*
    };
}
pub(crate) use sentences;

/// Sentences that say nothing about traffic: what a thing is called or how it is stored.
const NOT_ABOUT_TRAFFIC: &[(&str, &str)] = &[
    (
        "NetworkPolicy",
        "NetworkPolicy describes what network traffic is allowed for a set of Pods",
    ),
    (
        "NetworkPolicy.spec",
        "spec represents the specification of the desired behavior for this NetworkPolicy.",
    ),
    (
        "NetworkPolicySpec",
        "NetworkPolicySpec provides the specification of a NetworkPolicy",
    ),
    ("NetworkPolicySpec.egress", "This field is beta-level in 1.8"),
    ("NetworkPolicySpec.policyTypes", "This field is beta-level in 1.8"),
    ("NetworkPolicyEgressRule", "This type is beta-level in 1.8"),
    (
        "LabelSelectorRequirement.values",
        "This array is replaced during a strategic merge patch.",
    ),
];

fn split(at: &str, text: &str) -> Vec<(String, String)> {
    let text = text.replace('\n', " ");
    let mut sentences = Vec::new();
    let mut rest = text.as_str();
    // A sentence ends with a full stop before a capital letter; "Ex." is none.
    while let Some(end) = rest.match_indices(". ").map(|(index, _)| index + 1).find(|end| {
        rest[*end..].trim_start().starts_with(char::is_uppercase) && !rest[..*end].ends_with("(Ex.")
    }) {
        sentences.push((at.to_owned(), rest[..end].trim().to_owned()));
        rest = &rest[end..];
    }
    sentences.push((at.to_owned(), rest.trim().to_owned()));
    sentences
}

/// The sentences of a type and its fields, without those of every API object.
fn documentation<T: JsonSchema>() -> Vec<(String, String)> {
    let name = T::schema_name();
    let name = name.rsplit('.').next().unwrap().to_owned();
    let schema = T::json_schema(&mut SchemaGenerator::default());
    let mut sentences = split(&name, schema.get("description").unwrap().as_str().unwrap());
    for (field, schema) in schema.get("properties").unwrap().as_object().unwrap() {
        if !["apiVersion", "kind", "metadata"].contains(&field.as_str()) {
            sentences.extend(split(
                &format!("{name}.{field}"),
                schema["description"].as_str().unwrap(),
            ));
        }
    }
    sentences
}

#[test]
fn every_sentence_has_a_case_and_every_case_a_sentence() {
    let documented: BTreeSet<(String, String)> = [
        documentation::<networking::NetworkPolicy>(),
        documentation::<networking::NetworkPolicySpec>(),
        documentation::<networking::NetworkPolicyIngressRule>(),
        documentation::<networking::NetworkPolicyEgressRule>(),
        documentation::<networking::NetworkPolicyPeer>(),
        documentation::<networking::NetworkPolicyPort>(),
        documentation::<networking::IPBlock>(),
        documentation::<meta::LabelSelector>(),
        documentation::<meta::LabelSelectorRequirement>(),
    ]
    .concat()
    .into_iter()
    .collect();
    let cases = [
        NOT_ABOUT_TRAFFIC,
        spec::SENTENCES,
        rules::SENTENCES,
        peers::SENTENCES,
        ports::SENTENCES,
        selectors::SENTENCES,
    ]
    .concat();
    let cases: BTreeSet<(String, String)> = cases
        .into_iter()
        .map(|(at, sentence)| (at.to_owned(), sentence.to_owned()))
        .collect();
    assert_eq!(
        documented.difference(&cases).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "without a case"
    );
    assert_eq!(
        cases.difference(&documented).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "without a sentence"
    );
}
