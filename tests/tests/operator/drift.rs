//! What others do to generated policies, and what they own.

use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::DeleteParams;
use ringfence_crd::ZeroTrustNamespace;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, shared, until};

/// Within this time a repair must be done.
const SOON: Duration = Duration::from_secs(2);
/// How often a change is repeated that was not repaired that soon: the machine may have stood still.
const TRIES: usize = 3;

/// Edits a generated policy and waits until it is as before. How long that took.
async fn edited(lab: &Lab, namespace: &str, beginning: &str, edit: Value) -> Duration {
    let before = lab.policy(namespace, beginning).await;
    let name = before.name_any();
    let after = lab.patch::<NetworkPolicy>(namespace, &name, edit.clone()).await;
    let start = Instant::now();
    assert_ne!(facts(&after), facts(&before), "{edit} changes nothing in {name}");
    until(
        &format!("{name} to be repaired after {edit}"),
        LIMIT,
        async || {
            let now = lab.policy(namespace, beginning).await;
            if facts(&now) == facts(&before) {
                Ok(())
            } else {
                Err(format!("{:?}", now.spec))
            }
        },
    )
    .await;
    let after = lab.policy(namespace, beginning).await;
    assert_eq!(
        after.uid(),
        before.uid(),
        "{name} was replaced, not deleted: nothing was open in between"
    );
    start.elapsed()
}

