//! The peers of a rule as a group of addresses and networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::index::Index;
use super::{PeerSet, Peers};
use crate::digest::digest;
use crate::model::{Peer, Pod, Protocol};
use crate::net::{self, canonical_networks};

/// What a group is, apart from who is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct Definition {
    /// The policy's namespace, where one of the peers means "my own".
    pub(super) namespace: Option<String>,
    /// The peers, sorted; `None` is anyone.
    pub(super) peers: Option<Vec<Peer>>,
    /// Only pods that declare this port, in an egress rule that names one.
    pub(super) port: Option<NamedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct NamedPort {
    pub(super) protocol: Protocol,
    pub(super) name: String,
    pub(super) number: u16,
}

/// Resolves peers to groups, each definition once.
pub(super) struct Groups<'i, 'w> {
    index: &'i Index<'w>,
    known: BTreeMap<Definition, Peers>,
    named: BTreeMap<(Definition, Protocol, String), Vec<(u16, Peers)>>,
}

impl<'i, 'w> Groups<'i, 'w> {
    pub(super) fn new(index: &'i Index<'w>) -> Self {
        Self {
            index,
            known: BTreeMap::new(),
            named: BTreeMap::new(),
        }
    }

    /// The peers of a rule of a policy in `namespace`.
    pub(super) fn resolve(&mut self, namespace: &str, peers: Option<&[Peer]>) -> Peers {
        let Some(peers) = peers else {
            return Peers::Any;
        };
        let definition = define(namespace, Some(peers));
        if let Some(known) = self.known.get(&definition) {
            return known.clone();
        }
        let members = PeerSet {
            addresses: self
                .pods(namespace, peers)
                .into_iter()
                .map(|(_, address)| address)
                .collect(),
            networks: canonical_networks(blocks(peers)),
        };
        let group = Peers::Group {
            id: digest(&definition),
            members: Arc::new(members),
        };
        self.known.insert(definition, group.clone());
        group
    }

    /// Those of the peers that are pods and declare `name`, by the number they declare. Peers that are no pods declare
    /// nothing, so a named port never opens anything towards them.
    pub(super) fn declaring(
        &mut self,
        namespace: &str,
        peers: Option<&[Peer]>,
        protocol: Protocol,
        name: &str,
    ) -> Vec<(u16, Peers)> {
        let definition = define(namespace, peers);
        let key = (definition, protocol, name.to_owned());
        if let Some(known) = self.named.get(&key) {
            return known.clone();
        }
        let candidates: Vec<(&Pod, IpAddr)> = match peers {
            None => self.index.all_pods().collect(),
            Some(peers) => {
                let mut candidates = self.pods(namespace, peers);
                let networks = canonical_networks(blocks(peers));
                if !networks.is_empty() {
                    let inside = self
                        .index
                        .all_pods()
                        .filter(|(_, address)| net::contains(&networks, *address));
                    candidates.extend(inside);
                }
                candidates
            }
        };
        let mut by_number: BTreeMap<u16, PeerSet> = BTreeMap::new();
        for (pod, address) in candidates {
            for number in pod.named_port(protocol, name) {
                by_number.entry(number).or_default().addresses.insert(address);
            }
        }
        let named = |number| NamedPort {
            protocol,
            name: name.to_owned(),
            number,
        };
        let groups: Vec<(u16, Peers)> = by_number
            .into_iter()
            .map(|(number, members)| {
                let definition = Definition {
                    port: Some(named(number)),
                    ..key.0.clone()
                };
                (
                    number,
                    Peers::Group {
                        id: digest(&definition),
                        members: Arc::new(members),
                    },
                )
            })
            .collect();
        self.named.insert(key, groups.clone());
        groups
    }

    fn pods(&self, namespace: &str, peers: &[Peer]) -> Vec<(&'w Pod, IpAddr)> {
        let selected = peers.iter().filter_map(|peer| match peer {
            Peer::Block(_) => None,
            Peer::Pods { namespaces, pods } => Some(self.index.peer_pods(
                namespace,
                namespaces.as_ref(),
                pods.as_ref(),
            )),
        });
        selected.flatten().collect()
    }
}

pub(super) fn blocks(peers: &[Peer]) -> impl Iterator<Item = &crate::model::IpBlock> {
    peers.iter().filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    })
}

pub(super) fn define(namespace: &str, peers: Option<&[Peer]>) -> Definition {
    let means_own = |peer: &Peer| matches!(peer, Peer::Pods { namespaces: None, .. });
    let namespace = peers
        .is_some_and(|peers| peers.iter().any(means_own))
        .then(|| namespace.to_owned());
    let peers = peers.map(|peers| {
        let mut sorted = peers.to_vec();
        sorted.sort();
        sorted.dedup();
        sorted
    });
    Definition {
        namespace,
        peers,
        port: None,
    }
}
