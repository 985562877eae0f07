//! The cluster as the watches tell it: events in, what the policies mean for this node out. Keeps of each object only what
//! decides about traffic.

pub mod trial;
mod update;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_policy::{Compiled, CompiledPod, Direction, Event, NodePolicies, ObjectKey, Pod, Resolver};

use self::trial::Trial;
pub use self::update::{Kind, Object, Update};
use crate::cni::message::Sandbox;
use crate::plan::Stale;
use crate::report::Versions;
use crate::starts::Starts;

/// The cluster as it is known, and what it means for a node.
#[derive(Debug)]
pub struct Cluster {
    node: String,
    /// The node's own addresses.
    addresses: Vec<IpAddr>,
    /// What its pods have their addresses from.
    ranges: Vec<IpNet>,
    resolver: Resolver,
    /// The objects there are, kind by kind.
    known: [BTreeSet<ObjectKey>; 5],
    /// Namespaces that are being deleted, or were.
    leaving: BTreeSet<String>,
    /// The objects that a list in progress has named.
    listing: [Option<BTreeSet<ObjectKey>>; 5],
    listed: [bool; 5],
    /// What the policies mean differently since this was last asked.
    stale: Stale,
    /// What the node itself says of its pods' addresses.
    starts: Starts,
    versions: Versions,
    trial: Trial,
}

impl Cluster {
    /// A cluster of which nothing is known, as the node of this name sees it.
    pub fn new(node: impl Into<String>) -> Self {
        let node = node.into();
        Self {
            resolver: Resolver::new(node.clone()),
            node,
            addresses: Vec::new(),
            ranges: Vec::new(),
            known: Default::default(),
            leaving: BTreeSet::new(),
            listing: Default::default(),
            listed: [false; 5],
            stale: Stale::default(),
            starts: Starts::default(),
            versions: Versions::default(),
            trial: Trial::default(),
        }
    }

    /// Takes an update in. Returns whether anything changed that matters for the node: most of what happens in a cluster
    /// does not.
    pub fn apply(&mut self, update: Update) -> bool {
        self.apply_all([update])
    }

    /// As [`Cluster::apply`], all at once: what comes and goes within the updates costs nothing.
    pub fn apply_all(&mut self, updates: impl IntoIterator<Item = Update>) -> bool {
        let mut news = News::default();
        for update in updates {
            self.take(update, &mut news);
        }
        let changed = self.happen(news.events);
        if news.moved {
            self.trial.touch();
        }
        self.trial.settle(&self.resolver);
        news.moved || changed
    }

    /// A pod's sandbox has addresses, which the API server does not tell yet. Returns whether anything changed.
    pub fn start(&mut self, sandbox: &Sandbox) -> bool {
        let key = sandbox.key();
        let starting = self.starts.begin(sandbox, self.resolver.known_pod(&key));
        let mut changed = self.happen(starting.map(Event::Pod));
        for address in &sandbox.addresses {
            // Whoever had the address before has it no more, whatever the API server still says.
            while let Some(other) = self.resolver.pod_at(*address).filter(|pod| pod.key != key) {
                let robbed = self.starts.adjusted(other.clone());
                changed |= self.happen([Event::Pod(robbed)]);
            }
        }
        changed
    }

    /// A pod's sandbox is gone: its addresses are what the API server says. Returns whether anything changed.
    pub fn stop(&mut self, sandbox: &Sandbox) -> bool {
        let stopped = self.starts.end(sandbox, self.resolver.known_pod(&sandbox.key()));
        self.happen(stopped.map(Event::Pod))
    }

    /// Whether the pod of the sandbox is known, as one of this node, and holds the sandbox's addresses.
    pub fn has_started(&self, sandbox: &Sandbox) -> bool {
        let key = sandbox.key();
        let holds = |address: &IpAddr| self.resolver.pod_at(*address).is_some_and(|pod| pod.key == key);
        let pod = self.resolver.known_pod(&key);
        let is_ours = |pod: &Pod| pod.uid == sandbox.uid && pod.node.as_ref() == Some(&self.node);
        pod.is_some_and(is_ours) && sandbox.addresses.iter().all(holds)
    }