/// Deletes a policy. Returns how long it was gone.
async fn deleted(lab: &Lab, namespace: &str, beginning: &str) -> Duration {
    let before = lab.policy(namespace, beginning).await;
    let api = lab.api::<NetworkPolicy>(namespace);
    api.delete(&before.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    let start = Instant::now();
    let again = until("the policy to be back", LIMIT, async || {
        let found = api.get_opt(&before.name_any()).await.unwrap();
        found.ok_or("it is gone".to_owned())
    })
    .await;
    let took = start.elapsed();
    assert_eq!((&again.spec, again.labels()), (&before.spec, before.labels()));
    took
}

/// Shows that a repair comes soon in one of a few tries.
async fn comes_soon(what: &str, mut repair: impl AsyncFnMut() -> Duration) {
    let mut took = Vec::new();
    for _ in 0..TRIES {
        took.push(repair().await);
        if took.last().is_some_and(|took| *took < SOON) {
            return;
        }
    }
    panic!("{what} took {took:?}");
}

/// What of a policy is ours to repair.
fn facts(policy: &NetworkPolicy) -> (Value, Value, Value) {
    let owners = serde_json::to_value(policy.owner_references()).unwrap();
    let labels = serde_json::to_value(policy.labels()).unwrap();
    (serde_json::to_value(&policy.spec).unwrap(), labels, owners)
}

/// Policies by the beginning of their names, and what somebody might do to them.
fn edits() -> Vec<(&'static str, Value)> {
    let peers = json!([{"podSelector": {}}]);
    vec![
        ("ringfence-deny-ingress", json!({"spec": {"ingress": [{}]}})),
        (
            "ringfence-deny-ingress",
            json!({"spec": {"ingress": [{"from": peers}]}}),
        ),
        (
            "ringfence-deny-ingress",
            json!({"spec": {"egress": [{}], "policyTypes": ["Ingress", "Egress"]}}),
        ),
        (
            "ringfence-deny-ingress",
            json!({"spec": {"podSelector": {"matchLabels": {"no": "pod"}}}}),
        ),
        (
            "ringfence-deny-ingress",
            json!({"metadata": {"ownerReferences": null}}),
        ),
        ("ringfence-deny-egress", json!({"spec": {"egress": [{}]}})),
        (
            "ringfence-deny-egress",
            json!({"spec": {"policyTypes": ["Ingress"]}}),
        ),
        ("ringfence-dns", json!({"spec": {"egress": [{}]}})),
        (
            "ringfence-access-ingress",
            json!({"spec": {"ingress": [{"from": peers, "ports": [{"port": 22}]}]}}),
        ),
        (
            "ringfence-access-ingress",
            json!({"spec": {"ingress": [{"ports": [{"port": 8080}]}]}}),
        ),
        ("ringfence-access-ingress", json!({"spec": {"ingress": null}})),
        (
            "ringfence-access-ingress",
            json!({"metadata": {"labels": {"ringfence.dev/origin-name": "other"}}}),
        ),
    ]
}

#[test]
fn every_edit_of_a_generated_policy_is_put_back_within_two_seconds_and_told() {
    let lab = shared();
    block_on(async {
        lab.shop("edited").await;
        lab.shop_is_ready("edited").await;
        for (policy, edit) in edits() {
            let what = format!("the repair of {policy} after {edit}");
            comes_soon(&what, async || edited(lab, "edited", policy, edit.clone()).await).await;
        }
        // Events of one kind about one policy are one, with a count.
        until("an Event about each policy", LIMIT, async || {
            let told = lab.events("edited", "Repaired").await;
            let names = [
                "ringfence-deny-ingress",
                "ringfence-deny-egress",
                "ringfence-dns",
                "ringfence-access-ingress",
            ];
            let all = names
                .iter()
                .all(|name| told.iter().any(|note| note.contains(name)));
            if all { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    });
}

#[test]
fn a_deleted_policy_is_created_again_within_two_seconds_and_told() {
    let lab = shared();
    block_on(async {
        lab.shop("deleted").await;
        lab.shop_is_ready("deleted").await;
        for beginning in [
            "ringfence-deny-egress",
            "ringfence-access-ingress",
            "ringfence-dns",
        ] {
            let what = format!("the return of {beginning}");
            comes_soon(&what, async || deleted(lab, "deleted", beginning).await).await;
        }
        until("an Event", LIMIT, async || {
            let told = lab.events("deleted", "Repaired").await;
            if told.iter().any(|note| note.contains("deleted")) {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
        lab.shop_is_ready("deleted").await;
    });
}

#[test]
fn additions_that_change_no_meaning_are_left_to_whoever_made_them() {
    let lab = shared();
    block_on(async {
        lab.shop("noted").await;
        lab.shop_is_ready("noted").await;
        let note = json!({"metadata": {"annotations": {"example.com/note": "kept"}, "labels": {"example.com/team": "kept"}}});
        lab.patch::<NetworkPolicy>("noted", "ringfence-deny-ingress", note)
            .await;
        edited(
            lab,
            "noted",
            "ringfence-deny-ingress",
            json!({"spec": {"ingress": [{}]}}),
        )
        .await;
        let policy = lab.policy("noted", "ringfence-deny-ingress").await;
        assert_eq!(policy.annotations()["example.com/note"], "kept");
        assert_eq!(policy.labels()["example.com/team"], "kept");
    });
}

#[test]
fn a_hand_made_policy_with_a_generated_name_is_never_touched_and_is_named_in_the_status() {
    let lab = shared();
    block_on(async {
        lab.namespace("squatted").await;
        let own = json!({"metadata": {"name": "ringfence-deny-ingress"}, "spec": {"podSelector": {"matchLabels": {"mine": "yes"}}}});
        let own = lab.create::<NetworkPolicy>(Some("squatted"), own).await;
        lab.zero_trust("squatted").await;
        lab.says::<ZeroTrustNamespace>("squatted", "default", "Ready", "False/NameConflict")
            .await;
        lab.says::<ZeroTrustNamespace>("squatted", "default", "Stalled", "True")
            .await;
        lab.policy("squatted", "ringfence-deny-egress").await;
        let now = lab.policy("squatted", "ringfence-deny-ingress").await;
        assert_eq!(now.resource_version(), own.resource_version(), "it was touched");

        let api = lab.api::<NetworkPolicy>("squatted");
        api.delete("ringfence-deny-ingress", &DeleteParams::default())
            .await
            .unwrap();
        lab.says::<ZeroTrustNamespace>("squatted", "default", "Ready", "True/AsExpected")
            .await;

        lab.api::<ZeroTrustNamespace>("squatted")
            .delete("default", &DeleteParams::default())
            .await
            .unwrap();
        lab.policies_are("squatted", "none", <[String]>::is_empty).await;
    });
}

#[test]
fn a_copy_of_a_generated_policy_is_never_touched_whatever_it_says_of_itself() {
    let lab = shared();
    block_on(async {
        lab.shop("copied").await;
        lab.shop_is_ready("copied").await;
        let original = lab.policy("copied", "ringfence-access-ingress").await;
        // As from `kubectl get -o yaml`, with another name and without what the server sets.
        let mut copy = serde_json::to_value(&original).unwrap();
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "managedFields",
        ] {
            copy["metadata"].as_object_mut().unwrap().remove(field);
        }
        copy["metadata"]["name"] = json!("copy");
        let copy = lab.create::<NetworkPolicy>(Some("copied"), copy).await;
        // Another change makes the operator look at the namespace again, and so does the end of it.
        edited(
            lab,
            "copied",
            "ringfence-deny-ingress",
            json!({"spec": {"ingress": [{}]}}),
        )
        .await;
        lab.api::<ZeroTrustNamespace>("copied")
            .delete("default", &DeleteParams::default())
            .await
            .unwrap();
        lab.policies_are("copied", "the copy", |names| names == ["copy"])
            .await;
        let now = lab.policy("copied", "copy").await;
        assert_eq!(
            (now.uid(), now.resource_version()),
            (copy.uid(), copy.resource_version())
        );
    });
}
