//! What was written but not yet seen again.
//!
//! A cache lags behind the API server. A plan made from a cache that does not yet hold our own writes would write them
//! again, or undo them; the API server refuses most of that (a taken name, an old resourceVersion), but each refusal
//! is a request for nothing. So a namespace's next plan waits until the cache holds what the last one wrote. A write
//! that somebody undid before the cache saw it never shows: after a while the API server itself is asked. So it is at once
//! when it refuses a write for being about an older object: then the cache is behind, whatever the reason.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use tokio::time::Instant;

/// How long a write may take to show in the cache before the API server is asked instead.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The outcome of a write, as the cache should show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The object at this resourceVersion or a later one.
    Written {
        /// The version the API server answered with.
        resource_version: String,
    },
    /// No object with this UID.
    Deleted {
        /// The UID that was deleted.
        uid: String,
    },
}

/// How far the cache has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It holds everything that was written.
    Fresh,
    /// Not yet: wait.
    Behind,
    /// Not for too long: ask the API server.
    Doubtful,
}

/// What is expected of the cache of NetworkPolicies, by namespace and name.
#[derive(Debug, Default)]
pub struct Expectations {
    namespaces: HashMap<String, Namespace>,
    /// Namespaces whose policies in the cache are known not to be those in the API server.
    doubted: HashSet<String>,
}

#[derive(Debug)]
struct Namespace {
    since: Instant,
    policies: BTreeMap<String, Expected>,
}

impl Expectations {
    /// Notes the outcome of a write.
    pub fn expect(&mut self, namespace: &str, name: &str, expected: Expected, now: Instant) {
        let entry = self
            .namespaces
            .entry(namespace.to_owned())
            .or_insert_with(|| Namespace {
                since: now,
                policies: BTreeMap::new(),
            });
        entry.since = now;
        entry.policies.insert(name.to_owned(), expected);
    }

    /// Compares what is expected of a namespace with `cached`, its policies in the cache, and forgets what has shown.
    pub fn check<'a>(
        &mut self,
        namespace: &str,
        cached: impl Iterator<Item = &'a NetworkPolicy>,
        now: Instant,
    ) -> Freshness {
        if self.doubted.contains(namespace) {
            return Freshness::Doubtful;
        }
        let Some(entry) = self.namespaces.get_mut(namespace) else {
            return Freshness::Fresh;
        };
        let cached: HashMap<String, &NetworkPolicy> =
            cached.map(|policy| (policy.name_any(), policy)).collect();
        entry
            .policies
            .retain(|name, expected| !expected.shows_in(cached.get(name).copied()));
        if entry.policies.is_empty() {
            self.namespaces.remove(namespace);
            Freshness::Fresh
        } else if now.duration_since(entry.since) < PATIENCE {
            Freshness::Behind
        } else {
            Freshness::Doubtful
        }
    }

    /// The API server refused a write because an object is another one by now: what the cache holds is no good for a plan.
    pub fn doubt(&mut self, namespace: &str) {
        self.doubted.insert(namespace.to_owned());
    }

    /// The API server has been asked about a namespace: nothing is owed any more.
    pub fn forget(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
        self.doubted.remove(namespace);
    }
}

impl Expected {
    fn shows_in(&self, cached: Option<&NetworkPolicy>) -> bool {
        match self {
            Self::Written { resource_version } => {
                cached.is_some_and(|policy| reached(policy.resource_version().as_deref(), resource_version))
            }
            Self::Deleted { uid } => cached.is_none_or(|policy| policy.uid().as_ref() != Some(uid)),
        }
    }
}

/// The newest version of statuses we wrote, by object.
#[derive(Debug)]
pub struct Versions<K> {
    written: HashMap<K, (String, Instant)>,
}

