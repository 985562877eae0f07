//! What the node itself says of its pods' addresses, before the API server does.
//!
//! The node is right: it gave the address out. So a sandbox's addresses are its pod's until the API server tells of others,
//! and nobody else's, whatever it still says of a pod that had them before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_policy::{ObjectKey, Pod};

use crate::cni::message::Sandbox;

/// The sandboxes of the node's pods, as far as the CNI plugin told of them.
#[derive(Debug, Default)]
pub struct Starts {
    by_pod: BTreeMap<ObjectKey, Start>,
}

/// A pod's latest sandbox.
#[derive(Debug)]
struct Start {
    sandbox: Sandbox,
    /// The addresses that the API server told when the sandbox came: those of an earlier one, or none. `None` is that the
    /// pod itself is not known yet.
    told: Option<Vec<IpAddr>>,
}

impl Starts {
    /// A sandbox has come. `known` is the pod of its name, if there is one. Returns the pod with its new addresses, if it
    /// is that pod.
    pub fn begin(&mut self, sandbox: &Sandbox, known: Option<&Pod>) -> Option<Pod> {
        let key = sandbox.key();
        let known = known.filter(|pod| pod.uid == sandbox.uid);
        let earlier = self.by_pod.remove(&key);
        let told = earlier
            .filter(|start| start.sandbox.uid == sandbox.uid)
            .and_then(|start| start.told);
        let told = told.or_else(|| known.map(|pod| pod.addresses.clone()));
        // An address that is given out again was given back before, even if nobody said so.
        self.by_pod.retain(|_, start| {
            let mut theirs = start.sandbox.addresses.iter();
            !theirs.any(|address| sandbox.addresses.contains(address))
        });
        let start = Start {
            sandbox: sandbox.clone(),
            told,
        };
        self.by_pod.insert(key, start);
        known.map(|pod| Pod {
            addresses: sandbox.addresses.clone(),
            ..pod.clone()
        })
    }

    /// A sandbox is gone. Returns its pod with the addresses that the API server tells. Word of a sandbox that its pod has
    /// replaced already comes late, and changes nothing.
    pub fn end(&mut self, sandbox: &Sandbox, known: Option<&Pod>) -> Option<Pod> {
        let key = sandbox.key();
        let start = self.by_pod.get(&key)?;
        if start.sandbox.uid != sandbox.uid || start.sandbox.container != sandbox.container {
            return None;
        }
        let told = self.by_pod.remove(&key)?.told?;
        let known = known.filter(|pod| pod.uid == sandbox.uid)?;
        Some(Pod {
            addresses: told,
            ..known.clone()
        })
    }

    /// The API server tells of a pod. Returns it with the addresses that it has.
    pub fn heard(&mut self, mut pod: Pod) -> Pod {
        if let Some(start) = self.by_pod.get_mut(&pod.key) {
            let own = start.sandbox.uid == pod.uid;
            let agrees = confirms(&pod.addresses, &start.sandbox.addresses);
            let old_news = start.told.as_ref().is_none_or(|told| *told == pod.addresses);
            if own && (agrees || old_news) {
                start.told = Some(std::mem::replace(
                    &mut pod.addresses,
                    start.sandbox.addresses.clone(),
                ));
            } else if start.told.is_some() {
                // It has other addresses now, or it is another pod of the same name.
                self.by_pod.remove(&pod.key);
            }
        }
        self.adjusted(pod)
    }

    /// The pod without the addresses that another's sandbox has.
    pub fn adjusted(&self, mut pod: Pod) -> Pod {
        let taken = |address: &IpAddr| {
            let mut others = self.by_pod.iter().filter(|(key, _)| **key != pod.key);
            others.any(|(_, start)| start.sandbox.addresses.contains(address))
        };
        let kept: Vec<IpAddr> = pod
            .addresses
            .iter()
            .copied()
            .filter(|address| !taken(address))
            .collect();
        pod.addresses = kept;
        pod
    }

    /// The API server tells that the pod of this name is gone.
    pub fn gone(&mut self, key: &ObjectKey) {
        // One that was never known is not the one that is gone.
        if self.by_pod.get(key).is_some_and(|start| start.told.is_some()) {
            self.by_pod.remove(key);
        }
    }
}

