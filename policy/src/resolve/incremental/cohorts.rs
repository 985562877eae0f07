//! The groups of peers that are in use, kept up to date one address at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::PeerSet;
use super::super::groups::{Definition, NamedPort, blocks};
use super::journal::Groups;
use super::store::Store;
use crate::digest::digest;
use crate::labels::{Labels, Selector};
use crate::model::{Peer, Pod, Protocol};
use crate::net::{self, canonical_networks};

/// Names a cohort. Never used twice.
pub(super) type Slot = usize;

/// What a cohort is: the peers of a rule, and for an egress rule that names a port, that port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Meaning {
    /// The peers; its own `port` is `None`.
    pub(super) definition: Definition,
    /// Only pods that declare this name, in one group for each number that they declare.
    pub(super) port: Option<(Protocol, String)>,
}

/// The peers of a rule: one group, or for a named port one for each number.
#[derive(Debug, Clone)]
pub(super) struct Cohort {
    meaning: Meaning,
    networks: Vec<IpNet>,
    /// The groups that exist, by the number of the named port.
    pub(super) groups: BTreeMap<Option<u16>, String>,
    /// The ids of the isolations that use it.
    pub(super) used_by: BTreeSet<String>,
}

impl Cohort {
    fn id(&self, number: Option<u16>) -> String {
        let port = match (&self.meaning.port, number) {
            (Some((protocol, name)), Some(number)) => Some(NamedPort {
                protocol: *protocol,
                name: name.clone(),
                number,
            }),
            _ => None,
        };
        digest(&Definition {
            port,
            ..self.meaning.definition.clone()
        })
    }

