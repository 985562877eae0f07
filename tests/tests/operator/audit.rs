//! Mode Audit against a real API server.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use ringfence_crd::{AuditNetworkPolicy, ServiceAccess, ZeroTrustNamespace};
use ringfence_operator::foreign::StagedKubernetesNetworkPolicy;
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

/// A stand-in for Calico's definition: the kind's names, and any spec.
fn calicos_definition() -> serde_json::Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "metadata": {"name": "stagedkubernetesnetworkpolicies.projectcalico.org"},
        "spec": {
            "group": "projectcalico.org",
            "scope": "Namespaced",
            "names": {"kind": "StagedKubernetesNetworkPolicy", "plural": "stagedkubernetesnetworkpolicies"},
            "versions": [{"name": "v3", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

#[test]
fn calico_tries_the_same_policies_out_where_it_knows_how() {
    let lab = Lab::start();
    let _operator = lab.operator("calico");
    block_on(async {
        lab.shop("staged").await;
        let wanted = lab.shop_is_ready("staged").await;
        mode(&lab, "staged", "Audit").await;
        trials_are(&lab, "staged", &wanted).await;
        lab.says::<ZeroTrustNamespace>("staged", "default", "Enforced", "Unknown/AuditMode")
            .await;
        // The kind appears later, and what is on trial is written as that, too.
        lab.create::<CustomResourceDefinition>(None, calicos_definition())
            .await;
        let api = lab.api::<StagedKubernetesNetworkPolicy>("staged");
        let names = async || -> Result<Vec<String>, String> {
            let list = api
                .list(&ListParams::default())
                .await
                .map_err(|error| error.to_string())?;
            let set =
                |policy: &&StagedKubernetesNetworkPolicy| policy.spec.staged_action.as_deref() == Some("Set");
            Ok(list.items.iter().filter(set).map(ResourceExt::name_any).collect())
        };
        until("Calico's kind to hold what is on trial", LIMIT, async || {
            let found = names().await?;
            (found == wanted)
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        })
        .await;
        let of = |policy: &StagedKubernetesNetworkPolicy| policy.spec.policy.clone();
        let staged = api.get("ringfence-deny-ingress").await.unwrap();
        assert_eq!(of(&staged).policy_types, Some(vec!["Ingress".to_owned()]));
        mode(&lab, "staged", "Enforce").await;
        until("Calico's kind to hold nothing", LIMIT, async || {
            let found = names().await?;
            found.is_empty().then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
        lab.shop_is_ready("staged").await;
    });
}