impl<K> Default for Versions<K> {
    fn default() -> Self {
        Self {
            written: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Versions<K> {
    /// Notes the version a write was answered with.
    pub fn wrote(&mut self, key: K, version: String, now: Instant) {
        self.written.insert(key, (version, now));
    }

    /// Whether the cache, which holds `cached`, shows what was written last, or has had the time to.
    pub fn is_fresh(&mut self, key: &K, cached: Option<&str>, now: Instant) -> bool {
        let Some((version, since)) = self.written.get(key) else {
            return true;
        };
        let fresh = reached(cached, version) || now.duration_since(*since) >= PATIENCE;
        if fresh {
            self.written.remove(key);
        }
        fresh
    }
}

/// Whether a resourceVersion is `wanted` or a later one. The API guarantees the order of versions of one resource as
/// decimal numbers; a server that does not keep to that is handled by waiting for the very version.
pub fn reached(version: Option<&str>, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    match (version.and_then(number), number(wanted)) {
        (Some(version), Some(wanted)) => version >= wanted,
        _ => version == Some(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, uid: &str, version: &str) -> NetworkPolicy {
        let mut policy = NetworkPolicy::default();
        policy.metadata.name = Some(name.to_owned());
        policy.metadata.uid = Some(uid.to_owned());
        policy.metadata.resource_version = Some(version.to_owned());
        policy
    }

    fn check(expectations: &mut Expectations, cached: &[NetworkPolicy], now: Instant) -> Freshness {
        expectations.check("shop", cached.iter(), now)
    }

    #[test]
    fn a_written_policy_shows_at_its_version_or_a_later_one() {
        let (mut expectations, now) = (Expectations::default(), Instant::now());
        expectations.expect(
            "shop",
            "a",
            Expected::Written {
                resource_version: "100".to_owned(),
            },
            now,
        );
        assert_eq!(check(&mut expectations, &[], now), Freshness::Behind);
        assert_eq!(
            check(&mut expectations, &[policy("a", "u", "99")], now),
            Freshness::Behind
        );
        assert_eq!(
            check(&mut expectations, &[policy("a", "u", "1000")], now),
            Freshness::Fresh
        );
        assert_eq!(
            check(&mut expectations, &[], now),
            Freshness::Fresh,
            "it has shown and is owed no longer"
        );
    }

    #[test]
    fn a_deleted_policy_shows_by_being_gone_or_another() {
        let now = Instant::now();
        let deleted = || {
            let mut expectations = Expectations::default();
            expectations.expect("shop", "a", Expected::Deleted { uid: "u".to_owned() }, now);
            expectations
        };
        assert_eq!(
            check(&mut deleted(), &[policy("a", "u", "1")], now),
            Freshness::Behind
        );
        assert_eq!(
            check(&mut deleted(), &[policy("a", "v", "2")], now),
            Freshness::Fresh
        );
        assert_eq!(check(&mut deleted(), &[], now), Freshness::Fresh);
    }

    #[test]
    fn what_a_refusal_contradicts_is_doubted_until_the_api_server_was_asked() {
        let (mut expectations, now) = (Expectations::default(), Instant::now());
        expectations.doubt("shop");
        let cached = [policy("a", "u", "1")];
        assert_eq!(check(&mut expectations, &cached, now), Freshness::Doubtful);
        assert_eq!(
            expectations.check("other", std::iter::empty(), now),
            Freshness::Fresh
        );
        expectations.forget("shop");
        assert_eq!(check(&mut expectations, &cached, now), Freshness::Fresh);
    }

    #[test]
    fn what_never_shows_raises_doubt_after_a_while_in_its_own_namespace_only() {
        let (mut expectations, now) = (Expectations::default(), Instant::now());
        expectations.expect(
            "shop",
            "a",
            Expected::Written {
                resource_version: "7".to_owned(),
            },
            now,
        );
        assert_eq!(check(&mut expectations, &[], now + PATIENCE), Freshness::Doubtful);
        assert_eq!(
            expectations.check("other", std::iter::empty(), now + PATIENCE),
            Freshness::Fresh
        );
        expectations.forget("shop");
        assert_eq!(check(&mut expectations, &[], now + PATIENCE), Freshness::Fresh);
    }

    #[test]
    fn a_status_is_stale_until_our_own_write_shows() {
        let (mut versions, now) = (Versions::default(), Instant::now());
        versions.wrote("a", "8".to_owned(), now);
        assert!(!versions.is_fresh(&"a", Some("7"), now));
        assert!(versions.is_fresh(&"b", Some("1"), now));
        assert!(versions.is_fresh(&"a", Some("9"), now));
        versions.wrote("a", "12".to_owned(), now);
        assert!(versions.is_fresh(&"a", Some("9"), now + PATIENCE));
    }

    #[test]
    fn versions_that_are_no_numbers_must_match_exactly() {
        assert!(reached(Some("abc"), "abc"));
        assert!(!reached(Some("abd"), "abc"));
        assert!(!reached(None, "1"));
    }
}
