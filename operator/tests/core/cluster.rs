//! A cluster made of text: objects in, a view out, and an API server's part in carrying out a plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::ResourceExt;
use ringfence_operator::callbacks::Calls;
use ringfence_operator::generate::{Generated, GeneratorConfig, generate};
use ringfence_operator::names::FIELD_MANAGER;
use ringfence_operator::transition::{Plan, Step, Version, plan};
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Namespace, Node, Pod, Policy, World};
use serde::Deserialize;
use serde_json::Value;

/// The view of a cluster that holds the objects of these YAML documents.
pub(crate) fn view(documents: &str) -> ClusterView {
    let mut view = ClusterView::default();
    view.anchor = Some(anchor());
    for document in serde_yaml_ng::Deserializer::from_str(documents) {
        let value = Value::deserialize(document).unwrap();
        if !value.is_null() {
            insert(&mut view, value);
        }
    }
    view.govern();
    view
}

/// The pods that a Deployment would have, each on a node of its own.
fn deploy(view: &mut ClusterView, deployment: &Value) {
    let (metadata, spec) = (&deployment["metadata"], &deployment["spec"]);
    for replica in 0..spec["replicas"].as_u64().unwrap() {
        let n = view.pods.values().map(|pods| pods.len()).sum::<usize>();
        let mut pod_spec = spec["template"]["spec"].clone();
        pod_spec["nodeName"] = Value::String(format!("node-{n}"));
        let address = format!("10.0.0.{}", n + 1);
        insert(
            view,
            serde_json::json!({
                "kind": "Pod",
                "metadata": {
                    "name": format!("{}-{replica}", metadata["name"].as_str().unwrap()),
                    "namespace": metadata["namespace"],
                    "labels": spec["template"]["metadata"]["labels"],
                },
                "spec": pod_spec,
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            }),
        );
    }
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "ZeroTrustNamespace" | "ServiceAccess" | "ExternalAccess" | "ZeroTrustBaseline"
        | "AuditNetworkPolicy" => "ringfence.dev/v1alpha1",
        "NetworkPolicy" | "Ingress" => "networking.k8s.io/v1",
        "StatefulSet" => "apps/v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ValidatingWebhookConfiguration" => "admissionregistration.k8s.io/v1",
        "APIService" => "apiregistration.k8s.io/v1",
        "HTTPRoute" => "gateway.networking.k8s.io/v1",
        "PodMonitor" | "ServiceMonitor" => "monitoring.coreos.com/v1",
        _ => "v1",
    }
}

/// An object with what the API server gives it: a UID if it has none, and its group.
pub(crate) fn complete(mut object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap().to_owned();
    let metadata = &mut object["metadata"];
    if metadata.get("uid").is_none() {
        let uid = format!(
            "uid-{kind}-{}-{}",
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"]
        );
        metadata["uid"] = Value::String(uid.replace('"', ""));
    }
    if object.get("apiVersion").is_none() {
        object["apiVersion"] = api_version(&kind).into();
    }
    object
}

/// Puts one object into a view.
pub(crate) fn insert(view: &mut ClusterView, object: Value) {
    let object = complete(object);
    let kind = object["kind"].as_str().unwrap().to_owned();
    fn read<T: serde::de::DeserializeOwned>(object: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(object).unwrap())
    }
    match kind.as_str() {
        "Namespace" => view.insert_namespace(read(object)),
        "Service" => view.insert_service(read(object)),
        "Pod" => view.insert_pod(read(object)),
        "ZeroTrustNamespace" => view.insert_zero_trust(read(object)),
        "ZeroTrustBaseline" => view.insert_baseline(read(object)),
        "AuditNetworkPolicy" => {
            let trial = read::<ringfence_crd::AuditNetworkPolicy>(object);
            view.insert_trial(Arc::new(trial.as_policy()));
        }
        "ServiceAccess" => view.insert_access(read(object)),
        "ExternalAccess" => view.insert_external(read(object)),
        "NetworkPolicy" => view.insert_policy(read(object)),
        "EndpointSlice" => view.insert_endpoint_slice(read(object)),
        "StatefulSet" => view.insert_stateful_set(read(object)),
        "Ingress" => view.insert_ingress(read(object)),
        "HTTPRoute" => view.insert_http_route(read(object)),
        "PodMonitor" => view.insert_pod_monitor(read(object)),
        "ServiceMonitor" => view.insert_service_monitor(read(object)),
        "Node" => view.insert_node(&read::<k8s_openapi::api::core::v1::Node>(object)),
        "ValidatingWebhookConfiguration" => {
            let read =
                read::<k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration>(object);
            view.callbacks.extend(read.callbacks());
        }
        "APIService" => {
            let read =
                read::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>(object);
            view.callbacks.extend(read.callbacks());
        }
        "Deployment" => deploy(view, &object),
        other => panic!("no place for a {other}"),
    }
}

pub(crate) fn anchor() -> OwnerReference {
    OwnerReference {
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        name: "zerotrustnamespaces.ringfence.dev".to_owned(),
        uid: "uid-anchor".to_owned(),
        ..OwnerReference::default()
    }
}

pub(crate) fn generated(view: &ClusterView, namespace: &str) -> Generated {
    generate(view, &GeneratorConfig::default(), namespace)
}

/// The plan for what is generated now.
pub(crate) fn planned(view: &ClusterView, namespace: &str) -> Plan {
    plan(view, namespace, &generated(view, namespace))
}

