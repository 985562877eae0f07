//! Which enforcers are alive, by their Leases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::Timestamp;

/// When a Lease says nothing about it.
const LASTS: Duration = Duration::from_secs(40);

/// Who renewed when, by this program's own clock: the nodes' clocks may be others.
#[derive(Debug, Default)]
pub struct Liveness {
    seen: BTreeMap<String, Renewal>,
}

#[derive(Debug)]
struct Renewal {
    time: Timestamp,
    seen: Instant,
}

impl Liveness {
    /// The nodes whose enforcer is alive, by these Leases, which are all that there are.
    ///
    /// One that is seen for the first time is believed what its clock says; after that, only whether it renews.
    pub fn alive<'a>(
        &mut self,
        leases: impl IntoIterator<Item = &'a Lease>,
        now: Instant,
        clock: Timestamp,
    ) -> BTreeSet<String> {
        let mut seen = BTreeMap::new();
        let mut alive = BTreeSet::new();
        for lease in leases {
            let Some((node, time, lasts)) = lease.spec.as_ref().and_then(read) else {
                continue;
            };
            let renewal = match self.seen.remove(node) {
                Some(known) if known.time == time => known,
                Some(_) => Renewal { time, seen: now },
                None => {
                    let age = clock.duration_since(time).unsigned_abs();
                    let seen = now.checked_sub(age.min(lasts * 2)).unwrap_or(now);
                    Renewal { time, seen }
                }
            };
            if now.saturating_duration_since(renewal.seen) < lasts {
                alive.insert(node.to_owned());
            }
            seen.insert(node.to_owned(), renewal);
        }
        self.seen = seen;
        alive
    }
}

/// The node, when its enforcer renewed, and how long that lasts.
fn read(spec: &LeaseSpec) -> Option<(&str, Timestamp, Duration)> {
    let node = spec.holder_identity.as_deref()?;
    let time = spec.renew_time.as_ref()?.0;
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    Some((node, time, seconds.map_or(LASTS, Duration::from_secs)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(node: &str, renewed: i64) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(node.to_owned()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    fn clock(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_does_not_renew_in_time_is_not_alive_whatever_the_clocks_say() {
        let (mut liveness, start) = (Liveness::default(), Instant::now());
        // Its clock is an hour ahead.
        let first = [lease("a", 3600)];
        liveness.alive(&first, start, clock(0));
        let second = [lease("a", 3610)];
        assert_eq!(liveness.alive(&second, start + SECOND * 10, clock(10)).len(), 1);
        assert_eq!(liveness.alive(&second, start + SECOND * 49, clock(49)).len(), 1);
        assert_eq!(liveness.alive(&second, start + SECOND * 50, clock(50)).len(), 0);
        let third = [lease("a", 3651)];
        assert_eq!(liveness.alive(&third, start + SECOND * 51, clock(51)).len(), 1);
    }

    #[test]
    fn a_lease_that_was_old_when_it_was_first_seen_is_no_sign_of_life() {
        let start = Instant::now() + SECOND * 1000;
        let old = [lease("dead", 0), lease("alive", 980)];
        let alive = Liveness::default().alive(&old, start, clock(1000));
        assert_eq!(alive.into_iter().collect::<Vec<_>>(), ["alive"]);
    }

    #[test]
    fn a_lease_that_is_gone_is_no_sign_of_life() {
        let (mut liveness, start) = (Liveness::default(), Instant::now());
        assert_eq!(liveness.alive(&[lease("a", 0)], start, clock(0)).len(), 1);
        assert_eq!(liveness.alive(&[], start + SECOND, clock(1)).len(), 0);
    }
}