    fn happen(&mut self, events: impl IntoIterator<Item = Event>) -> bool {
        let events: Vec<Event> = events.into_iter().collect();
        self.trial.happen(&events);
        let changes = self.resolver.apply_all(events);
        self.stale.note(&changes);
        !changes.is_empty()
    }

    fn take(&mut self, update: Update, news: &mut News) {
        match update {
            Update::Begin(kind) => self.listing[kind as usize] = Some(BTreeSet::new()),
            Update::Upsert(object) => {
                self.seen(object.kind(), &object.key());
                self.upsert(object, news);
            }
            Update::Unreadable(stand_in) => {
                let (kind, key) = (stand_in.kind(), stand_in.key());
                self.seen(kind, &key);
                if kind == Kind::Policy {
                    self.versions.unreadable(key.clone());
                }
                if !self.known[kind as usize].contains(&key) {
                    self.upsert(stand_in, news);
                }
            }
            Update::Version(Kind::Policy, key, version) => self.versions.policy(key, version),
            Update::Version(Kind::Audit, key, version) => self.versions.audit(key, version),
            Update::Version(Kind::Node, key, version) if key.name == self.node => {
                self.versions.own_node(Some(version.uid));
            }
            Update::Version(..) => {}
            Update::Terminating(namespace) => {
                self.leaving.insert(namespace);
            }
            // They stay when the Node goes: its pods are still there.
            Update::PodRanges(node, ranges) if node == self.node => {
                news.moved |= self.ranges != ranges;
                self.ranges = ranges;
            }
            Update::PodRanges(..) => {}
            Update::Remove(kind, key) => self.remove(kind, &key, news),
            Update::End(kind) => self.end(kind, news),
        }
    }

    /// What the policies mean for the node's pods, flat, and what of it has become different since this was last asked.
    /// Of no use before [`Cluster::missing`] is empty.
    pub fn compiled(&mut self) -> (&Compiled, Stale) {
        (self.resolver.compiled(), std::mem::take(&mut self.stale))
    }