/// The API server's part: objects with UIDs, versions and writers, and refusals.
pub(crate) struct ApiServer {
    counter: u64,
}

impl ApiServer {
    pub(crate) fn new() -> Self {
        Self { counter: 0 }
    }

    fn next(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    /// Carries a step out as the API server would, and refuses what it would refuse.
    pub(crate) fn apply(&mut self, view: &mut ClusterView, step: &Step) {
        match step {
            Step::Create { policy, .. } => self.create(view, policy),
            Step::Replace { policy, version, .. } => self.replace(view, policy, version),
            Step::Delete { key, version, .. } => {
                let list = view.policies.get_mut(&key.namespace).unwrap();
                let found = list
                    .iter()
                    .position(|policy| policy.name_any() == key.name)
                    .expect("nothing to delete");
                if let Version::Seen { uid, .. } = version {
                    assert_eq!(list[found].metadata.uid.as_ref(), Some(uid));
                }
                list.remove(found);
            }
        }
    }

    fn create(&mut self, view: &mut ClusterView, policy: &NetworkPolicy) {
        let namespace = policy.namespace().unwrap();
        let list = view.policies.entry(namespace).or_default();
        let taken = list
            .iter()
            .any(|existing| existing.name_any() == policy.name_any());
        assert!(!taken, "{} already exists", policy.name_any());
        let mut policy = policy.clone();
        policy.metadata.uid = Some(format!("uid-policy-{}", self.next()));
        policy.metadata.resource_version = Some(self.next());
        policy.metadata.managed_fields = Some(vec![written_by(FIELD_MANAGER)]);
        list.push_back(Arc::new(policy));
    }

    fn replace(&mut self, view: &mut ClusterView, policy: &NetworkPolicy, version: &Version) {
        let list = view.policies.get_mut(&policy.namespace().unwrap()).unwrap();
        let found = list
            .iter_mut()
            .find(|existing| existing.name_any() == policy.name_any())
            .unwrap();
        if let Version::Seen {
            uid,
            resource_version,
        } = version
        {
            assert_eq!(found.metadata.uid.as_ref(), Some(uid));
            assert_eq!(
                found.metadata.resource_version.as_ref(),
                Some(resource_version),
                "written in between"
            );
        }
        assert_eq!(found.metadata.uid, policy.metadata.uid, "another object");
        let mut policy = policy.clone();
        policy
            .metadata
            .managed_fields
            .clone_from(&found.metadata.managed_fields);
        policy.metadata.resource_version = Some(self.next());
        *found = Arc::new(policy);
    }

    /// Carries a step out as [`Self::apply`] does, on a copy of the cluster that has other versions by now.
    pub(crate) fn apply_unversioned(&mut self, view: &mut ClusterView, step: &Step) {
        let mut step = step.clone();
        if let Step::Replace { version, .. } | Step::Delete { version, .. } = &mut step {
            *version = Version::WrittenBefore;
        }
        self.apply(view, &step);
    }

    /// Plans and carries out everything for a namespace.
    pub(crate) fn settle(&mut self, view: &mut ClusterView, namespace: &str) -> Plan {
        let plan = planned(view, namespace);
        for step in &plan.steps {
            self.apply(view, step);
        }
        plan
    }
}

pub(crate) fn written_by(manager: &str) -> ManagedFieldsEntry {
    ManagedFieldsEntry {
        manager: Some(manager.to_owned()),
        operation: Some("Update".to_owned()),
        ..ManagedFieldsEntry::default()
    }
}

/// Somebody else's edit of an existing policy.
pub(crate) fn edit(
    view: &mut ClusterView,
    namespace: &str,
    name: &str,
    change: impl FnOnce(&mut NetworkPolicy),
) {
    let list = view.policies.get_mut(namespace).unwrap();
    let found = list.iter_mut().find(|policy| policy.name_any() == name).unwrap();
    let mut policy = (**found).clone();
    change(&mut policy);
    policy
        .metadata
        .managed_fields
        .get_or_insert_default()
        .push(written_by("kubectl-edit"));
    *found = Arc::new(policy);
}

/// What an enforcer would make of the cluster.
pub(crate) fn world(view: &ClusterView) -> World {
    let mut world = World::default();
    for name in view.namespaces.keys() {
        let labels = view.namespace_labels(name).unwrap();
        world.insert_namespace(Namespace {
            name: name.clone(),
            labels,
        });
    }
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for pod in view.pods.values().flatten() {
        let pod = Pod::from_api(pod);
        if let Some(node) = &pod.node {
            nodes.entry(node.clone()).or_insert_with(|| Node {
                name: node.clone(),
                addresses: Vec::new(),
            });
        }
        world.insert_pod(pod);
    }
    nodes.into_values().for_each(|node| world.insert_node(node));
    for policy in view.policies.values().flatten() {
        world.insert_policy(Policy::from_api(policy).unwrap());
    }
    world
}

/// The names of the policies a plan writes, with what it does to them.
pub(crate) fn outline(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| match step {
        Step::Create { policy, .. } => format!("create {}", stem(&policy.name_any())),
        Step::Replace { policy, .. } => format!("replace {}", stem(&policy.name_any())),
        Step::Delete { key, .. } => format!("delete {}", stem(&key.name)),
    };
    plan.steps.iter().map(line).collect()
}

/// A generated name without its digest.
fn stem(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, last)) if last.len() == 12 => stem,
        _ => name,
    }
}
