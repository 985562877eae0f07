//! The pods, namespaces and policies that a resolver knows, and where to find them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::labels::{Labels, Selector};
use crate::model::{Namespace, ObjectKey, Peer, Pod, Policy};
use crate::world::claim;

/// The pods, namespaces and policies that a resolver knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pods: HashMap<String, InNamespace>,
    /// Who claims an address; mostly one.
    claims: HashMap<IpAddr, Vec<Arc<Pod>>>,
    namespaces: HashMap<String, Arc<Namespace>>,
    /// Names of namespaces by label.
    namespaces_by_label: ByLabel,
    policies: HashMap<String, BTreeMap<String, Arc<Policy>>>,
}

#[derive(Debug, Clone, Default)]
struct InNamespace {
    by_name: BTreeMap<String, Arc<Pod>>,
    /// Names of pods by label.
    by_label: ByLabel,
}

/// Names of objects by label and value.
#[derive(Debug, Clone, Default)]
struct ByLabel(HashMap<String, HashMap<String, BTreeSet<String>>>);

impl ByLabel {
    fn insert(&mut self, name: &str, labels: &Labels) {
        for (label, value) in labels {
            let by_value = self.0.entry(label.clone()).or_default();
            by_value.entry(value.clone()).or_default().insert(name.to_owned());
        }
    }

    fn remove(&mut self, name: &str, labels: &Labels) {
        for (label, value) in labels {
            let Some(by_value) = self.0.get_mut(label) else {
                continue;
            };
            if let Some(names) = by_value.get_mut(value) {
                names.remove(name);
                if names.is_empty() {
                    by_value.remove(value);
                }
            }
            if by_value.is_empty() {
                self.0.remove(label);
            }
        }
    }

    /// The names of objects that a selector may select; `None` where it names no value, and so may select any.
    fn candidates(&self, selector: &Selector) -> Option<impl Iterator<Item = &String>> {
        let (key, values) = selector.one_of()?;
        let by_value = self.0.get(key);
        Some(
            values
                .iter()
                .filter_map(move |value| by_value?.get(value))
                .flatten(),
        )
    }
}

