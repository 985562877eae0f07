//! What Argo CD wants in the cluster: its kinds, its settings, and a way to the cluster itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{NAMESPACE, apply, run};
use crate::testbed::{Cluster, wait};

/// The health of an Application, which Argo CD no longer judges by itself: without it an app of apps does not wait.
const APPLICATION_HEALTH: &str = r#"hs = {}
hs.status = "Progressing"
hs.message = ""
if obj.status ~= nil and obj.status.health ~= nil then
  hs.status = obj.status.health.status
  if obj.status.health.message ~= nil then
    hs.message = obj.status.health.message
  end
end
return hs
"#;

/// Puts everything there.
pub(super) fn install(cluster: &Cluster, sources: &Path) -> Result<()> {
    let crds = sources.join("manifests/crds");
    for kind in ["application", "applicationset", "appproject"] {
        let path = crds.join(format!("{kind}-crd.yaml"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        apply(cluster, &text)?;
    }
    wait::until(
        "Argo CD's kinds to be served",
        Duration::from_secs(30),
        Duration::from_millis(100),
        || {
            let served =
                run(&mut cluster.kubectl(["get", "applications.argoproj.io,appprojects.argoproj.io", "-A"]));
            Ok(served.ok())
        },
    )?;
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": settings(cluster)?});
    apply(cluster, &objects.to_string())
}

fn settings(cluster: &Cluster) -> Result<Vec<Value>> {
    let part = json!({"app.kubernetes.io/part-of": "argocd"});
    let config = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE, "labels": part}, "data": data});
    let secret = |name: &str, labels: Value, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "stringData": data});
    let cluster_label = json!({"argocd.argoproj.io/secret-type": "cluster"});
    let way = json!({"name": "testbed", "server": cluster.api_url(), "config": access(cluster)?.to_string()});
    let project = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    });
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        config(
            "argocd-cm",
            json!({"resource.customizations.health.argoproj.io_Application": APPLICATION_HEALTH}),
        ),
        config("argocd-cmd-params-cm", json!({})),
        secret(
            "argocd-secret",
            part.clone(),
            json!({"server.secretkey": "for tests only"}),
        ),
        secret("testbed", cluster_label, way),
        project,
    ])
}

/// How Argo CD gets to the cluster, from the administrator's kubeconfig.
fn access(cluster: &Cluster) -> Result<Value> {
    let path = cluster.kubeconfig();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    // The testbed writes its kubeconfigs as JSON.
    let kubeconfig: Value = serde_json::from_str(&text).context("read the cluster's kubeconfig")?;
    let user = &kubeconfig["users"][0]["user"];
    Ok(json!({"tlsClientConfig": {
        "caData": kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"],
        "certData": user["client-certificate-data"],
        "keyData": user["client-key-data"],
    }}))
}
