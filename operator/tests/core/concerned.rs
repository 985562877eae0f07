//! Whom a change concerns: everybody for whom anything is different afterwards, found without reading through everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use proptest::prelude::*;
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace};
use ringfence_operator::generate::{AccessOutline, Generated, GeneratorConfig, outline, outline_external};
use ringfence_operator::stores::{Mirrored, Versions};
use ringfence_operator::triggers::{Change, Key, concerned, is_claimed};
use ringfence_operator::view::ClusterView;
use ringfence_policy::ObjectKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::{complete, generated, insert};
use crate::random::{AWAY, HOME, cluster, ground, wishes};

/// Objects by kind, namespace and name.
type Objects = BTreeMap<(String, String, String), Value>;

/// A third namespace, which few know.
const FAR: &str = "far";

/// Random objects of two namespaces that name each other, and of one more.
fn objects() -> impl Strategy<Value = Objects> {
    let labels = prop::sample::select(vec!["away", "home", "far"]);
    let baseline = prop::option::weighted(0.3, prop::sample::select(vec!["home", "far", ""]));
    (ground(), wishes(), wishes(), wishes(), labels, baseline).prop_map(
        |(ground, home, away, far, team, baseline)| {
            let mut all: Vec<Value> = ground.pods.into_iter().chain(ground.foreign).collect();
            for (namespace, wishes) in [(HOME, home), (AWAY, away), (FAR, far)] {
                let own = wishes.others.into_iter().chain(wishes.zero_trust);
                all.extend(own.map(|object| moved(object, namespace)));
            }
            for (name, team) in [(HOME, HOME), (AWAY, AWAY), (FAR, team)] {
                all.push(json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}));
            }
            all.extend(baseline.map(|team| {
                let selector = if team.is_empty() {
                    json!({})
                } else {
                    json!({"matchLabels": {"team": team}})
                };
                let allow = json!({"monitoring": {"from": [{"namespace": HOME}], "ports": [{"port": 9090}]}});
                let spec = json!({"mode": "Enforce", "namespaceSelector": selector, "allow": allow});
                json!({"kind": "ZeroTrustBaseline", "metadata": {"name": "default"}, "spec": spec})
            }));
            all.into_iter().map(|object| (key(&object), object)).collect()
        },
    )
}

/// An object of the namespace `home` in another one. What it says of `away` becomes about `home` there.
fn moved(object: Value, namespace: &str) -> Value {
    if namespace == HOME {
        return object;
    }
    let text = object.to_string();
    let (home, away) = (format!("\"{HOME}\""), format!("\"{AWAY}\""));
    let text = text.replace(&home, "\"@\"").replace(&away, &home);
    serde_json::from_str(&text.replace("\"@\"", &format!("\"{namespace}\""))).unwrap()
}

fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

/// What everybody is told to have, and what is said of it.
#[derive(PartialEq)]
struct Told {
    namespaces: BTreeMap<String, Generated>,
    grants: BTreeMap<Key, AccessOutline>,
}

fn told(view: &ClusterView) -> Told {
    let namespaces = [HOME, AWAY, FAR].map(|name| (name.to_owned(), generated(view, name)));
    let accesses = view.accesses.iter();
    let accesses = accesses.map(|(key, access)| (Key::Access(key.clone()), outline(view, access)));
    let externals = view.externals.iter();
    let externals = externals.map(|(key, it)| (Key::External(key.clone()), outline_external(view, it)));
    Told {
        namespaces: namespaces.into(),
        grants: accesses.chain(externals).collect(),
    }
}

impl Told {
    /// For whom anything differs. What is gone needs no look.
    fn differences(&self, after: &Self) -> BTreeSet<Key> {
        let namespaces = after.namespaces.iter();
        let namespaces = namespaces
            .filter(|(name, generated)| self.namespaces.get(*name) != Some(generated))
            .map(|(name, _)| Key::Namespace(name.clone()));
        let grants = after.grants.iter();
        let grants = grants
            .filter(|(key, outline)| self.grants.get(key) != Some(outline))
            .map(|(key, _)| key.clone());
        namespaces.chain(grants).collect()
    }
}