impl Store {
    pub(super) fn pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(&key.namespace)?.by_name.get(&key.name)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// The labels of a namespace that is known.
    pub(super) fn labels_of(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|namespace| &namespace.labels)
    }

    /// The policies of a namespace, sorted by name.
    pub(super) fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    pub(super) fn policy(&self, key: &ObjectKey) -> Option<&Arc<Policy>> {
        self.policies.get(&key.namespace)?.get(&key.name)
    }

    /// Who holds an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.claims.get(&address)?.iter().max_by_key(|pod| claim(pod))
    }

    /// Whether `pod` holds the address against all others.
    pub(super) fn holds(&self, pod: &Pod, address: IpAddr) -> bool {
        self.holder(address).is_some_and(|holder| holder.key == pod.key)
    }

    /// Puts a pod in the place of the one of that name, or removes it.
    pub(super) fn set_pod(&mut self, key: &ObjectKey, pod: Option<Arc<Pod>>) {
        if let Some(old) = self.pod(key).cloned() {
            self.forget_pod(&old);
        }
        let Some(pod) = pod else {
            return;
        };
        if pod.holds_addresses() {
            for address in &pod.addresses {
                let claims = self.claims.entry(*address).or_default();
                if !claims.iter().any(|claimant| claimant.key == pod.key) {
                    claims.push(Arc::clone(&pod));
                }
            }
        }
        let namespace = self.pods.entry(key.namespace.clone()).or_default();
        namespace.by_label.insert(&key.name, &pod.labels);
        namespace.by_name.insert(key.name.clone(), pod);
    }

    fn forget_pod(&mut self, pod: &Pod) {
        for address in &pod.addresses {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.retain(|claimant| claimant.key != pod.key);
                if claims.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
        let Some(namespace) = self.pods.get_mut(&pod.key.namespace) else {
            return;
        };
        namespace.by_name.remove(&pod.key.name);
        namespace.by_label.remove(&pod.key.name, &pod.labels);
        if namespace.by_name.is_empty() {
            self.pods.remove(&pod.key.namespace);
        }
    }

    pub(super) fn set_namespace(&mut self, name: &str, namespace: Option<Arc<Namespace>>) {
        if let Some(old) = self.namespaces.remove(name) {
            self.namespaces_by_label.remove(name, &old.labels);
        }
        if let Some(namespace) = namespace {
            self.namespaces_by_label.insert(name, &namespace.labels);
            self.namespaces.insert(name.to_owned(), namespace);
        }
    }

    /// The namespaces that a selector selects, by way of the labels it names.
    fn select_namespaces(&self, selector: &Selector) -> Vec<&Arc<Namespace>> {
        let candidates: Vec<&Arc<Namespace>> = match self.namespaces_by_label.candidates(selector) {
            None => self.namespaces.values().collect(),
            Some(names) => names.filter_map(|name| self.namespaces.get(name)).collect(),
        };
        let selects = |namespace: &&Arc<Namespace>| selector.matches(&namespace.labels);
        candidates.into_iter().filter(selects).collect()
    }

    pub(super) fn set_policy(&mut self, key: &ObjectKey, policy: Option<Arc<Policy>>) {
        let in_namespace = self.policies.entry(key.namespace.clone()).or_default();
        match policy {
            Some(policy) => in_namespace.insert(key.name.clone(), policy),
            None => in_namespace.remove(&key.name),
        };
        if in_namespace.is_empty() {
            self.policies.remove(&key.namespace);
        }
    }

    /// Every address with the pod that holds it.
    pub(super) fn held(&self) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
        let holders = self
            .claims
            .keys()
            .map(|address| (*address, self.holder(*address)));
        holders.filter_map(|(address, pod)| Some((address, pod?)))
    }

    /// The addresses held by pods of a namespace.
    pub(super) fn held_in(&self, namespace: &str) -> Vec<(IpAddr, Arc<Pod>)> {
        let pods = self.pods.get(namespace).into_iter();
        pods.flat_map(|pods| pods.by_name.values())
            .flat_map(|pod| self.held_by(pod))
            .collect()
    }

    fn held_by<'a>(&'a self, pod: &'a Arc<Pod>) -> impl Iterator<Item = (IpAddr, Arc<Pod>)> + 'a {
        let held = pod.addresses.iter().filter(|address| self.holds(pod, **address));
        held.map(|address| (*address, Arc::clone(pod)))
    }

    /// The addresses held by the pods of a peer. `own` is the policy's namespace.
    pub(super) fn held_by_peer(&self, own: Option<&str>, peer: &Peer) -> Vec<(IpAddr, Arc<Pod>)> {
        let Peer::Pods { namespaces, pods } = peer else {
            return Vec::new();
        };
        let selected: Vec<&InNamespace> = match namespaces {
            None => own.and_then(|own| self.pods.get(own)).into_iter().collect(),
            Some(selector) => {
                let selected = self.select_namespaces(selector).into_iter();
                selected
                    .filter_map(|namespace| self.pods.get(&namespace.name))
                    .collect()
            }
        };
        let everything = Selector::everything();
        let selector = pods.as_ref().unwrap_or(&everything);
        selected
            .into_iter()
            .flat_map(|namespace| namespace.select(selector))
            .flat_map(|pod| self.held_by(pod))
            .collect()
    }
}

impl InNamespace {
    /// The pods that a selector selects, by way of the labels it names.
    fn select(&self, selector: &Selector) -> Vec<&Arc<Pod>> {
        let candidates: Vec<&Arc<Pod>> = match self.by_label.candidates(selector) {
            None => self.by_name.values().collect(),
            Some(names) => names.filter_map(|name| self.by_name.get(name)).collect(),
        };
        candidates
            .into_iter()
            .filter(|pod| selector.matches(&pod.labels))
            .collect()
    }
}
