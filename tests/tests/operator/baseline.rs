//! The ZeroTrustBaseline against a real API server.

use std::time::Instant;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use ringfence_crd::{ZeroTrustBaseline, ZeroTrustNamespace};
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, condition, until};

fn baselines(lab: &Lab) -> Api<ZeroTrustBaseline> {
    Api::all(lab.client.clone())
}

async fn create(lab: &Lab, spec: Value) {
    let object = json!({"metadata": {"name": "default"}, "spec": spec});
    lab.create::<ZeroTrustBaseline>(None, object).await;
}

async fn change(lab: &Lab, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    baselines(lab)
        .patch("default", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn says(lab: &Lab, kind: &str, wanted: &str) -> ZeroTrustBaseline {
    until(
        &format!("{kind} of the baseline to be {wanted}"),
        LIMIT,
        async || {
            let baseline = baselines(lab).get("default").await.unwrap();
            let value = serde_json::to_value(&baseline).unwrap();
            let conditions = &value["status"]["conditions"];
            if condition(conditions, kind).starts_with(wanted) {
                Ok(baseline)
            } else {
                Err(conditions.to_string())
            }
        },
    )
    .await
}

const DENIED: [&str; 2] = ["ringfence-deny-egress", "ringfence-deny-ingress"];

fn closed() -> Value {
    json!({"mode": "Enforce", "allow": {"dns": {"enabled": false}}, "exemptNamespaces": ["left-alone", "default", "kube-public", "kube-node-lease"]})
}

async fn is_denied(lab: &Lab, namespace: &str) {
    lab.policies_are(namespace, "the two denials", |names| names == DENIED)
        .await;
}

async fn is_open(lab: &Lab, namespace: &str) {
    lab.policies_are(namespace, "none", <[String]>::is_empty).await;
}

#[test]
fn the_baseline_covers_old_and_new_namespaces_and_leaves_them_open_when_it_goes() {
    let lab = Lab::start();
    let _operator = lab.operator("baseline");
    block_on(async {
        lab.namespace("before").await;
        lab.namespace("left-alone").await;
        create(&lab, closed()).await;
        is_denied(&lab, "before").await;
        says(&lab, "Ready", "True/AsExpected").await;

        let (created, name) = (Instant::now(), "after");
        lab.namespace(name).await;
        is_denied(&lab, name).await;
        println!("a new namespace was denied after {:?}", created.elapsed());
        let baseline = says(&lab, "Programmed", "True").await;
        let owner = &lab.policy(name, DENIED[1]).await.owner_references()[0].clone();
        assert_eq!(
            (owner.kind.as_str(), &owner.uid),
            ("ZeroTrustBaseline", &baseline.uid().unwrap())
        );
        for namespace in ["left-alone", "kube-system", "ringfence-system"] {
            assert!(lab.names(namespace).await.is_empty(), "{namespace}");
        }

        // A namespace that speaks for itself goes its own way, and back.
        let own = json!({"metadata": {"name": "default"}, "spec": {"mode": "Enforce",
            "allow": {"sameNamespace": "All", "dns": {"enabled": false}}}});
        lab.create::<ZeroTrustNamespace>(Some("before"), own).await;
        lab.says::<ZeroTrustNamespace>("before", "default", "Accepted", "False/NotPermitted")
            .await;
        change(&lab, json!({"mayLoosen": ["SameNamespace"]})).await;
        lab.says::<ZeroTrustNamespace>("before", "default", "Ready", "True/AsExpected")
            .await;
        assert_eq!(lab.names("before").await.len(), 4);
        let api = lab.api::<ZeroTrustNamespace>("before");
        api.delete("default", &DeleteParams::default()).await.unwrap();
        is_denied(&lab, "before").await;

        change(
            &lab,
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "after"}}}),
        )
        .await;
        is_open(&lab, "before").await;
        is_denied(&lab, "after").await;
        baselines(&lab)
            .delete("default", &DeleteParams::default())
            .await
            .unwrap();
        is_open(&lab, "after").await;
    });
}

#[test]
fn a_baseline_on_trial_denies_nothing_and_a_policy_that_is_edited_is_put_back() {
    let lab = Lab::start();
    let _operator = lab.operator("baseline");
    block_on(async {
        lab.namespace("shop").await;
        let mut spec = closed();
        spec["mode"] = json!("Audit");
        create(&lab, spec).await;
        says(&lab, "Enforced", "Unknown/AuditMode").await;
        let ready = says(&lab, "Ready", "True/AsExpected").await;
        assert_eq!(ready.status.unwrap().namespaces.unwrap().selected, 1);
        assert!(lab.names("shop").await.is_empty());
        change(&lab, json!({"mode": "Enforce"})).await;
        is_denied(&lab, "shop").await;
        let opened = json!({"spec": {"ingress": [{}]}});
        lab.patch::<k8s_openapi::api::networking::v1::NetworkPolicy>("shop", DENIED[1], opened)
            .await;
        until("the edit to be undone", LIMIT, async || {
            let policy = lab.policy("shop", DENIED[1]).await;
            let rules = policy.spec.and_then(|spec| spec.ingress);
            rules.is_none().then_some(()).ok_or_else(|| format!("{rules:?}"))
        })
        .await;
    });
}
