//! From the types to the files under `config/crd`.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::{
    AuditNetworkPolicy, EnforcementProbe, ExternalAccess, NodeEnforcement, ServiceAccess, ZeroTrustBaseline,
    ZeroTrustNamespace,
};

/// What stands above everything that is generated.
pub(crate) const HEADER: &str =
    "# Generated from the types of the ringfence-crd crate by `cargo xtask crdgen`. Do not edit.\n";

/// The `status.observedGeneration` of an object that the operator has not looked at yet.
pub const UNOBSERVED: i64 = -1;

/// Every file of `config/crd`: its name and its content, in the order of the names.
///
/// # Panics
///
/// Never with the types of this crate: their schemas are known to serialise, which the crate's tests show.
#[must_use]
pub fn generate() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = definitions()
        .into_iter()
        .map(|definition| {
            let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
            (format!("{plural}.yaml"), render(&definition))
        })
        .collect();
    files.sort();
    files.push(("kustomization.yaml".to_owned(), kustomization(&files)));
    files.sort();
    files
}

/// The CustomResourceDefinitions as JSON values, finished for the API server.
pub(crate) fn definitions() -> Vec<Value> {
    [
        ZeroTrustNamespace::crd(),
        ServiceAccess::crd(),
        AuditNetworkPolicy::crd(),
        NodeEnforcement::crd(),
        ExternalAccess::crd(),
        ZeroTrustBaseline::crd(),
        EnforcementProbe::crd(),
    ]
    .into_iter()
    .map(|definition| {
        let mut value = serde_json::to_value(definition).unwrap_or_default();
        strip_nullable(&mut value);
        strip_defaults_of_items(&mut value, false);
        begin_unobserved(&mut value);
        label(&mut value);
        value
    })
    .collect()
}

/// A field left out is the one way not to give it: an explicit null would pass CEL's `has` and be taken for a value.
fn strip_nullable(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(strip_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nullable),
        _ => {}
    }
}

/// A default that the API server enters into an item of a list makes the list another one than what was written, for whoever
/// compares the two and takes lists for values, as Argo CD does. What is left out there is read as the default all the same.
fn strip_defaults_of_items(value: &mut Value, inside: bool) {
    match value {
        Value::Object(fields) => {
            // A property may be called `default`: its value is a schema, and a default is none here.
            if inside && fields.contains_key("type") {
                fields.remove("default");
            }
            for (key, value) in fields {
                strip_defaults_of_items(value, inside || key == "items");
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| strip_defaults_of_items(item, inside)),
        _ => {}
    }
}

/// An object that nobody has looked at yet must not look done: by the rules of kstatus one without a status is. So the API
/// server gives it a status that is about no generation that there is.
fn begin_unobserved(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array_mut();
    for version in versions.into_iter().flatten() {
        let properties = &mut version["schema"]["openAPIV3Schema"]["properties"];
        if !properties["status"]["properties"]["observedGeneration"].is_null() {
            properties["status"]["default"] = serde_json::json!({ "observedGeneration": UNOBSERVED });
        }
    }
}

fn label(definition: &mut Value) {
    definition["metadata"]["labels"] = serde_json::json!({ "app.kubernetes.io/part-of": "ringfence" });
}

fn render(definition: &Value) -> String {
    let yaml = serde_yaml_ng::to_string(definition).unwrap_or_default();
    format!("{HEADER}{yaml}")
}

fn kustomization(files: &[(String, String)]) -> String {
    let resources: String = files.iter().map(|(name, _)| format!("- {name}\n")).collect();
    format!(
        "{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
    )
}
