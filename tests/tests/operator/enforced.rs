//! What the operator makes of nodes' reports.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use ringfence_crd::{
    AppliedNamespace, NodeEnforcement, NodeEnforcementStatus, ServiceAccess, ZeroTrustNamespace,
};
use ringfence_enforcer::metrics::Counters;
use ringfence_enforcer::report::writer::Writer;
use ringfence_policy::{Version, applied_digest};
use serde_json::json;

use crate::lab::{LIMIT, Lab, block_on, until};

const NODE: &str = "worker-1";
const OTHER: &str = "worker-2";

/// What an enforcer says whose kernel holds what the namespace has now.
async fn holds(lab: &Lab, node: &Node, namespace: &str) -> NodeEnforcementStatus {
    let policies = lab.policies(namespace).await;
    let versions: Vec<(String, Version)> = policies
        .iter()
        .map(|policy| {
            let version = Version {
                uid: policy.uid().unwrap(),
                generation: policy.metadata.generation.unwrap(),
            };
            (policy.name_any(), version)
        })
        .collect();
    let applied = AppliedNamespace {
        name: namespace.to_owned(),
        digest: applied_digest(versions.iter().map(|(name, version)| (name.as_str(), version))),
        ..AppliedNamespace::default()
    };
    NodeEnforcementStatus {
        node_uid: node.uid().unwrap(),
        namespaces: vec![applied],
        ..NodeEnforcementStatus::default()
    }
}

async fn say(lab: &Lab, wanted: &str) {
    lab.says::<ZeroTrustNamespace>("reported", "default", "Enforced", wanted)
        .await;
    lab.says::<ServiceAccess>("reported", "api", "Enforced", wanted)
        .await;
}

#[test]
fn enforced_follows_what_nodes_report_and_whether_they_live() {
    let lab = Lab::start();
    let _operator = lab.operator("reported");
    block_on(async {
        let node: Node = lab.create(None, json!({"metadata": {"name": NODE}})).await;
        lab.shop("reported").await;
        let account = json!({"metadata": {"name": "default"}});
        lab.create::<k8s_openapi::api::core::v1::ServiceAccount>(Some("reported"), account)
            .await;
        let pod = json!({
            "metadata": {"name": "api-0", "labels": {"app": "api"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]},
        });
        lab.create::<Pod>(Some("reported"), pod).await;
        let status =
            json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
        lab.api::<Pod>("reported")
            .patch_status("api-0", &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
        lab.shop_is_ready("reported").await;
        say(&lab, "Unknown/NoEnforcer").await;

        let writer = Writer::start(&lab.client, NODE, Some("ringfence-system"), &Counters::default());
        let early = NodeEnforcementStatus {
            node_uid: node.uid().unwrap(),
            ..NodeEnforcementStatus::default()
        };
        writer.tell(early);
        say(&lab, "False/NodesPending").await;
        lab.says::<ZeroTrustNamespace>("reported", "default", "Ready", "False/NodesPending")
            .await;
        writer.tell(holds(&lab, &node, "reported").await);
        say(&lab, "True/Enforced").await;
        lab.shop_is_ready("reported").await;
        let column = lab
            .api::<ZeroTrustNamespace>("reported")
            .get("default")
            .await
            .unwrap();
        assert_eq!(column.status.unwrap().enforced.as_deref(), Some("1/1"));

        // A policy of somebody else is one more that the node has to hold.
        let own =
            json!({"metadata": {"name": "own"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        lab.create::<k8s_openapi::api::networking::v1::NetworkPolicy>(Some("reported"), own)
            .await;
        say(&lab, "False/NodesPending").await;
        writer.tell(holds(&lab, &node, "reported").await);
        say(&lab, "True/Enforced").await;

        // Its Lease runs out at once when it goes.
        drop(writer);
        let leases = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
            lab.client.clone(),
            "ringfence-system",
        );
        let name = format!("ringfence-enforcer-{NODE}");
        leases.delete(&name, &DeleteParams::default()).await.unwrap();
        say(&lab, "Unknown/NodesStale").await;
        lab.shop_is_ready("reported").await;

        goes(&lab).await;
    });
}

/// The node goes, and with it its report, before the API hears of its pods' end. Another node still reports.
async fn goes(lab: &Lab) {
    let other: Node = lab.create(None, json!({"metadata": {"name": OTHER}})).await;
    let writer = Writer::start(&lab.client, OTHER, Some("ringfence-system"), &Counters::default());
    writer.tell(NodeEnforcementStatus {
        node_uid: other.uid().unwrap(),
        ..NodeEnforcementStatus::default()
    });
    until("the other node's report", LIMIT, async || {
        let found = reports(lab).get_opt(OTHER).await.unwrap();
        found.map(drop).ok_or_else(|| "none".to_owned())
    })
    .await;
    reports(lab).delete(NODE, &DeleteParams::default()).await.unwrap();
    say(lab, "False/NodesPending").await;
    let now = DeleteParams::default().grace_period(0);
    lab.api::<Pod>("reported").delete("api-0", &now).await.unwrap();
    say(lab, "True/Enforced").await;
}

fn reports(lab: &Lab) -> Api<NodeEnforcement> {
    Api::all(lab.client.clone())
}
