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

fn policy(uid: &str, owner: Value, writers: Vec<ManagedFieldsEntry>) -> NetworkPolicy {
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

#[test]
fn ours_is_what_is_recorded_or_what_we_wrote_for_an_owner_of_this_namespace() {
    let (zero_trust, access) = (
        "uid-ZeroTrustNamespace-home-default",
        "uid-ServiceAccess-home-api",
    );
    let us = || vec![written_by(FIELD_MANAGER)];
    let them = || vec![written_by("kubectl-client-side-apply")];
    let status_only = ManagedFieldsEntry {
        subresource: Some("status".to_owned()),
        ..written_by(FIELD_MANAGER)
    };
    let cases = [
        (
            "on record, whoever wrote it last",
            policy("uid-recorded", owner("other", true), them()),
            true,
        ),
        (
            "just created for the ZeroTrustNamespace",
            policy("new", owner(zero_trust, true), us()),
            true,
        ),
        (
            "just created for a ServiceAccess",
            policy("new", owner(access, true), us()),
            true,
        ),
        (
            "left with the anchor alone",
            policy("new", serde_json::to_value(anchor()).unwrap(), us()),
            true,
        ),
        (
            "written by us and edited by others",
            policy("new", owner(zero_trust, true), [us(), them()].concat()),
            true,
        ),
        ("labels alone", policy("new", owner("other", true), them()), false),
        (
            "the right owner, another writer",
            policy("new", owner(zero_trust, true), them()),
            false,
        ),
        (
            "our name as writer, an owner of nowhere",
            policy("new", owner("other", true), us()),
            false,
        ),
        (
            "an owner of another namespace",
            policy("new", owner("uid-ServiceAccess-away-api", true), us()),
            false,
        ),
        (
            "an owner that does not control it",
            policy("new", owner(zero_trust, false), us()),
            false,
        ),
        (
            "the anchor, another writer",
            policy("new", serde_json::to_value(anchor()).unwrap(), them()),
            false,
        ),
        (
            "only its status is ours",
            policy("new", owner(zero_trust, true), vec![status_only]),
            false,
        ),
    ];
    for (what, policy, ours) in cases {
        assert_eq!(ledger().is_ours(&policy), ours, "{what}");
    }
}
