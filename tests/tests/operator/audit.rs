//! Mode Audit against a real API server.

use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use ringfence_crd::{AuditNetworkPolicy, ServiceAccess, ZeroTrustNamespace};
use serde_json::json;

use crate::lab::{LIMIT, Lab, block_on, shared, until};

async fn trials(lab: &Lab, namespace: &str) -> Vec<AuditNetworkPolicy> {
    let api = lab.api::<AuditNetworkPolicy>(namespace);
    api.list(&ListParams::default()).await.unwrap().items
}

async fn trials_are(lab: &Lab, namespace: &str, wanted: &[String]) {
    let what = format!("the policies on trial of {namespace} to be {wanted:?}");
    until(&what, LIMIT, async || {
        let names: Vec<String> = trials(lab, namespace)
            .await
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        if names == wanted {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
}

async fn mode(lab: &Lab, namespace: &str, mode: &str) {
    let patch = json!({"spec": {"mode": mode}});
    lab.patch::<ZeroTrustNamespace>(namespace, "default", patch).await;
}

#[test]
fn the_same_policies_go_on_trial_and_into_force_and_back_as_the_mode_says() {
    let lab = shared();
    block_on(async {
        lab.shop("tried").await;
        let enforced = lab.shop_is_ready("tried").await;
        assert!(trials(lab, "tried").await.is_empty());

        mode(lab, "tried", "Audit").await;
        trials_are(lab, "tried", &enforced).await;
        lab.policies_are("tried", "gone", <[String]>::is_empty).await;
        lab.says::<ZeroTrustNamespace>("tried", "default", "Enforced", "Unknown/AuditMode")
            .await;
        lab.says::<ZeroTrustNamespace>("tried", "default", "Ready", "True/AsExpected")
            .await;
        lab.says::<ServiceAccess>("tried", "api", "Ready", "True/AsExpected")
            .await;

        mode(lab, "tried", "Enforce").await;
        lab.policies_are("tried", "what they were", |names| names == enforced)
            .await;
        trials_are(lab, "tried", &[]).await;
    });
}

#[test]
fn a_policy_on_trial_that_somebody_edits_or_deletes_is_put_back() {
    let lab = shared();
    block_on(async {
        lab.namespace("tampered").await;
        let resource = json!({"metadata": {"name": "default"},
            "spec": {"mode": "Audit", "allow": {"dns": {"enabled": false}}}});
        lab.create::<ZeroTrustNamespace>(Some("tampered"), resource).await;
        let names = [
            "ringfence-deny-egress".to_owned(),
            "ringfence-deny-ingress".to_owned(),
        ];
        trials_are(lab, "tampered", &names).await;
        lab.says::<ZeroTrustNamespace>("tampered", "default", "Ready", "True/AsExpected")
            .await;
        let opened = json!({"spec": {"ingress": [{}]}});
        lab.patch::<AuditNetworkPolicy>("tampered", &names[1], opened)
            .await;
        until("the edit to be undone", LIMIT, async || {
            let found = trials(lab, "tampered").await;
            if found.iter().all(|policy| policy.spec.ingress.is_none()) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
        let api = lab.api::<AuditNetworkPolicy>("tampered");
        api.delete(&names[0], &DeleteParams::default()).await.unwrap();
        trials_are(lab, "tampered", &names).await;
    });
}

#[test]
fn a_namespace_on_trial_that_gets_rid_of_its_resource_gets_rid_of_its_trials() {
    let lab = shared();
    block_on(async {
        lab.shop("released").await;
        mode(lab, "released", "Audit").await;
        lab.policies_are("released", "gone", <[String]>::is_empty).await;
        lab.says::<ZeroTrustNamespace>("released", "default", "Ready", "True/AsExpected")
            .await;
        let api = lab.api::<ZeroTrustNamespace>("released");
        api.delete("default", &DeleteParams::default()).await.unwrap();
        trials_are(lab, "released", &[]).await;
    });
}