    /// The kinds that no complete list has been received of.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::NEEDED
            .into_iter()
            .filter(|kind| !self.listed[*kind as usize])
            .collect()
    }

    /// What the policies mean for the node's pods. Of no use before [`Cluster::missing`] is empty.
    pub fn policies(&self) -> NodePolicies {
        self.resolver.node_policies()
    }

    /// The versions of the policies and of the own node.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Whether any version changed since this was last asked.
    pub fn take_new_versions(&mut self) -> bool {
        self.versions.take_changed()
    }

    /// What the policies mean for the node's pods, flat.
    pub fn meaning(&self) -> &Compiled {
        self.resolver.compiled()
    }

    /// The pod that has an address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.resolver.pod_at(address)
    }

    /// The policies that isolate a pod of the node in a direction.
    pub fn isolating(&self, pod: &ObjectKey, direction: Direction) -> &[ObjectKey] {
        isolating(self.resolver.compiled(), pod, direction)
    }

    /// The AuditNetworkPolicies that would isolate a pod of the node in a direction, by names that begin with
    /// [`trial::PREFIX`].
    pub fn auditing(&self, pod: &ObjectKey, direction: Direction) -> Vec<ObjectKey> {
        let isolating = self
            .trial
            .resolver()
            .map(|trial| isolating(trial.compiled(), pod, direction));
        let policies = isolating.unwrap_or_default().iter();
        policies
            .filter(|policy| policy.name.starts_with(trial::PREFIX))
            .cloned()
            .collect()
    }

    /// What the policies would mean for the node's pods with those on trial; `None` where none is.
    pub fn trial(&self) -> Option<NodePolicies> {
        self.trial.resolver().map(Resolver::node_policies)
    }

    /// Whether the policies with those on trial mean something else than when this was last asked.
    pub fn take_trial_changed(&mut self) -> bool {
        self.trial.take_changed()
    }

    /// Whether a policy isolates the pod of the node, in either direction.
    pub fn is_isolated(&self, pod: &ObjectKey) -> bool {
        self.resolver.compiled().pods.get(pod).is_some_and(is_isolated)
    }

    /// How many pods of the node a policy isolates.
    pub fn isolated_pods(&self) -> usize {
        let pods = self.resolver.compiled().pods.values();
        pods.filter(|pod| is_isolated(pod)).count()
    }

    /// The node's own addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The ranges that the node's pods have their addresses from.
    pub fn pod_ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// How many objects of the kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.known[kind as usize].len()
    }

    /// Whether the namespace is being deleted, or was and has not come back.
    pub fn is_leaving(&self, namespace: &str) -> bool {
        self.leaving.contains(namespace)
    }

    fn seen(&mut self, kind: Kind, key: &ObjectKey) {
        if let Some(listing) = &mut self.listing[kind as usize] {
            listing.insert(key.clone());
        }
    }

    fn upsert(&mut self, object: Object, news: &mut News) {
        self.known[object.kind() as usize].insert(object.key());
        match object {
            Object::Pod(pod) => news.events.push(Event::Pod(self.starts.heard(pod))),
            Object::Policy(policy) => news.events.push(Event::Policy(policy)),
            Object::Audit(policy) => self.trial.policy(policy),
            Object::Namespace(namespace) => {
                self.leaving.remove(&namespace.name);
                news.events.push(Event::Namespace(namespace));
            }
            Object::Node(node) if node.name == self.node => self.move_to(node.addresses, news),
            Object::Node(_) => {}
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey, news: &mut News) {
        self.known[kind as usize].remove(key);
        match kind {
            Kind::Pod => {
                self.starts.gone(key);
                news.events.push(Event::PodGone(key.clone()));
            }
            Kind::Policy => {
                self.versions.policy_gone(key);
                news.events.push(Event::PolicyGone(key.clone()));
            }
            Kind::Audit => {
                self.versions.audit_gone(key);
                self.trial.gone(key);
            }
            Kind::Namespace => {
                self.leaving.insert(key.name.clone());
                news.events.push(Event::NamespaceGone(key.name.clone()));
            }
            Kind::Node if key.name == self.node => {
                self.versions.own_node(None);
                self.move_to(Vec::new(), news);
            }
            Kind::Node => {}
        }
    }

    /// The node has these addresses now.
    fn move_to(&mut self, addresses: Vec<IpAddr>, news: &mut News) {
        news.moved |= self.addresses != addresses;
        self.addresses = addresses;
    }

    fn end(&mut self, kind: Kind, news: &mut News) {
        let first = !std::mem::replace(&mut self.listed[kind as usize], true);
        news.moved |= first && Kind::NEEDED.contains(&kind);
        let Some(listing) = self.listing[kind as usize].take() else {
            return;
        };
        let known = &self.known[kind as usize];
        let gone: Vec<ObjectKey> = known.difference(&listing).cloned().collect();
        gone.iter().for_each(|key| self.remove(kind, key, news));
    }
}

fn is_isolated(pod: &CompiledPod) -> bool {
    pod.ingress.is_some() || pod.egress.is_some()
}

fn isolating<'a>(compiled: &'a Compiled, pod: &ObjectKey, direction: Direction) -> &'a [ObjectKey] {
    let id = compiled.pods.get(pod).and_then(|pod| match direction {
        Direction::Ingress => pod.ingress.as_ref(),
        Direction::Egress => pod.egress.as_ref(),
    });
    let isolation = id.and_then(|id| compiled.isolations.get(id));
    isolation.map_or(&[], |isolation| &isolation.policies)
}

/// What updates tell.
#[derive(Default)]
struct News {
    events: Vec<Event>,
    /// The node has other addresses or ranges, or a kind is listed for the first time.
    moved: bool,
}

#[cfg(test)]
mod tests;
