//! Writing a status, and what there is to tell of a condition that changed in it.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use ringfence_crd::{ConditionType, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{Error, Refusal};
use crate::events::Notice;
use crate::leader::Fence;
use crate::names::STATUS_MANAGER;

/// Applies a status to an object, at this version of it only where one is given. The object as it is then; None where it is
/// gone, of which there is nothing to say.
pub(crate) async fn apply_status<K>(
    api: &Api<K>,
    fence: &Fence,
    resource: &K,
    version: Option<String>,
    status: &impl Serialize,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (kind, name) = (K::kind(&()), resource.name_any());
    let named = match resource.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.clone(),
    };
    let what = format!("write the status of {kind} {named}");
    if !fence.is_open() {
        return Err(Error::NotLeading { what });
    }
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": {"name": name, "uid": resource.uid()},
        "status": status,
    });
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = version.into();
    }
    let params = PatchParams::apply(STATUS_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(written) => Ok(Some(written)),
        Err(error) if Refusal::of(&error) == Refusal::NotFound => Ok(None),
        Err(error) => Err(Error::api(what, &error)),
    }
}

/// An Event when a condition begins to hold, ceases to, or has a new reason.
pub(crate) fn news_of(
    kind: ConditionType,
    action: &'static str,
    before: &[Condition],
    after: &[Condition],
) -> Option<Notice> {
    let of = |conditions: &[Condition]| {
        let mut conditions = conditions.iter();
        conditions
            .find(|condition| condition.type_ == kind.as_str())
            .cloned()
    };
    let (before, after) = (of(before), of(after)?);
    let state = |condition: &Condition| (condition.status.clone(), condition.reason.clone());
    if before.as_ref().map(state) == Some(state(&after)) {
        return None;
    }
    let mut reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    Some(Notice {
        warning: after.status == "False",
        reason: reasons.find(|reason| *reason == after.reason)?,
        action,
        note: after.message,
        related: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn ready(status: &str, reason: &str, message: &str) -> Vec<Condition> {
        vec![Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }]
    }

    #[test]
    fn a_new_reason_is_told_and_a_new_message_is_not() {
        let missing = ready("False", "TargetNotFound", "Service shop/api does not exist");
        let notice = news_of(ConditionType::Ready, "Reconcile", &[], &missing).unwrap();
        assert!(notice.warning);
        assert_eq!(
            (notice.reason, notice.note.as_str()),
            ("TargetNotFound", "Service shop/api does not exist")
        );
        assert!(
            news_of(
                ConditionType::Ready,
                "Reconcile",
                &missing,
                &ready("False", "TargetNotFound", "other words")
            )
            .is_none()
        );
        assert!(
            !news_of(
                ConditionType::Ready,
                "Reconcile",
                &missing,
                &ready("True", "AsExpected", "")
            )
            .unwrap()
            .warning
        );
    }
}