    /// Which of its groups the pod with this address belongs to.
    fn wants(&self, pod: &Pod, namespace: Option<&Labels>, address: IpAddr) -> BTreeSet<Option<u16>> {
        let named = self.meaning.port.as_ref();
        let selected = match &self.meaning.definition.peers {
            None => true,
            Some(peers) => peers.iter().any(|peer| self.selects(peer, pod, namespace)),
        };
        // A group without a named port has its networks as networks; with one, it has the pods inside them.
        match named {
            None if selected => BTreeSet::from([None]),
            Some((protocol, name)) if selected || net::contains(&self.networks, address) => {
                pod.named_port(*protocol, name).map(Some).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    fn selects(&self, peer: &Peer, pod: &Pod, namespace: Option<&Labels>) -> bool {
        let Peer::Pods { namespaces, pods } = peer else {
            return false;
        };
        let in_namespace = match namespaces {
            None => self.meaning.definition.namespace.as_ref() == Some(&pod.key.namespace),
            Some(selector) => namespace.is_some_and(|labels| selector.matches(labels)),
        };
        in_namespace && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
    }

    fn appear(&mut self, number: Option<u16>, addresses: BTreeSet<IpAddr>, groups: &mut Groups<'_>) {
        let id = self.id(number);
        // Where the name of a port must be declared, the pods inside the networks are members one by one.
        let networks = if number.is_none() {
            self.networks.clone()
        } else {
            Vec::new()
        };
        groups.appear(&id, PeerSet { addresses, networks });
        self.groups.insert(number, id);
    }

    fn vanish(&mut self, number: Option<u16>, groups: &mut Groups<'_>) {
        if let Some(id) = self.groups.remove(&number) {
            groups.vanish(&id);
        }
    }

    /// Puts an address into the groups it belongs to, and no others. Returns whether groups came or went.
    fn update(&mut self, address: IpAddr, holder: Holder<'_>, groups: &mut Groups<'_>) -> bool {
        let wanted = holder.map_or_else(BTreeSet::new, |(pod, namespace)| {
            self.wants(pod, namespace, address)
        });
        let leaving: Vec<Option<u16>> = self
            .groups
            .iter()
            .filter(|(number, id)| !wanted.contains(number) && groups.contains(id, address))
            .map(|(number, _)| *number)
            .collect();
        let mut came_or_went = false;
        for number in leaving {
            let left_empty = self
                .groups
                .get(&number)
                .is_some_and(|id| groups.lose(id, address));
            if left_empty && number.is_some() {
                self.vanish(number, groups);
                came_or_went = true;
            }
        }
        for number in wanted {
            if let Some(id) = self.groups.get(&number) {
                groups.gain(id, address);
            } else {
                self.appear(number, BTreeSet::from([address]), groups);
                came_or_went = true;
            }
        }
        came_or_went
    }

    /// Whether one of its namespace selectors answers differently for these labels.
    fn tells_apart(&self, one: Option<&Labels>, two: Option<&Labels>) -> bool {
        let peers = self.meaning.definition.peers.iter().flatten();
        let mut selectors = peers.filter_map(|peer| match peer {
            Peer::Pods { namespaces, .. } => namespaces.as_ref(),
            Peer::Block(_) => None,
        });
        selectors.any(|selector| {
            let matches = |labels: Option<&Labels>| labels.is_some_and(|labels| selector.matches(labels));
            matches(one) != matches(two)
        })
    }

    /// Where to look for a pod to find this cohort.
    fn anchors(&self) -> BTreeSet<Anchor> {
        let Some(peers) = &self.meaning.definition.peers else {
            return BTreeSet::from([Anchor::default()]);
        };
        let mut anchors: BTreeSet<Anchor> = peers.iter().flat_map(|peer| self.anchors_of(peer)).collect();
        if self.meaning.port.is_some() && !self.networks.is_empty() {
            anchors.insert(Anchor::default());
        }
        anchors
    }

    fn anchors_of(&self, peer: &Peer) -> Vec<Anchor> {
        let Peer::Pods { namespaces, pods } = peer else {
            return Vec::new();
        };
        let places: Vec<Place> = match namespaces {
            None => {
                let own = self.meaning.definition.namespace.clone();
                own.map(Place::Named).into_iter().collect()
            }
            Some(selector) => labels_of(selector).map_or_else(
                || vec![Place::Any],
                |labels| labels.into_iter().map(Place::Labelled).collect(),
            ),
        };
        let labels: Vec<Option<Label>> = pods
            .as_ref()
            .and_then(labels_of)
            .map_or_else(|| vec![None], |labels| labels.into_iter().map(Some).collect());
        let pairs = places
            .iter()
            .flat_map(|place| labels.iter().map(move |label| (place, label)));
        pairs
            .map(|(place, label)| Anchor {
                place: place.clone(),
                label: label.clone(),
            })
            .collect()
    }
}

/// The pod that holds an address, with the labels of its namespace where that is known.
pub(super) type Holder<'a> = Option<(&'a Pod, Option<&'a Labels>)>;

type Label = (String, String);

/// The labels of which a selected object has at least one; `None` where the selector names none.
fn labels_of(selector: &Selector) -> Option<Vec<Label>> {
    let (key, values) = selector.one_of()?;
    Some(values.iter().map(|value| (key.clone(), value.clone())).collect())
}

/// Something that a pod must have to belong to a cohort.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Anchor {
    place: Place,
    label: Option<Label>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    /// In any namespace.
    #[default]
    Any,
    /// In the namespace of this name.
    Named(String),
    /// In a namespace with this label.
    Labelled(Label),
}

/// All cohorts in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Cohorts {
    cohorts: HashMap<Slot, Cohort>,
    slots: HashMap<Meaning, Slot>,
    anchored: HashMap<Anchor, BTreeSet<Slot>>,
    next: Slot,
    /// Cohorts that lost a user.
    orphans: BTreeSet<Slot>,
}

impl Cohorts {
    pub(super) fn get(&self, slot: Slot) -> Option<&Cohort> {
        self.cohorts.get(&slot)
    }

    /// The cohort of this meaning, used by `isolation` from now on; a new one finds its members.
    pub(super) fn acquire(
        &mut self,
        meaning: Meaning,
        isolation: &str,
        store: &Store,
        groups: &mut Groups<'_>,
    ) -> Slot {
        let slot = match self.slots.get(&meaning) {
            Some(slot) => *slot,
            None => self.create(meaning, store, groups),
        };
        if let Some(cohort) = self.cohorts.get_mut(&slot) {
            cohort.used_by.insert(isolation.to_owned());
        }
        slot
    }

    /// `isolation` does not use the cohort any more. It goes when [`Self::sweep`] finds nobody else does.
    pub(super) fn release(&mut self, slot: Slot, isolation: &str) {
        if let Some(cohort) = self.cohorts.get_mut(&slot) {
            cohort.used_by.remove(isolation);
            self.orphans.insert(slot);
        }
    }