/// The change from one version of an object to another, which the view follows.
fn follow(view: &mut ClusterView, kind: &str, old: Option<&Value>, new: Option<&Value>) -> Change {
    fn typed<K: Mirrored + DeserializeOwned>(
        view: &mut ClusterView,
        (old, new): (Option<&Value>, Option<&Value>),
    ) -> Change
    where
        Change: From<Versions<K>>,
    {
        let read = |value: &Value, generation: i32| {
            let mut value = complete(value.clone());
            value["metadata"]["generation"] = generation.into();
            Arc::new(serde_json::from_value::<K>(value).unwrap())
        };
        let versions = Versions {
            old: old.map(|old| read(old, 1)),
            new: new.map(|new| read(new, 2)),
        };
        versions.enter(view);
        versions.into()
    }
    let versions = (old, new);
    match kind {
        "Namespace" => typed::<Namespace>(view, versions),
        "Pod" => typed::<Pod>(view, versions),
        "Service" => typed::<Service>(view, versions),
        "NetworkPolicy" => typed::<NetworkPolicy>(view, versions),
        "ZeroTrustNamespace" => typed::<ZeroTrustNamespace>(view, versions),
        "ZeroTrustBaseline" => typed::<ZeroTrustBaseline>(view, versions),
        "ServiceAccess" => typed::<ServiceAccess>(view, versions),
        "ExternalAccess" => typed::<ExternalAccess>(view, versions),
        "EndpointSlice" => typed::<EndpointSlice>(view, versions),
        "StatefulSet" => typed::<StatefulSet>(view, versions),
        "Ingress" => typed::<Ingress>(view, versions),
        "ValidatingWebhookConfiguration" => typed::<ValidatingWebhookConfiguration>(view, versions),
        other => panic!("nothing follows a {other}"),
    }
}

/// Writes what is generated in the namespaces that are looked at.
fn write(view: &mut ClusterView, found: &BTreeSet<Key>) {
    for key in found {
        let Key::Namespace(namespace) = key else {
            continue;
        };
        if let Some(policies) = view.policies.get_mut(namespace) {
            policies.retain(|policy| !is_claimed(policy.as_ref()));
        }
        for policy in generated(view, namespace).policies {
            view.insert_policy(Arc::new(policy));
        }
    }
}

/// The view of a cluster with these objects, made at once.
fn made(base: &ClusterView, objects: &Objects) -> ClusterView {
    let mut view = base.clone();
    objects
        .values()
        .for_each(|object| insert(&mut view, object.clone()));
    view.govern();
    view
}

proptest! {
    // Each case is dozens of changes.
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whoever_is_told_something_else_after_a_change_is_concerned_by_it(
        mut objects in objects(),
        wanted in objects(),
        order in any::<u64>(),
        (ground, wishes) in (ground(), wishes()),
    ) {
        // Of these, what is no object: names of the DNS, and whether stamps can be relied on.
        let known = cluster(&ground, &wishes);
        let mut base = ClusterView::default();
        base.anchor = known.anchor;
        base.stamps_protected = known.stamps_protected;
        base.names = known.names;
        let mut keys: Vec<_> = objects.keys().chain(wanted.keys()).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let by = usize::try_from(order % 97).unwrap();
        let length = keys.len();
        keys.rotate_left(by % length.max(1));
        let mut view = made(&base, &objects);
        write(&mut view, &[HOME, AWAY, FAR].map(|name| Key::Namespace(name.to_owned())).into());
        let dns = GeneratorConfig::default().dns_services;
        for key in keys {
            let before = told(&view);
            let change = follow(&mut view, &key.0, objects.get(&key), wanted.get(&key));
            match wanted.get(&key) {
                Some(new) => objects.insert(key.clone(), new.clone()),
                None => objects.remove(&key),
            };
            let fresh = made(&base, &objects);
            view.callbacks = fresh.callbacks.clone();
            let after = told(&view);
            prop_assert!(after == told(&fresh), "following {key:?} leads to another view than making it");
            let found = concerned(&view, &dns, &change);
            let missed: Vec<_> = before.differences(&after).into_iter().filter(|key| !found.contains(key)).collect();
            prop_assert!(missed.is_empty(), "{missed:?} is concerned by {key:?} and was not found");
            write(&mut view, &found);
        }
    }
}

#[test]
fn a_grant_concerns_its_own_namespaces_and_no_others() {
    let mut objects: Vec<Value> = Vec::new();
    for number in 0..100 {
        let name = format!("n-{number}");
        objects.push(json!({"kind": "Namespace", "metadata": {"name": name}}));
        let spec = json!({"mode": "Enforce"});
        objects.push(json!({"kind": "ZeroTrustNamespace", "metadata": {"name": "default", "namespace": name}, "spec": spec}));
        let spec = json!({"targetRef": {"name": "api"}, "clients": [{"podSelector": {}}]});
        objects.push(
            json!({"kind": "ServiceAccess", "metadata": {"name": "api", "namespace": name}, "spec": spec}),
        );
    }
    let mut view = ClusterView::default();
    objects.into_iter().for_each(|object| insert(&mut view, object));
    let spec = json!({"targetRef": {"name": "api"}, "clients": [{"namespace": "n-7"}]});
    let access =
        json!({"kind": "ServiceAccess", "metadata": {"name": "new", "namespace": "n-3"}, "spec": spec});
    let change = follow(&mut view, "ServiceAccess", None, Some(&access));
    let expected = [
        Key::Namespace("n-3".to_owned()),
        Key::Namespace("n-7".to_owned()),
        Key::Access(ObjectKey::new("n-3", "new")),
    ];
    assert_eq!(concerned(&view, &[], &change), expected.into());
}
