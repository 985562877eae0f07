//! The cluster as the watches tell it: events in, a [`World`] out. Keeps of each object only what decides about traffic.

use std::collections::BTreeSet;

use ringfence_policy::{Namespace, Node, ObjectKey, Pod, Policy, World};

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pods of the whole cluster: any may be a peer.
    Pod,
    /// Namespaces.
    Namespace,
    /// This enforcer's own node.
    Node,
    /// NetworkPolicies of any origin.
    Policy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Pod, Self::Namespace, Self::Node, Self::Policy];
}

/// An object, reduced to what matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A policy.
    Policy(Policy),
}

impl Object {
    fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Policy(_) => Kind::Policy,
        }
    }

    /// The object's key; one that has no namespace has an empty one.
    fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(pod) => pod.key.clone(),
            Self::Namespace(namespace) => ObjectKey::new("", namespace.name.clone()),
            Self::Node(node) => ObjectKey::new("", node.name.clone()),
            Self::Policy(policy) => policy.key.clone(),
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A list of all objects of the kind begins.
    Begin(Kind),
    /// An object is so.
    Upsert(Object),
    /// An object is there, but what it says cannot be read: it stays what it was, or is this if it never was.
    Unreadable(Object),
    /// The namespace is there, and is being deleted.
    Terminating(String),
    /// An object is gone.
    Remove(Kind, ObjectKey),
    /// The list is complete: what it did not name is gone.
    End(Kind),
}

/// The cluster as it is known.
#[derive(Debug, Default)]
pub struct Cluster {
    world: World,
    /// Namespaces that are being deleted, or were.
    leaving: BTreeSet<String>,
    /// The objects that a list in progress has named.
    listing: [Option<BTreeSet<ObjectKey>>; 4],
    listed: [bool; 4],
}

impl Cluster {
    /// Takes an update in. Returns whether anything changed that decides about traffic.
    pub fn apply(&mut self, update: Update) -> bool {
        match update {
            Update::Begin(kind) => {
                self.listing[kind as usize] = Some(BTreeSet::new());
                false
            }
            Update::Upsert(object) => {
                self.seen(object.kind(), &object.key());
                self.upsert(object)
            }
            Update::Unreadable(stand_in) => {
                let (kind, key) = (stand_in.kind(), stand_in.key());
                self.seen(kind, &key);
                !self.knows(kind, &key) && self.upsert(stand_in)
            }
            Update::Terminating(namespace) => {
                self.leaving.insert(namespace);
                false
            }
            Update::Remove(kind, key) => self.remove(kind, &key),
            Update::End(kind) => self.end(kind),
        }
    }

    /// The kinds that no complete list has been received of.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| !self.listed[*kind as usize])
            .collect()
    }

    /// What is known. Of no use before [`Cluster::missing`] is empty.
    pub fn world(&self) -> &World {
        &self.world
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

    fn knows(&self, kind: Kind, key: &ObjectKey) -> bool {
        match kind {
            Kind::Pod => self.world.pods.contains_key(key),
            Kind::Namespace => self.world.namespaces.contains_key(&key.name),
            Kind::Node => self.world.nodes.contains_key(&key.name),
            Kind::Policy => self.world.policies.contains_key(key),
        }
    }

    fn upsert(&mut self, object: Object) -> bool {
        let world = &mut self.world;
        match object {
            Object::Pod(pod) => differs(world.pods.insert(pod.key.clone(), pod.clone()).as_ref(), &pod),
            Object::Namespace(it) => {
                self.leaving.remove(&it.name);
                differs(world.namespaces.insert(it.name.clone(), it.clone()).as_ref(), &it)
            }
            Object::Node(it) => differs(world.nodes.insert(it.name.clone(), it.clone()).as_ref(), &it),
            Object::Policy(it) => differs(world.policies.insert(it.key.clone(), it.clone()).as_ref(), &it),
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let world = &mut self.world;
        match kind {
            Kind::Pod => world.pods.remove(key).is_some(),
            Kind::Namespace => {
                self.leaving.insert(key.name.clone());
                world.namespaces.remove(&key.name).is_some()
            }
            Kind::Node => world.nodes.remove(&key.name).is_some(),
            Kind::Policy => world.policies.remove(key).is_some(),
        }
    }

    fn end(&mut self, kind: Kind) -> bool {
        let first = !std::mem::replace(&mut self.listed[kind as usize], true);
        let Some(listing) = self.listing[kind as usize].take() else {
            return first;
        };
        let gone: Vec<_> = self
            .keys(kind)
            .into_iter()
            .filter(|key| !listing.contains(key))
            .collect();
        let removed = gone.iter().filter(|key| self.remove(kind, key)).count();
        first || removed > 0
    }

    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let named = |name: &String| ObjectKey::new("", name.clone());
        match kind {
            Kind::Pod => self.world.pods.keys().cloned().collect(),
            Kind::Namespace => self.world.namespaces.keys().map(named).collect(),
            Kind::Node => self.world.nodes.keys().map(named).collect(),
            Kind::Policy => self.world.policies.keys().cloned().collect(),
        }
    }
}

