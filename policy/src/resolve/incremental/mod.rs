//! The compiling reading, kept up to date event by event.
//!
//! ```text
//!  Event ─► Store ─┬─► the groups whose selectors match the pod's old or new labels ─► addresses gained and lost
//!                  ├─► local pods that the event is about ─► their isolations
//!                  └─► isolations of a changed policy, or whose named ports changed ─► their grants
//!                                    │
//!                                    ▼
//!                     Compiled, and Changes: what is different from before
//! ```
//!
//! Only what an event is about is looked at, so that its cost does not grow with the number of other pods.

mod cohorts;
mod compiled;
mod isolations;
mod journal;
mod store;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use compiled::{Change, Changes, Compiled, CompiledGrant, CompiledIsolation, CompiledPod, GroupChange};

use super::NodePolicies;
use crate::labels::Labels;
use crate::model::{Direction, Namespace, ObjectKey, Pod, Policy};
use crate::world::World;
use cohorts::{Cohorts, Slot};
use isolations::{Context, Isolations};
use journal::Journal;
use store::Store;

/// Something that happened in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A pod is new or another than before.
    Pod(Pod),
    /// A pod is gone.
    PodGone(ObjectKey),
    /// A namespace is new or another than before.
    Namespace(Namespace),
    /// A namespace is gone.
    NamespaceGone(String),
    /// A policy is new or another than before.
    Policy(Policy),
    /// A policy is gone.
    PolicyGone(ObjectKey),
}

impl Event {
    /// Lets the same happen in a world.
    pub fn happen_in(self, world: &mut World) {
        match self {
            Self::Pod(pod) => world.insert_pod(pod),
            Self::Namespace(namespace) => world.insert_namespace(namespace),
            Self::Policy(policy) => world.insert_policy(policy),
            Self::PodGone(key) => drop(world.pods.remove(&key)),
            Self::NamespaceGone(name) => drop(world.namespaces.remove(&name)),
            Self::PolicyGone(key) => drop(world.policies.remove(&key)),
        }
    }
}

/// What the policies mean for the pods of a node, kept up to date: events in, the smallest changes out.
///
/// ```
/// use ringfence_policy::{Compiled, Event, Namespace, Resolver};
///
/// let mut resolver = Resolver::new("node-a");
/// let mut mirror = Compiled::default();
/// let namespace = Namespace { name: "shop".to_owned(), labels: Default::default() };
/// mirror.apply(&resolver.apply(Event::Namespace(namespace)));
/// assert_eq!(&mirror, resolver.compiled());
/// ```
#[derive(Debug, Clone)]
pub struct Resolver {
    node: String,
    store: Store,
    /// The pods of the node that policies can act on.
    local: BTreeSet<ObjectKey>,
    cohorts: Cohorts,
    isolations: Isolations,
    compiled: Compiled,
}

/// What a batch of events leaves to do when all of them have happened.
#[derive(Default)]
struct Pending {
    journal: Journal,
    pods: BTreeSet<ObjectKey>,
    policies: BTreeSet<ObjectKey>,
    /// Cohorts of named ports whose groups came or went.
    cohorts: BTreeSet<Slot>,
}

