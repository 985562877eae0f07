//! What is in the repository: the app of apps, and what its apps bring.

use std::path::Path;

use anyhow::Result;
use ringfence_tests::source;
use ringfence_tests::testbed::{AGNHOST_IMAGE, ARGOCD_NAMESPACE, Repository};
use serde_json::{Value, json};

/// The app of apps.
pub(crate) const ROOT: &str = "everything";

/// Its apps in the order of their waves, each with its path in the repository.
pub(crate) const APPS: [(&str, &str); 4] = [
    ("ringfence-definitions", "ringfence/config/crd"),
    ("ringfence", "ringfence/system"),
    ("namespaces", "namespaces"),
    ("zero-trust", "zero-trust"),
];

/// The app that brings what users write.
pub(crate) const ZERO_TRUST: &str = "zero-trust";

/// What users write: the file, the object, and its wave.
pub(crate) const RESOURCES: [(&str, &str, &str); 5] = [
    ("baseline", "ZeroTrustBaseline", BASELINE),
    ("namespace", "ZeroTrustNamespace", NAMESPACE),
    ("access", "ServiceAccess", ACCESS),
    ("external", "ExternalAccess", EXTERNAL),
    ("probe", "EnforcementProbe", PROBE),
];

const BASELINE: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ZeroTrustBaseline
metadata:
  name: default
  annotations: {argocd.argoproj.io/sync-wave: "0"}
spec:
  mode: Enforce
  namespaceSelector: {matchLabels: {covered: by-baseline}}
"#;

const NAMESPACE: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ZeroTrustNamespace
metadata:
  name: default
  namespace: shop
  annotations: {argocd.argoproj.io/sync-wave: "1"}
spec:
  mode: Enforce
---
apiVersion: ringfence.dev/v1alpha1
kind: ZeroTrustNamespace
metadata:
  name: default
  namespace: checkout
  annotations: {argocd.argoproj.io/sync-wave: "1"}
spec:
  mode: Enforce
  acceptEgressFrom: [{namespace: shop}]
"#;

const ACCESS: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ServiceAccess
metadata:
  name: api
  namespace: shop
  annotations: {argocd.argoproj.io/sync-wave: "2"}
spec:
  targetRef: {name: api}
  clients:
  - podSelector: {matchLabels: {app: web}}
  - namespace: checkout
    podSelector: {matchLabels: {app: cart}}
"#;

const EXTERNAL: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ExternalAccess
metadata:
  name: bank
  namespace: shop
  annotations: {argocd.argoproj.io/sync-wave: "2"}
spec:
  podSelector: {matchLabels: {app: api}}
  egress:
  - to: [{cidr: 203.0.113.0/24}]
    ports: [{port: 443}]
"#;

const PROBE: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: EnforcementProbe
metadata:
  name: default
  annotations: {argocd.argoproj.io/sync-wave: "3"}
spec: {}
"#;

/// Ringfence without its definitions, which come a wave before.
const SYSTEM: &str = "
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- ../config/namespace
- ../config/admission
- ../config/rbac/operator
- ../config/rbac/users
- ../config/rbac/enforcer
- ../config/operator
- ../config/enforcer
";

const NAMESPACES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: checkout}
---
apiVersion: v1
kind: Namespace
metadata: {name: bystander, labels: {covered: by-baseline}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: api, image: IMAGE, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=8080]}]
"#;

/// Puts everything into the repository.
pub(crate) fn fill(repository: &Repository, url: &str, server: &str) -> Result<()> {
    repository.copy(Path::new(&source::path("config")), "ringfence/config")?;
    repository.write("ringfence/system/kustomization.yaml", SYSTEM)?;
    repository.write("namespaces/all.yaml", &NAMESPACES.replace("IMAGE", AGNHOST_IMAGE))?;
    for (name, _, text) in RESOURCES {
        repository.write(&file(name), text)?;
    }
    for (wave, (name, path)) in APPS.iter().enumerate() {
        let app = application(name, path, (url, server), Some(wave));
        repository.write(&format!("apps/{name}.yaml"), &app.to_string())?;
    }
    repository.commit("Everything")
}

/// The path of the file with a resource.
pub(crate) fn file(name: &str) -> String {
    format!("zero-trust/{name}.yaml")
}

/// An Application. One that belongs to a wave is a part of the app of apps.
pub(crate) fn application(name: &str, path: &str, (url, server): (&str, &str), wave: Option<usize>) -> Value {
    let mut app = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": {
            "name": name, "namespace": ARGOCD_NAMESPACE,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": "default",
            "source": {"repoURL": url, "targetRevision": "main", "path": path},
            "destination": {"server": server, "namespace": "default"},
            "syncPolicy": {
                "automated": {"prune": true, "selfHeal": true},
                "syncOptions": ["ServerSideApply=true"],
                "retry": {"limit": 10, "backoff": {"duration": "1s", "maxDuration": "5s"}},
            },
        },
    });
    if let Some(wave) = wave {
        app["metadata"]["annotations"] = json!({"argocd.argoproj.io/sync-wave": wave.to_string()});
    }
    app
}
