//! Giving a new ZeroTrustNamespace's grants the time to arrive.
//!
//! Objects that are applied together arrive one after another. A namespace that was closed the moment its
//! ZeroTrustNamespace appeared would be without the grants that stand further down in the same file, and would cut
//! connections that nobody meant to forbid.

use std::collections::HashMap;
use std::time::Duration;

use ringfence_crd::{UNOBSERVED, ZeroTrustNamespace};
use tokio::time::Instant;

/// How long a namespace stays as it is after its ZeroTrustNamespace was first seen: long for a file of objects, short
/// for whoever waits.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// When ZeroTrustNamespaces that nothing was done about yet were first seen, by namespace.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    seen: HashMap<String, (Option<String>, Instant)>,
}

impl Newcomers {
    /// How much longer to wait before acting upon a namespace's ZeroTrustNamespace. One whose status somebody
    /// wrote is none that is new.
    pub(super) fn wait(
        &mut self,
        namespace: &str,
        resource: Option<&ZeroTrustNamespace>,
        now: Instant,
    ) -> Option<Duration> {
        let Some(resource) = resource.filter(|resource| is_new(resource)) else {
            self.seen.remove(namespace);
            return None;
        };
        let uid = &resource.metadata.uid;
        let entry = self
            .seen
            .entry(namespace.to_owned())
            .or_insert_with(|| (uid.clone(), now));
        if entry.0 != *uid {
            *entry = (uid.clone(), now);
        }
        SETTLE
            .checked_sub(now.duration_since(entry.1))
            .filter(|left| !left.is_zero())
    }
}

/// The API server gives every object a status; until the operator writes one, it is about no generation.
fn is_new(resource: &ZeroTrustNamespace) -> bool {
    let status = resource.status.as_ref();
    status.is_none_or(|status| status.observed_generation == Some(UNOBSERVED))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn resource(uid: &str, status: Option<serde_json::Value>) -> ZeroTrustNamespace {
        let metadata = json!({"name": "default", "namespace": "shop", "uid": uid});
        let mut value = json!({"metadata": metadata, "spec": {"mode": "Enforce"}});
        if let Some(status) = status {
            value["status"] = status;
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_new_one_is_left_to_settle_once() {
        let (mut newcomers, start) = (Newcomers::default(), Instant::now());
        let new = resource("a", None);
        assert_eq!(newcomers.wait("shop", Some(&new), start), Some(SETTLE));
        assert_eq!(
            newcomers.wait("shop", Some(&new), start + SETTLE / 2),
            Some(SETTLE / 2)
        );
        assert_eq!(newcomers.wait("shop", Some(&new), start + SETTLE), None);
        assert_eq!(
            newcomers.wait("shop", Some(&new), start + 2 * SETTLE),
            None,
            "also when it is tried again"
        );
        let another = resource("b", None);
        assert_eq!(
            newcomers.wait("shop", Some(&another), start + 2 * SETTLE),
            Some(SETTLE)
        );
    }

    #[test]
    fn one_in_force_and_one_that_is_gone_are_not_waited_for() {
        let (mut newcomers, now) = (Newcomers::default(), Instant::now());
        assert_eq!(
            newcomers.wait("shop", Some(&resource("a", Some(json!({})))), now),
            None
        );
        assert_eq!(newcomers.wait("shop", None, now), None);
    }

    #[test]
    fn the_status_that_every_object_begins_with_is_nobodys_word() {
        let (mut newcomers, now) = (Newcomers::default(), Instant::now());
        let new = resource("a", Some(json!({"observedGeneration": UNOBSERVED})));
        assert_eq!(newcomers.wait("shop", Some(&new), now), Some(SETTLE));
    }
}
