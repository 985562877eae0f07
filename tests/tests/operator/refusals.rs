//! Writes that the API server refuses, or stores otherwise than they were sent.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use kube::Api;
use kube::api::DeleteParams;
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use serde_json::{Value, json};

use crate::lab::{Lab, block_on, shared};

/// Generated policies of one namespace, as an admission policy matches them.
fn policies_of(namespace: &str, operations: &[&str]) -> Value {
    let rule = json!({"apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "resources": ["networkpolicies"],
        "operations": operations});
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    json!({"resourceRules": [rule], "namespaceSelector": selector, "matchPolicy": "Equivalent"})
}

/// Refuses to let policies with such a name be created in a namespace.
async fn refuse(lab: &Lab, namespace: &str, beginning: &str) {
    let expression = format!("!object.metadata.name.startsWith('{beginning}')");
    let policy = json!({"metadata": {"name": namespace}, "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": policies_of(namespace, &["CREATE"]),
        "validations": [{"expression": expression, "message": "no such policy here"}],
    }});
    lab.create::<ValidatingAdmissionPolicy>(None, policy).await;
    let binding = json!({"metadata": {"name": namespace}, "spec": {"policyName": namespace, "validationActions": ["Deny"]}});
    lab.create::<ValidatingAdmissionPolicyBinding>(None, binding)
        .await;
}

/// Makes every policy that denies ingress in a namespace select no pod, behind the back of whoever writes it.
async fn subvert(lab: &Lab, namespace: &str) {
    let policy = json!({"metadata": {"name": namespace}, "spec": {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": policies_of(namespace, &["CREATE", "UPDATE"]),
        "matchConditions": [{"name": "deny", "expression": "object.metadata.name == 'ringfence-deny-ingress'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {
            "expression": "[JSONPatch{op: 'add', path: '/spec/podSelector/matchLabels', value: {'no': 'pod'}}]"}}],
    }});
    lab.create::<MutatingAdmissionPolicy>(None, policy).await;
    let binding = json!({"metadata": {"name": namespace}, "spec": {"policyName": namespace}});
    lab.create::<MutatingAdmissionPolicyBinding>(None, binding).await;
}

/// Admission policies take effect a moment after they are written: waits until a policy is treated as `expected`.
async fn in_force(lab: &Lab, namespace: &str, name: &str, refused: impl Fn(Result<Value, String>) -> bool) {
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    crate::lab::until(
        "the admission policy to be in force",
        crate::lab::LIMIT,
        async || {
            let params = kube::api::PostParams {
                dry_run: true,
                ..Default::default()
            };
            let body = serde_json::to_vec(&object).unwrap();
            let request = kube::core::Request::new(path.clone())
                .create(&params, body)
                .unwrap();
            let answer = lab
                .client
                .request::<Value>(request)
                .await
                .map_err(|error| error.to_string());
            if refused(answer.clone()) {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        },
    )
    .await;
}

#[test]
fn a_refused_write_is_told_stops_nothing_elsewhere_and_is_made_up_for() {
    let lab = shared();
    block_on(async {
        lab.namespace("refused").await;
        refuse(lab, "refused", "ringfence-access-ingress").await;
        in_force(lab, "refused", "ringfence-access-ingress", |answer| {
            answer.is_err()
        })
        .await;
        lab.shop("refused-not").await;
        let ports = json!([{"name": "http", "port": 80}]);
        lab.service(
            "refused",
            "api",
            json!({"selector": {"app": "api"}, "ports": ports}),
        )
        .await;
        lab.zero_trust("refused").await;
        lab.access("refused", "api", json!([{"podSelector": {}}])).await;

        lab.says::<ZeroTrustNamespace>("refused", "default", "Programmed", "False/WriteFailed")
            .await;
        lab.says::<ServiceAccess>("refused", "api", "Programmed", "False/WriteFailed")
            .await;
        let resource = lab.api::<ServiceAccess>("refused").get("api").await.unwrap();
        let conditions = json!(resource.status.unwrap_or_default().conditions).to_string();
        assert!(conditions.contains("no such policy here"), "{conditions}");
        lab.shop_is_ready("refused-not").await;

        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(lab.client.clone());
        bindings
            .delete("refused", &DeleteParams::default())
            .await
            .unwrap();
        lab.shop_is_ready("refused").await;
    });
}

#[test]
fn a_write_that_is_altered_on_its_way_is_told_and_not_repeated_without_end() {
    let lab = Lab::start();
    let running = lab.operator("altered");
    block_on(async {
        lab.namespace("altered").await;
        subvert(&lab, "altered").await;
        let altered = |answer: Result<Value, String>| {
            answer.is_ok_and(|object| !object["spec"]["podSelector"]["matchLabels"].is_null())
        };
        in_force(&lab, "altered", "ringfence-deny-ingress", altered).await;
        lab.zero_trust("altered").await;
        lab.says::<ZeroTrustNamespace>("altered", "default", "Ready", "False")
            .await;
        let resource = lab
            .api::<ZeroTrustNamespace>("altered")
            .get("default")
            .await
            .unwrap();
        let conditions = json!(resource.status.unwrap_or_default().conditions).to_string();
        assert!(
            conditions.contains("spec.podSelector") && conditions.contains("ringfence-deny-ingress"),
            "{conditions}"
        );

        let updates = async || {
            let metrics = running.metrics().await;
            let line = metrics
                .iter()
                .find(|line| line.contains(r#"kind="NetworkPolicy",verb="replace""#));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
                .unwrap_or_default()
        };
        let before = updates().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let attempts = updates().await - before;
        assert!(attempts < 20, "{attempts} attempts in 10 s");
        running.stop().await;
    });
}