/// Whether what the API server tells are addresses of the sandbox: it may be some only, for a kubelet tells one of a family.
fn confirms(told: &[IpAddr], sandbox: &[IpAddr]) -> bool {
    !told.is_empty() && told.iter().all(|address| sandbox.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Cluster, Kind, Object, Update};

    fn pod(name: &str, uid: &str, addresses: &[u8]) -> Update {
        Update::Upsert(Object::Pod(Pod {
            key: ObjectKey::new("n", name),
            uid: uid.to_owned(),
            labels: [].into(),
            node: Some("here".to_owned()),
            addresses: addresses.iter().map(|last| address(*last)).collect(),
            host_network: false,
            finished: false,
            terminating: false,
            ports: Vec::new(),
            service_account: "default".to_owned(),
        }))
    }

    fn gone(name: &str) -> Update {
        Update::Remove(Kind::Pod, ObjectKey::new("n", name))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn sandbox(name: &str, uid: &str, container: &str, addresses: &[u8]) -> Sandbox {
        Sandbox {
            namespace: "n".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            container: container.to_owned(),
            addresses: addresses.iter().map(|last| address(*last)).collect(),
        }
    }

    /// The pod's addresses as the rules have them.
    fn held(cluster: &Cluster, name: &str) -> Vec<IpAddr> {
        let policies = cluster.policies();
        let pod = policies.pods.get(&ObjectKey::new("n", name));
        pod.map(|pod| pod.addresses.clone()).unwrap_or_default()
    }

    #[test]
    fn a_pod_has_its_sandboxs_address_until_the_api_server_tells_another() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[]));
        let mine = sandbox("a", "1", "c", &[5]);
        assert!(!cluster.has_started(&mine));
        assert!(cluster.start(&mine) && cluster.has_started(&mine));
        assert!(
            !cluster.apply(pod("a", "1", &[])),
            "the API server does not know yet"
        );
        assert!(!cluster.apply(pod("a", "1", &[5])), "now it does");
        assert_eq!(held(&cluster, "a"), [address(5)]);
        assert!(cluster.apply(pod("a", "1", &[6])), "it has moved");
        assert_eq!(held(&cluster, "a"), [address(6)]);
    }

    #[test]
    fn a_sandbox_waits_for_its_pod_and_not_for_the_last_one_of_that_name() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "old", &[4]));
        let mine = sandbox("a", "new", "c", &[5]);
        assert!(!cluster.start(&mine));
        assert_eq!(held(&cluster, "a"), [address(4)]);
        cluster.apply(gone("a"));
        assert!(!cluster.has_started(&mine));
        assert!(cluster.apply(pod("a", "new", &[])));
        assert!(cluster.has_started(&mine));
        assert_eq!(held(&cluster, "a"), [address(5)]);
    }

    #[test]
    fn a_new_sandbox_of_a_pod_counts_more_than_what_the_api_server_told_before() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[4]));
        let second = sandbox("a", "1", "c2", &[5]);
        cluster.start(&second);
        assert!(!cluster.apply(pod("a", "1", &[4])));
        assert_eq!(held(&cluster, "a"), [address(5)]);
        let first = sandbox("a", "1", "c1", &[]);
        assert!(!cluster.stop(&first), "late word of the first sandbox");
        assert_eq!(held(&cluster, "a"), [address(5)]);
        cluster.start(&sandbox("a", "1", "c3", &[6]));
        assert!(!cluster.apply(pod("a", "1", &[4])));
        assert_eq!(held(&cluster, "a"), [address(6)]);
    }

    #[test]
    fn an_address_is_its_new_owners_whatever_is_still_told_of_the_old_one() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[5]));
        cluster.start(&sandbox("a", "1", "c", &[5]));
        cluster.apply(pod("b", "2", &[]));
        cluster.start(&sandbox("b", "2", "d", &[5]));
        assert_eq!(
            (held(&cluster, "a"), held(&cluster, "b")),
            (vec![], vec![address(5)])
        );
        cluster.apply(pod("a", "1", &[5]));
        cluster.apply(pod("b", "2", &[5]));
        cluster.apply(pod("a", "1", &[5]));
        assert_eq!(
            (held(&cluster, "a"), held(&cluster, "b")),
            (vec![], vec![address(5)])
        );
        assert!(
            !cluster.stop(&sandbox("a", "1", "c", &[])),
            "a late delete takes nothing from the new owner"
        );
        cluster.apply(gone("a"));
        assert_eq!(held(&cluster, "b"), [address(5)]);
    }

    #[test]
    fn the_address_of_a_sandbox_that_failed_is_free() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[]));
        cluster.start(&sandbox("a", "1", "c", &[5]));
        assert!(cluster.stop(&sandbox("a", "1", "c", &[])));
        assert!(held(&cluster, "a").is_empty());
        cluster.start(&sandbox("a", "1", "d", &[6]));
        cluster.apply(gone("a"));
        cluster.apply(pod("a", "2", &[]));
        assert!(
            held(&cluster, "a").is_empty(),
            "another pod of that name has another sandbox"
        );
    }

    #[test]
    fn addresses_of_both_families_come_together() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[]));
        let mine = sandbox("a", "1", "c", &[5, 6]);
        cluster.start(&mine);
        assert!(cluster.has_started(&mine));
        assert!(!cluster.has_started(&sandbox("a", "1", "c", &[5, 7])));
        assert!(!cluster.has_started(&sandbox("a", "2", "c", &[5])));
        cluster.apply(pod("a", "1", &[6, 5]));
        assert!(cluster.has_started(&mine), "in whatever order");
    }

    /// It has been scheduled, so its object will name this node any moment.
    #[test]
    fn a_pod_waits_until_it_is_known_to_be_one_of_this_node() {
        let mut cluster = Cluster::new("here");
        let unbound = |update| match update {
            Update::Upsert(Object::Pod(pod)) => Update::Upsert(Object::Pod(Pod { node: None, ..pod })),
            other => other,
        };
        cluster.apply(unbound(pod("a", "1", &[])));
        let sandbox = sandbox("a", "1", "c", &[5]);
        cluster.start(&sandbox);
        assert!(!cluster.has_started(&sandbox));
        assert!(cluster.apply(pod("a", "1", &[])), "somebody writes, and answers");
        assert!(cluster.has_started(&sandbox));
    }

    /// A kubelet tells one address of each family.
    #[test]
    fn an_address_that_the_api_server_never_tells_stays_the_pods() {
        let mut cluster = Cluster::new("here");
        cluster.apply(pod("a", "1", &[]));
        let sandbox = sandbox("a", "1", "c", &[5, 6]);
        cluster.start(&sandbox);
        cluster.apply(pod("a", "1", &[5]));
        assert!(cluster.has_started(&sandbox));
        cluster.apply(pod("a", "1", &[7]));
        assert!(!cluster.has_started(&sandbox), "it has another one now");
    }
}
