//! What Argo CD needs to know of our kinds: it has no health for a kind that it does not know, and lets sync waves pass at once.

use crate::{GROUP, crds::HEADER};

/// How a resource of any of our kinds fares, in the language that Argo CD asks.
const HEALTH: &str = include_str!("argocd/health.lua");

/// The kinds that people write and that have a status.
pub const HEALTH_KINDS: [&str; 5] = [
    "EnforcementProbe",
    "ExternalAccess",
    "ServiceAccess",
    "ZeroTrustBaseline",
    "ZeroTrustNamespace",
];

/// Every generated file of `config/argocd`: its path there, and its content.
#[must_use]
pub fn argocd() -> Vec<(String, String)> {
    let scripts = HEALTH_KINDS.iter().map(|kind| {
        let path = format!("resource_customizations/{GROUP}/{kind}/health.lua");
        (path, HEALTH.to_owned())
    });
    scripts.chain([("argocd-cm.yaml".to_owned(), patch())]).collect()
}

/// A patch for the ConfigMap that Argo CD is configured by.
fn patch() -> String {
    let indented: String = HEALTH
        .lines()
        .map(|line| {
            if line.is_empty() {
                "\n".to_owned()
            } else {
                format!("    {line}\n")
            }
        })
        .collect();
    let keys: String = HEALTH_KINDS
        .iter()
        .map(|kind| format!("  resource.customizations.health.{GROUP}_{kind}: |\n{indented}"))
        .collect();
    format!(
        "{HEADER}apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\n  namespace: argocd\ndata:\n{keys}"
    )
}