    fn create(&mut self, meaning: Meaning, store: &Store, groups: &mut Groups<'_>) -> Slot {
        let slot = self.next;
        self.next += 1;
        let peers = meaning.definition.peers.as_deref();
        let mut cohort = Cohort {
            networks: canonical_networks(blocks(peers.unwrap_or_default())),
            groups: BTreeMap::new(),
            used_by: BTreeSet::new(),
            meaning: meaning.clone(),
        };
        let everyone = peers.is_none() || (meaning.port.is_some() && !cohort.networks.is_empty());
        let candidates: Vec<(IpAddr, Arc<Pod>)> = if everyone {
            store
                .held()
                .map(|(address, pod)| (address, Arc::clone(pod)))
                .collect()
        } else {
            let own = meaning.definition.namespace.as_deref();
            let peers = peers.unwrap_or_default().iter();
            peers.flat_map(|peer| store.held_by_peer(own, peer)).collect()
        };
        let mut members: BTreeMap<Option<u16>, BTreeSet<IpAddr>> = BTreeMap::new();
        if meaning.port.is_none() {
            // The candidates are the pods of the peers, all of them.
            let addresses = candidates.into_iter().map(|(address, _)| address);
            members.insert(None, addresses.collect());
        } else {
            for (address, pod) in candidates {
                for number in cohort.wants(&pod, store.labels_of(&pod.key.namespace), address) {
                    members.entry(number).or_default().insert(address);
                }
            }
        }
        for (number, addresses) in members {
            cohort.appear(number, addresses, groups);
        }
        for anchor in cohort.anchors() {
            self.anchored.entry(anchor).or_default().insert(slot);
        }
        self.slots.insert(meaning, slot);
        self.cohorts.insert(slot, cohort);
        slot
    }

    /// Removes the cohorts that nobody uses.
    pub(super) fn sweep(&mut self, groups: &mut Groups<'_>) {
        for slot in std::mem::take(&mut self.orphans) {
            if self
                .cohorts
                .get(&slot)
                .is_none_or(|cohort| !cohort.used_by.is_empty())
            {
                continue;
            }
            let Some(mut cohort) = self.cohorts.remove(&slot) else {
                continue;
            };
            self.slots.remove(&cohort.meaning);
            for anchor in cohort.anchors() {
                if let Some(slots) = self.anchored.get_mut(&anchor) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        self.anchored.remove(&anchor);
                    }
                }
            }
            for number in cohort.groups.keys().copied().collect::<Vec<_>>() {
                cohort.vanish(number, groups);
            }
        }
    }

    /// The cohorts that a pod in a namespace with these labels may belong to: all those that it does belong to, and few
    /// others.
    pub(super) fn candidates(&self, pod: &Pod, namespace: Option<&Labels>) -> BTreeSet<Slot> {
        let labelled = namespace.into_iter().flatten();
        let labelled = labelled.map(|(key, value)| Place::Labelled((key.clone(), value.clone())));
        let labels: Vec<Label> = pod
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let mut found = BTreeSet::new();
        for place in [Place::Any, Place::Named(pod.key.namespace.clone())]
            .into_iter()
            .chain(labelled)
        {
            let mut anchor = Anchor { place, label: None };
            for label in [None].into_iter().chain(labels.iter().cloned().map(Some)) {
                anchor.label = label;
                found.extend(self.anchored.get(&anchor).into_iter().flatten());
            }
        }
        found
    }

    /// The cohorts for which a namespace's new labels make a difference.
    pub(super) fn telling_apart(&self, before: Option<&Labels>, after: Option<&Labels>) -> BTreeSet<Slot> {
        let different = self
            .cohorts
            .iter()
            .filter(|(_, cohort)| cohort.tells_apart(before, after));
        different.map(|(slot, _)| *slot).collect()
    }

    /// Puts an address, held by this pod now or by none, into the groups of a cohort that it belongs to, and no others.
    /// Returns whether groups of the cohort came or went.
    pub(super) fn update(
        &mut self,
        slot: Slot,
        address: IpAddr,
        holder: Holder<'_>,
        groups: &mut Groups<'_>,
    ) -> bool {
        let cohort = self.cohorts.get_mut(&slot);
        cohort.is_some_and(|cohort| cohort.update(address, holder, groups))
    }
}
