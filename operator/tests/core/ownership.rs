//! Whose policy is it.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use ringfence_operator::names::FIELD_MANAGER;
use ringfence_operator::ownership::Ledger;
use serde_json::{Value, json};

use crate::cluster::{anchor, view, written_by};

fn ledger() -> Ledger {
    let view = view(
        "
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce}
status: {policies: [{name: recorded, uid: uid-recorded}]}
---
kind: ServiceAccess
metadata: {name: api, namespace: home}
spec: {targetRef: {name: api}, clients: [{podSelector: {}}]}
---
kind: ServiceAccess
metadata: {name: api, namespace: away}
spec: {targetRef: {name: api}, clients: [{podSelector: {}}]}
",
    );
    Ledger::of(&view, "home")
}

fn policy(uid: &str, owner: &Value, writers: Vec<ManagedFieldsEntry>) -> NetworkPolicy {
    let mut policy: NetworkPolicy = serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": "any", "namespace": "home", "uid": uid,
            "labels": {"app.kubernetes.io/managed-by": "ringfence-operator", "ringfence.dev/origin-namespace": "home"},
            "ownerReferences": [owner],
        },
    }))
    .unwrap();
    policy.metadata.managed_fields = Some(writers);
    policy
}

fn owner(uid: &str, controller: bool) -> Value {
    json!({"apiVersion": "ringfence.dev/v1alpha1", "kind": "X", "name": "x", "uid": uid, "controller": controller})
}

fn us() -> Vec<ManagedFieldsEntry> {
    vec![written_by(FIELD_MANAGER)]
}

fn them() -> Vec<ManagedFieldsEntry> {
    vec![written_by("kubectl-client-side-apply")]
}

fn anchored() -> Value {
    serde_json::to_value(anchor()).unwrap()
}

const ZERO_TRUST: &str = "uid-ZeroTrustNamespace-home-default";
const ACCESS: &str = "uid-ServiceAccess-home-api";

#[test]
fn ours_is_what_is_recorded_or_what_we_wrote_for_an_owner_of_this_namespace() {
    let edited = [us(), them()].concat();
    let cases = [
        (
            "on record, whoever wrote it",
            "uid-recorded",
            owner("other", true),
            them(),
        ),
        (
            "just created, not on record",
            "new",
            owner(ZERO_TRUST, true),
            us(),
        ),
        ("just created for a grant", "new", owner(ACCESS, true), us()),
        ("left with the anchor alone", "new", anchored(), us()),
        ("edited by others since", "new", owner(ZERO_TRUST, true), edited),
    ];
    for (what, uid, owner, writers) in cases {
        assert!(ledger().is_ours(&policy(uid, &owner, writers)), "{what}");
    }
}

#[test]
fn labels_names_owners_or_a_writers_name_alone_prove_nothing() {
    let status_only = ManagedFieldsEntry {
        subresource: Some("status".to_owned()),
        ..written_by(FIELD_MANAGER)
    };
    let cases = [
        ("labels alone", owner("other", true), them()),
        ("the right owner, another writer", owner(ZERO_TRUST, true), them()),
        ("our writer, an owner of nowhere", owner("other", true), us()),
        (
            "an owner of another namespace",
            owner("uid-ServiceAccess-away-api", true),
            us(),
        ),
        ("an owner that does not control", owner(ZERO_TRUST, false), us()),
        ("the anchor, another writer", anchored(), them()),
        (
            "only its status is ours",
            owner(ZERO_TRUST, true),
            vec![status_only],
        ),
    ];
    for (what, owner, writers) in cases {
        assert!(!ledger().is_ours(&policy("new", &owner, writers)), "{what}");
    }
}
