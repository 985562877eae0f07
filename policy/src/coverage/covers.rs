//! Whether rules allow all that another rule allows.
//!
//! All policies of a pod are of its own namespace, so a peer means the same in each of them. The answer is on the safe
//! side: yes only where it is plain from the rules as they are written, whatever pods there are. `app=web` is not found to
//! be covered by `tier in (front)`, even if all web pods have that tier today.

use crate::labels::Selector;
use crate::model::{Peer, PortMatch, PortSpec, Rule};
use crate::net::canonical_networks;

/// Whether `rules` allow everything that `rule` does: for each of its peers and ports, one of them.
pub(super) fn covered<'a>(rule: &Rule, rules: &(impl Iterator<Item = &'a Rule> + Clone)) -> bool {
    each(&rule.peers).all(|peer| {
        each(&rule.ports).all(|port| {
            rules.clone().any(|other| {
                let peers = any(&other.peers, |wide| {
                    peer.is_some_and(|peer| covers_peer(wide, peer))
                });
                let ports = any(&other.ports, |wide| {
                    port.is_some_and(|port| covers_port(wide, port))
                });
                peers && ports
            })
        })
    })
}

/// The items, or `None` once where everything is meant.
fn each<T>(items: &Option<Vec<T>>) -> impl Iterator<Item = Option<&T>> {
    let all = items.is_none().then_some(None);
    items.iter().flatten().map(Some).chain(all)
}

fn any<T>(items: &Option<Vec<T>>, covers: impl Fn(&T) -> bool) -> bool {
    items.as_ref().is_none_or(|items| items.iter().any(covers))
}

fn covers_peer(wide: &Peer, narrow: &Peer) -> bool {
    match (wide, narrow) {
        (Peer::Block(wide), Peer::Block(narrow)) => {
            let wide = canonical_networks([wide]);
            let narrow = canonical_networks([narrow]);
            narrow
                .iter()
                .all(|part| wide.iter().any(|network| network.contains(part)))
        }
        (
            Peer::Pods {
                namespaces: wide_namespaces,
                pods: wide_pods,
            },
            Peer::Pods { namespaces, pods },
        ) => {
            let same_place = match (wide_namespaces, namespaces) {
                (None, None) => true,
                (Some(wide), Some(narrow)) => covers_selector(wide, narrow),
                // "All namespaces" has the policy's own among them, if it exists, and a policy's namespace does.
                (Some(wide), None) => wide.is_everything(),
                (None, Some(_)) => false,
            };
            let everything = Selector::everything();
            let pods = pods.as_ref().unwrap_or(&everything);
            same_place && wide_pods.as_ref().is_none_or(|wide| covers_selector(wide, pods))
        }
        _ => false,
    }
}

/// Every requirement of the wide one is met by one of the narrow one.
fn covers_selector(wide: &Selector, narrow: &Selector) -> bool {
    wide.requirements()
        .all(|wide| narrow.requirements().any(|narrow| narrow.implies(wide)))
}

fn covers_port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    wide.protocol == narrow.protocol
        && match (&wide.port, &narrow.port) {
            (None, _) => true,
            (Some(PortSpec::Range(first, last)), Some(PortSpec::Range(from, to))) => {
                first <= from && to <= last
            }
            (Some(PortSpec::Named(wide)), Some(PortSpec::Named(narrow))) => wide == narrow,
            _ => false,
        }
}
