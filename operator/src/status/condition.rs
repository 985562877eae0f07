//! Conditions: how they are judged together, and how they are written down.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{ConditionStatus, ConditionType, Reason};

/// The longest message. The API allows more; a person reads less.
const MESSAGE: usize = 1024;

/// What is to be said about one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: ConditionType,
    pub(super) status: ConditionStatus,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Finding {
    pub(super) fn new(
        kind: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn holds(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::True, reason, message)
    }

    pub(super) fn fails(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::False, reason, message)
    }

    pub(super) fn unknown(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::Unknown, reason, message)
    }
}

/// Whether only a person can remedy a reason, or time may.
pub(super) fn needs_a_person(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Invalid | Reason::NotPermitted | Reason::UnsupportedService | Reason::NameConflict
    )
}

/// Adds what follows from the others: Ready, and Reconciling or Stalled.
///
/// Covered does not count, and Enforced only when it is False. The first condition that is not as it should be gives Ready
/// its reason and message; one that needs a person goes before one that may pass.
pub(super) fn summarised(findings: Vec<Finding>) -> Vec<Finding> {
    let counts = |finding: &&Finding| match finding.kind {
        ConditionType::Accepted | ConditionType::ResolvedRefs | ConditionType::Programmed => {
            finding.status != ConditionStatus::True
        }
        ConditionType::Enforced => finding.status == ConditionStatus::False,
        _ => false,
    };
    let wrong: Vec<&Finding> = findings.iter().filter(counts).collect();
    let stalled = wrong.iter().find(|finding| needs_a_person(finding.reason));
    let failed = wrong
        .iter()
        .find(|finding| finding.status == ConditionStatus::False);
    let summary = match (stalled.or(failed), wrong.first()) {
        (Some(worst), _) => {
            let kind = if stalled.is_some() {
                ConditionType::Stalled
            } else {
                ConditionType::Reconciling
            };
            vec![
                Finding::fails(ConditionType::Ready, worst.reason, worst.message.clone()),
                Finding::holds(kind, worst.reason, worst.message.clone()),
            ]
        }
        (None, Some(working)) => vec![
            Finding::unknown(ConditionType::Ready, working.reason, working.message.clone()),
            Finding::holds(
                ConditionType::Reconciling,
                working.reason,
                working.message.clone(),
            ),
        ],
        (None, None) => vec![ready(&findings)],
    };
    let mut all = summary;
    all.extend(findings);
    all.sort_by_key(|finding| finding.kind);
    all
}

/// Ready when nothing is wrong: as accepted, so that "nothing is denied here" shows in the printer column.
fn ready(findings: &[Finding]) -> Finding {
    let not_needed = findings
        .iter()
        .find(|finding| finding.reason == Reason::NotNeeded);
    match not_needed {
        Some(finding) => Finding::holds(ConditionType::Ready, Reason::NotNeeded, finding.message.clone()),
        None => Finding::holds(
            ConditionType::Ready,
            Reason::AsExpected,
            "Everything asked for is in place.",
        ),
    }
}

/// Writes conditions down. A condition keeps its transition time while its status stays; conditions of types that are none
/// of ours stay as they are.
pub(super) fn written(
    findings: Vec<Finding>,
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = findings
        .into_iter()
        .map(|finding| {
            let before = previous
                .iter()
                .find(|condition| condition.type_ == finding.kind.as_str());
            let unchanged = before.filter(|condition| condition.status == finding.status.as_str());
            Condition {
                type_: finding.kind.as_str().to_owned(),
                status: finding.status.as_str().to_owned(),
                reason: finding.reason.as_str().to_owned(),
                message: bounded(finding.message),
                observed_generation: generation,
                last_transition_time: unchanged.map_or_else(
                    || Time(seconds(now)),
                    |condition| condition.last_transition_time.clone(),
                ),
            }
        })
        .collect();
    conditions.extend(
        previous
            .iter()
            .filter(|condition| !is_ours(&condition.type_))
            .cloned(),
    );
    in_order_of(previous, conditions, |condition| condition.type_.clone())
}

fn is_ours(kind: &str) -> bool {
    use ConditionType as T;
    let ours = [
        T::Ready,
        T::Accepted,
        T::ResolvedRefs,
        T::Programmed,
        T::Covered,
        T::Enforced,
        T::EnforcementVerified,
        T::Reconciling,
        T::Stalled,
    ];
    ours.iter().any(|ours| ours.as_str() == kind)
}

/// The first few names, and how many more there are.
pub(super) fn listed<'a, I>(names: I, most: usize) -> String
where
    I: IntoIterator<Item = &'a String, IntoIter: ExactSizeIterator>,
{
    let names = names.into_iter();
    let more = names.len().saturating_sub(most);
    let mut text = names
        .take(most)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The API keeps whole seconds; a fraction would make a status that was read back look changed.
pub(super) fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn bounded(mut message: String) -> String {
    if message.len() > MESSAGE {
        let end = (0..=MESSAGE - 3)
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// A list that is a map by key, in the order in which it stands already if it holds the same.
pub(super) fn in_order_of<T: Clone + PartialEq>(
    previous: &[T],
    list: Vec<T>,
    key: impl Fn(&T) -> String,
) -> Vec<T> {
    let sorted = |list: &[T]| {
        let mut list = list.to_vec();
        list.sort_by_key(&key);
        list
    };
    if sorted(previous) == sorted(&list) {
        previous.to_vec()
    } else {
        list
    }
}
