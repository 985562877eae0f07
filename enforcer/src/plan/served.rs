//! Which isolations the node's pods need, and for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_policy::{Compiled, Direction};

use crate::ruleset::{Family, Ruleset};

/// Whom an isolation serves: in one direction, pods with addresses of these families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) direction: Direction,
    pub(super) families: BTreeSet<Family>,
}

/// The isolations that pods name, each with whom it serves.
pub(super) fn served(compiled: &Compiled, ruleset: &Ruleset) -> BTreeMap<String, Service> {
    let mut served: BTreeMap<String, Service> = BTreeMap::new();
    for pod in compiled.pods.values() {
        let families = pod.addresses.iter().map(|address| Family::of(*address));
        let families: BTreeSet<Family> = families
            .filter(|family| ruleset.families.contains_key(family))
            .collect();
        let named = [
            (&pod.ingress, Direction::Ingress),
            (&pod.egress, Direction::Egress),
        ];
        for (id, direction) in named {
            let Some(id) = id else { continue };
            match served.get_mut(id) {
                Some(service) => service.families.extend(&families),
                None => {
                    let families = families.clone();
                    served.insert(id.clone(), Service { direction, families });
                }
            }
        }
    }
    served
}

/// The isolated addresses of a family, each with its isolation. An address that two pods claim is the one's that the
/// policies' meaning gave it to.
pub(super) fn isolated(compiled: &Compiled, family: Family, direction: Direction) -> BTreeMap<IpAddr, &str> {
    let mut isolated = BTreeMap::new();
    for pod in compiled.pods.values() {
        let isolation = match direction {
            Direction::Egress => pod.egress.as_deref(),
            Direction::Ingress => pod.ingress.as_deref(),
        };
        if let Some(isolation) = isolation {
            let addresses = pod
                .addresses
                .iter()
                .filter(|address| Family::of(**address) == family);
            isolated.extend(addresses.map(|address| (*address, isolation)));
        }
    }
    isolated
}
