//! ExternalAccesses: networks, and names whose addresses change.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::DeleteParams;
use ringfence_crd::ExternalAccess;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, shared, until};
use crate::names::{is_silent, stands_for};

async fn external(lab: &Lab, namespace: &str, spec: Value) -> ExternalAccess {
    lab.create(
        Some(namespace),
        json!({"metadata": {"name": "out"}, "spec": spec}),
    )
    .await
}

fn to_name(name: &str) -> Value {
    json!({"podSelector": {}, "egress": [{"to": [{"dnsName": name}], "ports": [{"port": 443}]}]})
}

/// Waits until egress to the outside is open to exactly these networks.
async fn open_to(lab: &Lab, namespace: &str, wanted: &[&str]) {
    until(
        &format!("{namespace} to be open to {wanted:?}"),
        LIMIT,
        async || {
            let policies = lab.policies(namespace).await;
            let external = policies
                .iter()
                .filter(|policy| policy.name_any().starts_with("ringfence-external-egress"));
            let mut found: Vec<String> = external
                .flat_map(|policy| policy.spec.clone().unwrap().egress.unwrap_or_default())
                .flat_map(|rule| rule.to.unwrap())
                .map(|peer| peer.ip_block.unwrap().cidr)
                .collect();
            found.sort();
            if found == wanted {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        },
    )
    .await;
}

#[test]
fn networks_are_opened_and_closed_with_the_resource() {
    let lab = shared();
    block_on(async {
        lab.namespace("external-networks").await;
        lab.zero_trust("external-networks").await;
        let spec = json!({"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}], "ingress": [{"from": [{"cidr": "198.51.100.0/24"}]}]});
        external(lab, "external-networks", spec).await;
        open_to(lab, "external-networks", &["203.0.113.0/24"]).await;
        lab.says::<ExternalAccess>("external-networks", "out", "Ready", "True/AsExpected")
            .await;
        let change = json!({"spec": {"egress": [{"to": [{"cidr": "203.0.113.0/25"}]}]}});
        lab.patch::<ExternalAccess>("external-networks", "out", change)
            .await;
        open_to(lab, "external-networks", &["203.0.113.0/25"]).await;
        lab.api::<ExternalAccess>("external-networks")
            .delete("out", &DeleteParams::default())
            .await
            .unwrap();
        open_to(lab, "external-networks", &[]).await;
        lab.policies_are("external-networks", "without the ingress rule", |names| {
            !names.iter().any(|name| name.contains("external"))
        })
        .await;
    });
}

#[test]
fn where_nothing_is_denied_nothing_is_needed() {
    let lab = shared();
    block_on(async {
        lab.namespace("external-open").await;
        external(
            lab,
            "external-open",
            json!({"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}]}),
        )
        .await;
        lab.says::<ExternalAccess>("external-open", "out", "Ready", "True/NotNeeded")
            .await;
        assert!(lab.names("external-open").await.is_empty());
    });
}

#[test]
fn a_names_addresses_are_followed_kept_for_a_while_and_held_when_nobody_answers() {
    let lab = shared();
    block_on(async {
        lab.namespace("external-names").await;
        lab.zero_trust("external-names").await;
        external(lab, "external-names", to_name("followed.example.com")).await;
        lab.says::<ExternalAccess>("external-names", "out", "ResolvedRefs", "False/NameUnresolved")
            .await;
        open_to(lab, "external-names", &[]).await;
        stands_for("followed.example.com", &["203.0.113.1", "2001:db8::1"]);
        open_to(lab, "external-names", &["2001:db8::1/128", "203.0.113.1/32"]).await;
        lab.says::<ExternalAccess>("external-names", "out", "Ready", "True/AsExpected")
            .await;
        // Another address: both for a while, then the new one.
        stands_for("followed.example.com", &["203.0.113.2"]);
        open_to(
            lab,
            "external-names",
            &["2001:db8::1/128", "203.0.113.1/32", "203.0.113.2/32"],
        )
        .await;
        open_to(lab, "external-names", &["203.0.113.2/32"]).await;
        is_silent("followed.example.com");
        until("the silence to be told", LIMIT, async || {
            let external = lab
                .api::<ExternalAccess>("external-names")
                .get("out")
                .await
                .unwrap();
            let said = json!(external.status.unwrap().conditions).to_string();
            if said.contains("stay open until they do") {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
        tokio::time::sleep(crate::names::LIMITS.grace + Duration::from_secs(2)).await;
        open_to(lab, "external-names", &["203.0.113.2/32"]).await;
        lab.says::<ExternalAccess>("external-names", "out", "Ready", "True/AsExpected")
            .await;
    });
}

#[test]
fn a_name_that_points_inside_opens_nothing_also_when_the_inside_grows() {
    let lab = Lab::start();
    let running = lab.operator("inside");
    block_on(async {
        lab.namespace("inside").await;
        lab.zero_trust("inside").await;
        // The range of Services is known from the API server itself.
        let service: k8s_openapi::api::core::v1::Service =
            lab.api("kube-system").get("kube-dns").await.unwrap();
        let ip = service.spec.unwrap().cluster_ip.unwrap();
        stands_for("inside.example.com", &["10.250.0.9", "127.0.0.1", &ip]);
        external(&lab, "inside", to_name("inside.example.com")).await;
        lab.says::<ExternalAccess>("inside", "out", "ResolvedRefs", "False/AddressRefused")
            .await;
        open_to(&lab, "inside", &["10.250.0.9/32"]).await;

        lab.create::<Node>(None, json!({"metadata": {"name": "new"}, "spec": {"podCIDR": "10.250.0.0/24", "podCIDRs": ["10.250.0.0/24"]}}))
            .await;
        open_to(&lab, "inside", &[]).await;
        running.stop().await;
    });
}

#[test]
fn a_restart_while_dns_is_silent_closes_nothing() {
    let lab = Lab::start();
    let running = lab.operator("before");
    block_on(async {
        lab.namespace("restarts").await;
        lab.zero_trust("restarts").await;
        stands_for("restarts.example.com", &["203.0.113.9"]);
        external(&lab, "restarts", to_name("restarts.example.com")).await;
        lab.says::<ExternalAccess>("restarts", "out", "Ready", "True/AsExpected")
            .await;
        let version = |policies: &[k8s_openapi::api::networking::v1::NetworkPolicy]| -> Vec<Option<String>> {
            policies.iter().map(ResourceExt::resource_version).collect()
        };
        let before = version(&lab.policies("restarts").await);
        running.stop().await;
        is_silent("restarts.example.com");
        let running = lab.operator("after");
        until("the silence to be told", LIMIT, async || {
            let external = lab.api::<ExternalAccess>("restarts").get("out").await.unwrap();
            let said = json!(external.status.unwrap().conditions).to_string();
            if said.contains("stay open until they do") {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
        assert_eq!(
            version(&lab.policies("restarts").await),
            before,
            "nothing was written"
        );
        running.stop().await;
    });
}
