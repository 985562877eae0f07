//! The status of an EnforcementProbe.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{
    ConditionStatus, ConditionType, EnforcementProbe, EnforcementProbeStatus, MOST_PROBE_FAILURES, Reason,
};

use super::condition::{Finding, seconds, written};
use super::verified::judged_by;
use crate::probe::judge::Verdict;

/// What there is to say about a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet, or nothing that still holds: the first round of this spec is under way.
    Pending,
    /// A round showed this.
    Judged(Verdict),
    /// A round could not be made, and why.
    Blocked(Reason, String),
}

/// The status of a probe whose status is `previous`.
#[must_use]
pub fn probe_status(
    probe: &EnforcementProbe,
    previous: &EnforcementProbeStatus,
    outcome: &Outcome,
    now: Timestamp,
) -> EnforcementProbeStatus {
    let generation = probe.metadata.generation;
    let mut status = match outcome {
        Outcome::Judged(verdict) => of_round(previous, verdict, now),
        Outcome::Pending | Outcome::Blocked(..) => EnforcementProbeStatus {
            last_run_time: previous.last_run_time.clone(),
            last_proof_time: previous.last_proof_time.clone(),
            ..EnforcementProbeStatus::default()
        },
    };
    status.observed_generation = generation;
    status.conditions = written(findings(outcome), &previous.conditions, generation, now);
    status
}

fn of_round(previous: &EnforcementProbeStatus, verdict: &Verdict, now: Timestamp) -> EnforcementProbeStatus {
    let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let ended = Some(Time(seconds(now)));
    let proven = verified(verdict).status == ConditionStatus::True;
    let mut failures = verdict.failures.clone();
    failures.truncate(MOST_PROBE_FAILURES);
    EnforcementProbeStatus {
        pairs: Some(format!("{}/{}", verdict.right(), verdict.pairs)),
        last_run_time: ended.clone(),
        last_proof_time: if proven {
            ended
        } else {
            previous.last_proof_time.clone()
        },
        nodes: verdict.nodes.clone(),
        open_at_start: number(verdict.open_at_start),
        failures,
        failure_count: number(verdict.failures.len()),
        ..EnforcementProbeStatus::default()
    }
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let verified = match outcome {
        Outcome::Judged(verdict) => verified(verdict),
        Outcome::Pending => Finding::unknown(
            ConditionType::EnforcementVerified,
            Reason::NotVerifiedYet,
            "The first round of this spec, or the first one after a long while, is under way.",
        ),
        Outcome::Blocked(_, why) => Finding::unknown(
            ConditionType::EnforcementVerified,
            Reason::NotVerifiedYet,
            format!("No round can be made: {why}"),
        ),
    };
    let (reason, message) = (verified.reason, verified.message.clone());
    let summary = match outcome {
        // Ready says whether the probe works, not what it finds.
        Outcome::Judged(_) if matches!(reason, Reason::Verified | Reason::DeniedTrafficPassed) => {
            vec![Finding::holds(
                ConditionType::Ready,
                Reason::AsExpected,
                "The last round got to every node.",
            )]
        }
        Outcome::Judged(_) => vec![
            Finding::fails(ConditionType::Ready, reason, message.clone()),
            Finding::holds(ConditionType::Reconciling, reason, message),
        ],
        Outcome::Pending => vec![
            Finding::unknown(ConditionType::Ready, reason, message.clone()),
            Finding::holds(ConditionType::Reconciling, reason, message),
        ],
        Outcome::Blocked(reason, why) => {
            let kind = match reason {
                Reason::Invalid | Reason::NameConflict => ConditionType::Stalled,
                _ => ConditionType::Reconciling,
            };
            vec![
                Finding::fails(ConditionType::Ready, *reason, why.clone()),
                Finding::holds(kind, *reason, why.clone()),
            ]
        }
    };
    let mut all = summary;
    all.push(verified);
    all.sort_by_key(|finding| finding.kind);
    all
}

fn verified(verdict: &Verdict) -> Finding {
    if verdict.pairs == 0 {
        return Finding::unknown(
            ConditionType::EnforcementVerified,
            Reason::ProbeIncomplete,
            "No node is to be probed: see spec.nodeSelector and spec.tolerations.",
        );
    }
    judged_by(
        verdict.failures.first(),
        verdict.failures.len(),
        verdict.nodes.len(),
    )
}
