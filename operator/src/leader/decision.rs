//! What a Lease means, and what to do about it. Pure but for the time stamps, which nobody compares.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// What to do about the Lease as it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    /// There is none: create it.
    Create(Box<Lease>),
    /// It is ours, or free: write this.
    Write(Box<Lease>),
    /// It is somebody else's.
    Wait(String),
}

/// Who holds a Lease.
pub(super) fn holder(lease: &Lease) -> Option<&String> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_ref()
        .filter(|holder| !holder.is_empty())
}

/// Decides about a Lease that has been as it is for `age`.
pub(super) fn next_move(current: Option<Lease>, age: Duration, me: &str, duration: Duration) -> Move {
    let Some(mut lease) = current else {
        return Move::Create(Box::new(Lease {
            spec: Some(held(None, me, duration)),
            ..Lease::default()
        }));
    };
    match holder(&lease) {
        Some(other) if other != me && age < lasts(&lease, duration) => Move::Wait(other.clone()),
        _ => {
            lease.spec = Some(held(lease.spec.take(), me, duration));
            Move::Write(Box::new(lease))
        }
    }
}

/// How long a Lease lasts, as its holder said.
fn lasts(lease: &Lease, default: Duration) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(default, Duration::from_secs)
}

fn held(before: Option<LeaseSpec>, me: &str, duration: Duration) -> LeaseSpec {
    let before = before.unwrap_or_default();
    let now = Some(MicroTime(Timestamp::now()));
    let mine = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs().max(1)).ok(),
        acquire_time: if mine { before.acquire_time } else { now.clone() },
        lease_transitions: Some(if mine {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        renew_time: now,
        ..LeaseSpec::default()
    }
}

/// A Lease that its holder gives up.
pub(super) fn released(mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = None;
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn lease_of(holder: &str) -> Lease {
        Lease {
            spec: Some(held(None, holder, DURATION)),
            ..Lease::default()
        }
    }

    fn decide(current: Option<Lease>, age: u64) -> Move {
        next_move(current, Duration::from_secs(age), "me", DURATION)
    }

    fn written(decision: Move) -> LeaseSpec {
        match decision {
            Move::Write(lease) | Move::Create(lease) => lease.spec.unwrap(),
            Move::Wait(holder) => panic!("waits for {holder}"),
        }
    }

    #[test]
    fn a_lease_that_is_missing_released_or_expired_is_taken() {
        assert!(matches!(decide(None, 0), Move::Create(_)));
        let spec = written(decide(Some(released(lease_of("other"))), 0));
        assert_eq!(
            (spec.holder_identity.as_deref(), spec.lease_transitions),
            (Some("me"), Some(2))
        );
        assert_eq!(
            written(decide(Some(lease_of("other")), 15))
                .holder_identity
                .as_deref(),
            Some("me")
        );
    }

    #[test]
    fn somebody_elses_live_lease_is_left_alone() {
        assert_eq!(
            decide(Some(lease_of("other")), 14),
            Move::Wait("other".to_owned())
        );
    }

    #[test]
    fn renewing_keeps_the_time_of_acquisition_and_the_count_of_transitions() {
        let mine = lease_of("me");
        let before = mine.spec.clone().unwrap();
        let after = written(decide(Some(mine), 3));
        assert_eq!(after.acquire_time, before.acquire_time);
        assert_eq!(after.lease_transitions, before.lease_transitions);
    }

    #[test]
    fn the_holders_own_duration_counts() {
        let mut lease = lease_of("other");
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        assert!(matches!(decide(Some(lease), 30), Move::Wait(_)));
    }
}
