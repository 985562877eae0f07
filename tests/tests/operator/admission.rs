//! The admission policies that an administrator may choose: whom they let, whom they refuse, and what they say.

mod generated;
mod nodes;

use kube::Client;
use serde_json::{Value, json};

use crate::identity::{Identity, OPERATOR, ask};
use crate::lab::{LIMIT, Lab, apply, block_on, until};

const NETWORKING: &str = "/apis/networking.k8s.io/v1";
const RINGFENCE: &str = "/apis/ringfence.dev/v1alpha1";

fn put_in_force(lab: &Lab, names: &[&str]) {
    for name in names {
        apply(&lab.server, &format!("config/admission/{name}"));
    }
}

/// Asks until the API server refuses in these words: a policy is in force a moment after it is written.
pub(crate) async fn refused(client: &Client, method: &str, path: &str, body: &Value, words: &str) {
    let path = format!("{path}?dryRun=All");
    until(
        &format!("{method} {path} to be refused: {words}"),
        LIMIT,
        async || match ask(client, method, &path, body).await {
            Err(said) if said.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

/// Asks until the API server accepts, without effect.
async fn accepted(client: &Client, method: &str, path: &str, body: &Value) {
    let path = format!("{path}?dryRun=All");
    until(&format!("{method} {path} to be accepted"), LIMIT, async || {
        ask(client, method, &path, body).await.map(drop)
    })
    .await;
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "main", "image": "none"}]}})
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

fn networkpolicies(namespace: &str) -> String {
    format!("{NETWORKING}/namespaces/{namespace}/networkpolicies")
}

#[test]
fn pods_wait_for_a_zero_trust_namespace_where_one_is_required() {
    let lab = Lab::start();
    put_in_force(&lab, &["require-zero-trust"]);
    block_on(async {
        for name in ["open", "exempt", "closed"] {
            lab.namespace(name).await;
        }
        let label = json!({"metadata": {"labels": {"ringfence.dev/exempt": "true"}}});
        ask(&lab.client, "PATCH", "/api/v1/namespaces/exempt", &label)
            .await
            .unwrap();
        let pods = |namespace: &str| format!("/api/v1/namespaces/{namespace}/pods");
        let remedy = "create-a-zerotrustnamespace-named-default-in-this-namespace-first";
        refused(&lab.client, "POST", &pods("open"), &pod(), remedy).await;
        for namespace in ["exempt", "kube-system", "ringfence-system"] {
            accepted(&lab.client, "POST", &pods(namespace), &pod()).await;
        }
        // One elsewhere is not enough.
        lab.zero_trust("closed").await;
        accepted(&lab.client, "POST", &pods("closed"), &pod()).await;
        refused(&lab.client, "POST", &pods("open"), &pod(), remedy).await;
        let gone = format!("{RINGFENCE}/namespaces/closed/zerotrustnamespaces/default");
        ask(&lab.client, "DELETE", &gone, &Value::Null).await.unwrap();
        refused(&lab.client, "POST", &pods("closed"), &pod(), remedy).await;
        // An administrator's way out.
        let policy = "validatingadmissionpolicies/ringfence-require-zero-trust";
        let path = format!("/apis/admissionregistration.k8s.io/v1/{policy}");
        ask(&lab.client, "DELETE", &path, &Value::Null).await.unwrap();
        accepted(&lab.client, "POST", &pods("open"), &pod()).await;
    });
}

#[test]
fn foreign_policies_are_refused_where_policies_are_generated() {
    let lab = Lab::start();
    block_on(async {
        for name in ["open", "closed"] {
            lab.namespace(name).await;
        }
        lab.zero_trust("closed").await;
        let allow = policy(
            "own",
            &json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
        );
        let (closed, own) = (
            networkpolicies("closed"),
            format!("{}/own", networkpolicies("closed")),
        );
        ask(&lab.client, "POST", &closed, &allow).await.unwrap();

        put_in_force(&lab, &["forbid-foreign-policies"]);
        let other = policy("other", &json!({"podSelector": {}}));
        let words = "say what is to be open in a ServiceAccess";
        refused(&lab.client, "POST", &closed, &other, words).await;
        let wider = json!({"spec": {"ingress": [{}]}});
        refused(&lab.client, "PATCH", &own, &wider, words).await;
        // What is there can be labelled, is no obstacle to the garbage collector, and can go.
        accepted(
            &lab.client,
            "PATCH",
            &own,
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
        accepted(&lab.client, "DELETE", &own, &Value::Null).await;
        accepted(&lab.client, "POST", &networkpolicies("open"), &other).await;
        let operator = Identity::mighty(OPERATOR).client(&lab);
        accepted(&operator, "POST", &closed, &other).await;
        accepted(&operator, "PATCH", &own, &wider).await;
    });
}

/// Rules that allow everything.
fn everything() -> Vec<Value> {
    vec![
        json!({"ingress": [{}]}),
        json!({"ingress": [{"from": []}]}),
        json!({"ingress": [{"from": [{"podSelector": {}}]}, {"ports": []}]}),
        json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
        json!({"ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {"matchLabels": {}}}]}]}),
        json!({"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}),
        json!({"policyTypes": ["Egress"], "egress": [{}]}),
        json!({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "::/0"}}]}]}),
        json!({"egress": [{"to": [{"namespaceSelector": {"matchExpressions": []}}]}]}),
    ]
}

/// Rules that allow less, if only a little.
fn less() -> Vec<Value> {
    vec![
        json!({}),
        json!({"ingress": []}),
        json!({"ingress": [{"ports": [{"port": 80}]}]}),
        json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
        json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}]}),
        json!({"ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]}]}),
        json!({"ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}]}]}),
        json!({"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}]}),
        json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}),
        // Of the direction that the policy does not govern a rule opens nothing.
        json!({"policyTypes": ["Egress"], "ingress": [{}]}),
    ]
}

#[test]
fn only_rules_that_allow_everything_are_refused_by_the_milder_policy() {
    let lab = Lab::start();
    put_in_force(&lab, &["forbid-allow-all"]);
    block_on(async {
        for name in ["open", "closed"] {
            lab.namespace(name).await;
        }
        lab.zero_trust("closed").await;
        let operator = Identity::mighty(OPERATOR).client(&lab);
        let (closed, open) = (networkpolicies("closed"), networkpolicies("open"));
        let words = "a rule of this NetworkPolicy allows everything";
        for mut spec in everything() {
            spec["podSelector"] = json!({});
            let all = policy("all", &spec);
            refused(&lab.client, "POST", &closed, &all, words).await;
            accepted(&lab.client, "POST", &open, &all).await;
            accepted(&operator, "POST", &closed, &all).await;
        }
        for mut spec in less() {
            spec["podSelector"] = json!({});
            accepted(&lab.client, "POST", &closed, &policy("less", &spec)).await;
        }
    });
}
