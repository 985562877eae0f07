//! Which versions of objects the cluster consists of, for those who ask whether the kernel holds them.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_policy::{ObjectKey, Version, applied_digest};

/// The versions of the policies and of the own node, as the watches tell them.
#[derive(Debug, Default)]
pub struct Versions {
    policies: BTreeMap<ObjectKey, Version>,
    audits: BTreeMap<ObjectKey, Version>,
    /// How often one of those has become another.
    audit_edition: u64,
    unreadable: BTreeSet<ObjectKey>,
    node: Option<String>,
    changed: bool,
}

impl Versions {
    /// A policy is this version, and it can be read.
    pub fn policy(&mut self, key: ObjectKey, version: Version) {
        self.changed |= self.unreadable.remove(&key);
        self.changed |= self.policies.get(&key) != Some(&version);
        self.policies.insert(key, version);
    }

    /// A policy is there and cannot be read: what the kernel holds is none of its versions that the API knows.
    pub fn unreadable(&mut self, key: ObjectKey) {
        self.policies.remove(&key);
        self.changed |= self.unreadable.insert(key);
    }

    /// A policy is gone.
    pub fn policy_gone(&mut self, key: &ObjectKey) {
        self.changed |= self.policies.remove(key).is_some() | self.unreadable.remove(key);
    }

    /// A policy on trial is this version.
    pub fn audit(&mut self, key: ObjectKey, version: Version) {
        let another = self.audits.get(&key) != Some(&version);
        self.audits.insert(key, version);
        self.audits_changed(another);
    }

    /// A policy is on trial no more.
    pub fn audit_gone(&mut self, key: &ObjectKey) {
        let another = self.audits.remove(key).is_some();
        self.audits_changed(another);
    }

    fn audits_changed(&mut self, changed: bool) {
        self.changed |= changed;
        self.audit_edition += u64::from(changed);
    }

    /// A number that is another whenever a policy on trial is.
    pub fn audit_edition(&self) -> u64 {
        self.audit_edition
    }

    /// The own node is there with this UID, or it is gone.
    pub fn own_node(&mut self, uid: Option<String>) {
        self.changed |= self.node != uid;
        self.node = uid;
    }

    /// The UID of the own node.
    pub fn node_uid(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Whether any version changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The digest of a namespace's policies, and how many they are.
    pub fn digest(&self, namespace: &str) -> (String, usize) {
        digest(&self.policies, namespace)
    }

    /// The digest of a namespace's policies on trial, and how many they are.
    pub fn audit_digest(&self, namespace: &str) -> (String, usize) {
        digest(&self.audits, namespace)
    }

    /// The policies that cannot be read.
    pub fn unreadables(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unreadable.iter()
    }
}

fn digest(versions: &BTreeMap<ObjectKey, Version>, namespace: &str) -> (String, usize) {
    let policies = versions
        .range(ObjectKey::new(namespace, "")..)
        .take_while(|(key, _)| key.namespace == namespace);
    let count = policies.clone().count();
    let digest = applied_digest(policies.map(|(key, version)| (key.name.as_str(), version)));
    (digest, count)
}