impl Resolver {
    /// A resolver for a node that knows nothing yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            store: Store::default(),
            local: BTreeSet::new(),
            cohorts: Cohorts::default(),
            isolations: Isolations::default(),
            compiled: Compiled::default(),
        }
    }

    /// A resolver for a node that knows a world.
    pub fn from_world(node: impl Into<String>, world: &World) -> Self {
        let mut resolver = Self::new(node);
        let namespaces = world.namespaces.values().cloned().map(Event::Namespace);
        let pods = world.pods.values().cloned().map(Event::Pod);
        let policies = world.policies.values().cloned().map(Event::Policy);
        resolver.apply_all(namespaces.chain(pods).chain(policies));
        resolver
    }

    /// Takes one event in and returns what is different from before.
    pub fn apply(&mut self, event: Event) -> Changes {
        self.apply_all([event])
    }

    /// Takes events in, in their order, and returns what is different after all of them: what comes and goes again
    /// within them is not mentioned.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) -> Changes {
        let mut pending = Pending::default();
        for event in events {
            match event {
                Event::Pod(pod) => self.pod(&pod.key.clone(), Some(pod), &mut pending),
                Event::PodGone(key) => self.pod(&key, None, &mut pending),
                Event::Namespace(namespace) => {
                    self.namespace(&namespace.name.clone(), Some(namespace), &mut pending);
                }
                Event::NamespaceGone(name) => self.namespace(&name, None, &mut pending),
                Event::Policy(policy) => self.policy(policy.key.clone(), Some(policy), &mut pending),
                Event::PolicyGone(key) => self.policy(key, None, &mut pending),
            }
        }
        self.settle(pending)
    }

    /// What holds now, flat.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// The pod that holds an address, on whatever node.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.store.holder(address).map(|pod| &**pod)
    }

    /// What holds now: equal to [`resolve`](crate::resolve) of the same world.
    pub fn node_policies(&self) -> NodePolicies {
        self.compiled.node_policies()
    }

    /// A pod, as it was last told.
    pub fn known_pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.store.pod(key).map(|pod| &**pod)
    }

    fn pod(&mut self, key: &ObjectKey, pod: Option<Pod>, pending: &mut Pending) {
        let old = self.store.pod(key).cloned();
        if old.as_deref() == pod.as_ref() {
            return;
        }
        let pod = pod.map(Arc::new);
        let both = || old.iter().chain(&pod);
        let addresses: BTreeSet<IpAddr> = both().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let before: Vec<_> = addresses
            .iter()
            .map(|address| self.store.holder(*address).cloned())
            .collect();

        let is_local = |pod: &Arc<Pod>| pod.node.as_ref() == Some(&self.node) && pod.holds_addresses();
        let local = pod.as_ref().is_some_and(is_local);
        if local {
            self.local.insert(key.clone());
        } else {
            self.local.remove(key);
        }
        if local || self.compiled.pods.contains_key(key) {
            pending.pods.insert(key.clone());
        }
        self.store.set_pod(key, pod);

        for (address, before) in addresses.into_iter().zip(before) {
            let after = self.store.holder(address).cloned();
            let holders = || before.iter().chain(&after);
            let touched = holders().filter(|pod| self.local.contains(&pod.key));
            pending.pods.extend(touched.map(|pod| pod.key.clone()));
            let candidates = holders().flat_map(|pod| {
                let namespace = self.store.labels_of(&pod.key.namespace);
                self.cohorts.candidates(pod, namespace)
            });
            let candidates: BTreeSet<Slot> = candidates.collect();
            self.update_members(candidates, address, after.as_ref(), pending);
        }
    }

    fn update_members(
        &mut self,
        slots: impl IntoIterator<Item = Slot>,
        address: IpAddr,
        holder: Option<&Arc<Pod>>,
        pending: &mut Pending,
    ) {
        let holder = holder.map(|pod| (&**pod, self.store.labels_of(&pod.key.namespace)));
        let mut groups = pending.journal.groups(&mut self.compiled);
        for slot in slots {
            if self.cohorts.update(slot, address, holder, &mut groups) {
                pending.cohorts.insert(slot);
            }
        }
    }

    fn namespace(&mut self, name: &str, namespace: Option<Namespace>, pending: &mut Pending) {
        let old = self.store.namespace(name).cloned();
        if old.as_deref() == namespace.as_ref() {
            return;
        }
        let labels = |namespace: Option<&Namespace>| namespace.map(|namespace| namespace.labels.clone());
        let (before, after): (Option<Labels>, Option<Labels>) =
            (labels(old.as_deref()), labels(namespace.as_ref()));
        self.store.set_namespace(name, namespace.map(Arc::new));
        let slots = self.cohorts.telling_apart(before.as_ref(), after.as_ref());
        if slots.is_empty() {
            return;
        }
        for (address, pod) in self.store.held_in(name) {
            self.update_members(slots.iter().copied(), address, Some(&pod), pending);
        }
    }

    fn policy(&mut self, key: ObjectKey, policy: Option<Policy>, pending: &mut Pending) {
        let old = self.store.policy(&key).cloned();
        if old.as_deref() == policy.as_ref() {
            return;
        }
        let policy = policy.map(Arc::new);
        let both: Vec<&Arc<Policy>> = old.iter().chain(&policy).collect();
        let first = ObjectKey::new(key.namespace.clone(), "");
        let in_namespace = self
            .local
            .range(first..)
            .take_while(|pod| pod.namespace == key.namespace);
        let selected = in_namespace.filter(|pod| {
            let pod = self.store.pod(pod);
            pod.is_some_and(|pod| both.iter().any(|policy| policy.pod_selector.matches(&pod.labels)))
        });
        pending.pods.extend(selected.cloned());
        self.store.set_policy(&key, policy);
        pending.policies.insert(key);
    }

    /// Brings local pods and isolations to what the store says, and tells what is different.
    fn settle(&mut self, mut pending: Pending) -> Changes {
        for key in std::mem::take(&mut pending.pods) {
            self.settle_pod(&key, &mut pending.journal);
        }
        let rebuilt: BTreeSet<String> = pending
            .policies
            .iter()
            .flat_map(|policy| self.isolations.of_policy(policy))
            .collect();
        let stale = pending.cohorts.iter().filter_map(|slot| self.cohorts.get(*slot));
        let stale: BTreeSet<String> = stale.flat_map(|cohort| cohort.used_by.iter().cloned()).collect();
        let mut context = Context {
            store: &self.store,
            cohorts: &mut self.cohorts,
            compiled: &mut self.compiled,
            journal: &mut pending.journal,
        };
        for id in &rebuilt {
            self.isolations.build(id, &mut context);
        }
        for id in stale.difference(&rebuilt) {
            self.isolations.compile(id, &mut context);
        }
        self.isolations.sweep(&mut context);
        let mut groups = pending.journal.groups(&mut self.compiled);
        self.cohorts.sweep(&mut groups);
        pending.journal.finish(&self.compiled)
    }

    fn settle_pod(&mut self, key: &ObjectKey, journal: &mut Journal) {
        journal.touch_pod(key, &self.compiled);
        let pod = self.store.pod(key).filter(|_| self.local.contains(key)).cloned();
        let held = pod.and_then(|pod| {
            let addresses = pod.addresses.iter().copied();
            let addresses: Vec<IpAddr> = addresses
                .filter(|address| self.store.holds(&pod, *address))
                .collect();
            (!addresses.is_empty()).then_some((pod, addresses))
        });
        let old = self.compiled.pods.remove(key);
        if let Some((pod, addresses)) = held {
            let mut context = Context {
                store: &self.store,
                cohorts: &mut self.cohorts,
                compiled: &mut self.compiled,
                journal,
            };
            let new = CompiledPod {
                addresses,
                ingress: self.isolations.acquire(&pod, Direction::Ingress, &mut context),
                egress: self.isolations.acquire(&pod, Direction::Egress, &mut context),
            };
            self.compiled.pods.insert(key.clone(), new);
        }
        // Released last: what a pod keeps is not built anew.
        for id in old.iter().flat_map(|old| old.ingress.iter().chain(&old.egress)) {
            self.isolations.release(id);
        }
    }
}
