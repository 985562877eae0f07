//! What each node's enforcer reports of it.

use anyhow::{Result, ensure};
use ringfence_policy::{Version, applied_digest};
use ringfence_tests::kube_objects::{apply, get};
use serde_json::{Value, json};

use crate::lab::Lab;

const SHOP: &str = "production";

pub(crate) fn every_node_reports_what_its_kernel_holds(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    lab.until("every node reports the policies that are in the API", || {
        agree(lab)
    })?;
    let before = applied(lab)?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one-more", "namespace": SHOP},
        "spec": {"podSelector": {}},
    });
    apply(&lab.cluster, &policy.to_string())?;
    lab.until("the reports follow the change", || {
        Ok(agree(lab)? && applied(lab)? != before)
    })?;
    lab.kubectl(&["-n", SHOP, "delete", "networkpolicy", "one-more"])?;
    lab.until("the reports are what they were", || {
        Ok(agree(lab)? && applied(lab)? == before)
    })?;
    owned_and_alive(lab)
}

pub(crate) fn status_tells_whether_the_enforcers_live(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    lab.until("the nodes hold the policies", || says(lab, "True/Enforced"))?;
    lab.send_enforcers_away()?;
    lab.until("nobody says that they do any more", || {
        says(lab, "Unknown/NodesStale")
    })?;
    lab.bring_enforcers_back()?;
    lab.until("the nodes hold them again", || says(lab, "True/Enforced"))
}

/// Whether this is what Enforced says, and the resources are ready.
fn says(lab: &Lab, wanted: &str) -> Result<bool> {
    let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Enforced\")].status}/{.status.conditions[?(@.type==\"Enforced\")].reason} {end}";
    let said = lab.kubectl(&["-n", SHOP, "get", "ztn,sva", "-o", path])?;
    Ok(!said.is_empty() && said.split_whitespace().all(|one| one == wanted))
}

/// Each object belongs to its node, and each enforcer's Lease is renewed.
pub(crate) fn owned_and_alive(lab: &Lab) -> Result<()> {
    for report in reports(lab)? {
        let owner = &report["metadata"]["ownerReferences"][0];
        ensure!(
            owner["kind"] == "Node" && owner["name"] == report["metadata"]["name"],
            "{owner}"
        );
        let status = &report["status"];
        ensure!(
            status["rules"].as_i64() > Some(0) && status["lastError"].is_null(),
            "{status}"
        );
    }
    let first = leases(lab)?;
    ensure!(first.len() == lab.cluster.nodes().len(), "Leases: {first:?}");
    lab.until("every Lease is renewed", || {
        Ok(leases(lab)?.iter().zip(&first).all(|(now, then)| now > then))
    })
}

/// Every node reports, and where it has pods of the shop it holds exactly the policies that the API server has.
pub(crate) fn agree(lab: &Lab) -> Result<bool> {
    let list = ["-n", SHOP, "get", "networkpolicies", "-o", "json"];
    let list: Value = serde_json::from_str(&lab.kubectl(&list)?)?;
    let policies: Vec<(String, Version)> = items(&list)
        .map(|policy| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let version = Version {
                uid: text(&policy["metadata"]["uid"]),
                generation: policy["metadata"]["generation"].as_i64().unwrap_or_default(),
            };
            (text(&policy["metadata"]["name"]), version)
        })
        .collect();
    let wanted = applied_digest(policies.iter().map(|(name, version)| (name.as_str(), version)));
    let held = applied(lab)?;
    let all_report = reports(lab)?.len() == lab.cluster.nodes().len();
    Ok(all_report && !held.is_empty() && held.iter().all(|digest| *digest == wanted))
}

/// The digests of the shop's policies that nodes report.
fn applied(lab: &Lab) -> Result<Vec<String>> {
    let shops = of_namespace(lab, SHOP)?;
    Ok(shops
        .iter()
        .filter_map(|shop| shop["digest"].as_str().map(str::to_owned))
        .collect())
}

/// What nodes with pods of a namespace report of it.
pub(crate) fn of_namespace(lab: &Lab, name: &str) -> Result<Vec<Value>> {
    let reports = reports(lab)?;
    let namespaces = reports
        .iter()
        .flat_map(|report| report["status"]["namespaces"].as_array().into_iter().flatten());
    let of_this = namespaces.filter(|namespace| namespace["name"] == *name);
    Ok(of_this.cloned().collect())
}

fn reports(lab: &Lab) -> Result<Vec<Value>> {
    let list = get(&lab.cluster, &["nodeenforcements"])?;
    Ok(items(&list).cloned().collect())
}

/// When each enforcer's Lease was last renewed.
fn leases(lab: &Lab) -> Result<Vec<String>> {
    let list = ["-n", "ringfence-system", "get", "leases", "-o", "json"];
    let list: Value = serde_json::from_str(&lab.kubectl(&list)?)?;
    let of_enforcers = items(&list).filter(|lease| {
        let name = lease["metadata"]["name"].as_str();
        name.is_some_and(|name| name.starts_with("ringfence-enforcer-"))
    });
    Ok(of_enforcers
        .filter_map(|lease| lease["spec"]["renewTime"].as_str().map(str::to_owned))
        .collect())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}