fn differs<T: PartialEq>(old: Option<&T>, new: &T) -> bool {
    old != Some(new)
}

#[cfg(test)]
mod tests {
    use ringfence_policy::{Rule, Selector};

    use super::*;

    fn namespace(name: &str) -> Update {
        Update::Upsert(Object::Namespace(Namespace {
            name: name.to_owned(),
            labels: [].into(),
        }))
    }

    fn names(cluster: &Cluster) -> Vec<&str> {
        cluster.world().namespaces.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_kind_is_missing_until_its_first_list_is_complete() {
        let mut cluster = Cluster::default();
        cluster.apply(Update::Begin(Kind::Namespace));
        cluster.apply(namespace("a"));
        assert_eq!(cluster.missing(), Kind::ALL);
        assert!(cluster.apply(Update::End(Kind::Namespace)));
        assert_eq!(cluster.missing(), [Kind::Pod, Kind::Node, Kind::Policy]);
    }

    #[test]
    fn a_second_list_removes_what_it_does_not_name_and_only_when_it_is_complete() {
        let mut cluster = Cluster::default();
        let list = |names: &[&str]| {
            let objects = names.iter().map(|name| namespace(name));
            [Update::Begin(Kind::Namespace)]
                .into_iter()
                .chain(objects)
                .collect::<Vec<_>>()
        };
        for update in list(&["a", "b"]) {
            cluster.apply(update);
        }
        cluster.apply(Update::End(Kind::Namespace));
        for update in list(&["b"]) {
            cluster.apply(update);
        }
        assert_eq!(
            names(&cluster),
            ["a", "b"],
            "half a list says nothing about what is gone"
        );
        assert!(cluster.apply(Update::End(Kind::Namespace)));
        assert_eq!(names(&cluster), ["b"]);
    }

    /// A policy that cannot be read, as the watch tells of it: what stands for it allows nothing.
    fn unreadable(name: &str) -> Update {
        Update::Unreadable(Object::Policy(policy(name, Vec::new())))
    }

    fn policy(name: &str, ingress: Vec<Rule>) -> Policy {
        Policy {
            key: ObjectKey::new("n", name),
            uid: String::new(),
            pod_selector: Selector::everything(),
            ingress: Some(ingress),
            egress: None,
        }
    }

    #[test]
    fn an_object_that_cannot_be_read_stays_what_it_was() {
        let anyone = Rule {
            peers: None,
            ports: None,
        };
        let readable = policy("a", vec![anyone]);
        let mut cluster = Cluster::default();
        cluster.apply(Update::Upsert(Object::Policy(readable.clone())));
        cluster.apply(Update::Begin(Kind::Policy));
        assert!(!cluster.apply(unreadable("a")));
        cluster.apply(Update::End(Kind::Policy));
        assert_eq!(cluster.world().policies[&readable.key], readable);
    }

    #[test]
    fn an_object_that_was_never_readable_closes() {
        let mut cluster = Cluster::default();
        assert!(cluster.apply(unreadable("a")));
        let key = ObjectKey::new("n", "a");
        assert_eq!(cluster.world().policies[&key], policy("a", Vec::new()));
        assert!(cluster.apply(Update::Remove(Kind::Policy, key)));
    }

    #[test]
    fn a_namespace_leaves_from_its_deletion_until_it_comes_back() {
        let mut cluster = Cluster::default();
        cluster.apply(namespace("a"));
        assert!(!cluster.is_leaving("a"));
        cluster.apply(Update::Terminating("a".to_owned()));
        assert!(cluster.is_leaving("a"));
        cluster.apply(Update::Remove(Kind::Namespace, ObjectKey::new("", "a")));
        assert!(cluster.is_leaving("a"));
        cluster.apply(namespace("a"));
        assert!(!cluster.is_leaving("a"));
    }

    #[test]
    fn an_update_that_changes_nothing_says_so() {
        let mut cluster = Cluster::default();
        assert!(cluster.apply(namespace("a")));
        assert!(!cluster.apply(namespace("a")));
        assert!(!cluster.apply(Update::Remove(Kind::Namespace, ObjectKey::new("", "b"))));
    }
}
