//! When the next round is due, and how long a proof lasts.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The least pause between two rounds, however often nodes come and go.
const PAUSE: Duration = Duration::from_secs(5);

/// The last round, as far as it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// When it ended; none if there was none.
    pub ended: Option<Timestamp>,
    /// The generation of the spec that it followed.
    pub generation: Option<i64>,
    /// Its nodes, and whether each was ready.
    pub nodes: BTreeMap<String, bool>,
}

/// How long until the next round; nothing when it is due.
#[must_use]
pub fn due(
    last: &Last,
    generation: Option<i64>,
    interval: Duration,
    nodes: &BTreeMap<String, bool>,
    now: Timestamp,
) -> Duration {
    let Some(ended) = last.ended else {
        return Duration::ZERO;
    };
    if last.generation != generation {
        return Duration::ZERO;
    }
    let pause = if has_more(&last.nodes, nodes) {
        PAUSE
    } else {
        interval
    };
    let since = now.duration_since(ended);
    // A clock that was set back must not put the next round off.
    if since < SignedDuration::ZERO {
        return Duration::ZERO;
    }
    pause.saturating_sub(since.unsigned_abs())
}

/// Whether a node has become ready, a new one or one that was not. One that is not ready yet would only fail.
fn has_more(before: &BTreeMap<String, bool>, nodes: &BTreeMap<String, bool>) -> bool {
    nodes
        .iter()
        .any(|(node, ready)| *ready && before.get(node) != Some(&true))
}

/// Whether a proof of that time says nothing any more: it is older than two intervals, and than it is when the next round
/// takes as long as one can.
#[must_use]
pub fn is_stale(ended: Timestamp, interval: Duration, longest_round: Duration, now: Timestamp) -> bool {
    let lasts = interval + interval.max(longest_round);
    now.duration_since(ended).unsigned_abs() > lasts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn nodes(all: &[(&str, bool)]) -> BTreeMap<String, bool> {
        all.iter()
            .map(|(name, ready)| ((*name).to_owned(), *ready))
            .collect()
    }

    fn last() -> Last {
        Last {
            ended: Some(at(1000)),
            generation: Some(1),
            nodes: nodes(&[("a", true), ("b", false)]),
        }
    }

    fn wait(generation: i64, all: &[(&str, bool)], now: i64) -> u64 {
        due(&last(), Some(generation), INTERVAL, &nodes(all), at(now)).as_secs()
    }

    #[test]
    fn rounds_follow_the_interval() {
        let same = [("a", true), ("b", false)];
        assert_eq!(wait(1, &same, 1000), 600);
        assert_eq!(wait(1, &same, 1590), 10);
        assert_eq!(wait(1, &same, 1600), 0);
        assert_eq!(wait(1, &same, 9999), 0);
        let never = due(&Last::default(), Some(1), INTERVAL, &nodes(&same), at(0));
        assert_eq!(never, Duration::ZERO);
    }

    #[test]
    fn a_changed_spec_a_new_node_and_one_that_is_back_do_not_wait() {
        assert_eq!(wait(2, &[("a", true), ("b", false)], 1001), 0);
        assert_eq!(wait(1, &[("a", true), ("b", false), ("c", true)], 1010), 0);
        assert_eq!(wait(1, &[("a", true), ("b", false), ("c", false)], 1010), 590);
        assert_eq!(wait(1, &[("a", true), ("b", true)], 1010), 0);
        // But a round does not follow at its predecessor's heels.
        assert_eq!(wait(1, &[("a", true), ("b", true)], 1001), 4);
    }

    #[test]
    fn a_node_that_goes_or_fails_is_no_reason_for_a_round() {
        assert_eq!(wait(1, &[("a", true)], 1001), 599);
        assert_eq!(wait(1, &[("a", false), ("b", false)], 1001), 599);
    }

    #[test]
    fn a_clock_that_was_set_back_puts_nothing_off() {
        assert_eq!(wait(1, &[("a", true)], 500), 0);
    }

    #[test]
    fn a_proof_lasts_two_intervals_or_as_long_as_a_round_may_take() {
        let longest = Duration::from_secs(90);
        assert!(!is_stale(at(0), INTERVAL, longest, at(1200)));
        assert!(is_stale(at(0), INTERVAL, longest, at(1201)));
        let short = Duration::from_secs(5);
        assert!(!is_stale(at(0), short, longest, at(95)));
        assert!(is_stale(at(0), short, longest, at(96)));
        // One from the future is none either.
        assert!(is_stale(at(5000), INTERVAL, longest, at(0)));
    }
}
