//! Who may say what a node's kernel holds.

use kube::Client;
use serde_json::{Value, json};

use super::{RINGFENCE, accepted, put_in_force, refused};
use crate::identity::{COLLECTOR, ENFORCER, Identity, ask};
use crate::lab::{Lab, apply, block_on};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ringfence-system/leases";
const WORDS: &str = "only the enforcer of a node writes its NodeEnforcement";

fn lab() -> Lab {
    let lab = Lab::start();
    apply(&lab.server, "config/rbac/enforcer");
    put_in_force(&lab, &["node-enforcement"]);
    lab
}

/// The enforcer of this node, with the rights that it has.
fn enforcer(lab: &Lab, node: &str) -> Client {
    Identity::plain(ENFORCER).on_node(node).client(lab)
}

/// All who may not speak for the node `one`: however mighty, of another node, and with a token of no node.
fn others(lab: &Lab) -> [Client; 4] {
    [
        lab.client.clone(),
        Identity::mighty("somebody").on_node("one").client(lab),
        enforcer(lab, "other"),
        Identity::plain(ENFORCER).client(lab),
    ]
}

fn reports() -> String {
    format!("{RINGFENCE}/nodeenforcements")
}

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name}})
}

#[test]
fn a_node_is_reported_of_by_its_own_enforcer_only() {
    let lab = lab();
    block_on(async {
        let report = json!({"apiVersion": "ringfence.dev/v1alpha1", "kind": "NodeEnforcement",
            "metadata": {"name": "one"}, "spec": {}});
        for client in others(&lab) {
            refused(&client, "POST", &reports(), &report, WORDS).await;
        }
        let one = enforcer(&lab, "one");
        ask(&one, "POST", &reports(), &report).await.unwrap();
        let own = format!("{}/one", reports());
        let (object, status) = (
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"status": {"nodeUID": "x", "version": "x", "backend": "nft", "families": ["IPv4"], "pods": 1,
                "isolatedPods": 0, "policies": 0, "sets": 0, "rules": 1, "notAppliedCount": 0}}),
        );
        accepted(&one, "PATCH", &own, &object).await;
        accepted(&one, "PATCH", &format!("{own}/status"), &status).await;
        for client in others(&lab) {
            refused(&client, "PATCH", &own, &object, WORDS).await;
            refused(&client, "PATCH", &format!("{own}/status"), &status, WORDS).await;
        }
        // When the node goes, and when everything goes.
        let collector = Identity::plain(COLLECTOR).client(&lab);
        let orphan = json!({"metadata": {"ownerReferences": null}});
        accepted(&collector, "PATCH", &own, &orphan).await;
        accepted(&collector, "DELETE", &own, &Value::Null).await;
        accepted(&lab.client, "DELETE", &own, &Value::Null).await;
        let mighty = Identity::mighty(ENFORCER).on_node("one").client(&lab);
        refused(&mighty, "DELETE", &own, &Value::Null, WORDS).await;
    });
}

#[test]
fn an_enforcer_renews_its_own_lease_and_no_other() {
    let lab = lab();
    block_on(async {
        for client in others(&lab) {
            refused(&client, "POST", LEASES, &lease("ringfence-enforcer-one"), WORDS).await;
        }
        let one = enforcer(&lab, "one");
        ask(&one, "POST", LEASES, &lease("ringfence-enforcer-one"))
            .await
            .unwrap();
        let own = format!("{LEASES}/ringfence-enforcer-one");
        let again = json!({"spec": {"holderIdentity": "again"}});
        accepted(&one, "PATCH", &own, &again).await;
        for client in others(&lab) {
            refused(&client, "PATCH", &own, &again, WORDS).await;
        }
        // An enforcer's token is no good for the operators' election.
        ask(&lab.client, "POST", LEASES, &lease("ringfence-operator"))
            .await
            .unwrap();
        let election = format!("{LEASES}/ringfence-operator");
        refused(&one, "PATCH", &election, &again, WORDS).await;
        accepted(&lab.client, "PATCH", &election, &again).await;
        // A Lease of that name in another namespace says nothing of a node.
        let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
        accepted(&lab.client, "POST", elsewhere, &lease("ringfence-enforcer-one")).await;
        let collector = Identity::plain(COLLECTOR).client(&lab);
        accepted(&collector, "DELETE", &own, &Value::Null).await;
        accepted(&lab.client, "DELETE", &own, &Value::Null).await;
    });
}
