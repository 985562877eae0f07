//! Writing a status, and telling of what changed in it.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use ringfence_crd::{ConditionType, Reason};
use ringfence_policy::ObjectKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::{Controller, lock};
use crate::error::{Error, Refusal};
use crate::events::Notice;
use crate::metrics::Verb;
use crate::names::STATUS_MANAGER;
use crate::status::WriteFailure;
use crate::triggers::Key;
use crate::view::key;

impl Controller {
    /// The writes that failed, of these policies.
    pub(super) fn failures_among(&self, policies: &BTreeSet<ObjectKey>) -> Vec<WriteFailure> {
        let among = |failure: &&WriteFailure| policies.contains(&failure.policy);
        lock(&self.failures).values().filter(among).cloned().collect()
    }

    /// Writes a status that has something new to say, and tells of what changed in it.
    pub(super) async fn publish<K, S>(
        &self,
        api: Api<K>,
        resource: &K,
        before: Option<&S>,
        status: &S,
        conditions: fn(&S) -> &[Condition],
        turn: Key,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
        S: Serialize + PartialEq,
    {
        if before == Some(status) {
            return Ok(());
        }
        self.write_status(&api, resource, status, turn).await?;
        let before = before.map(conditions).unwrap_or_default();
        self.tell_ready(resource, before, conditions(status)).await;
        Ok(())
    }

    /// Applies a status to the very version of the object that it was made from: one that changed meanwhile gets a
    /// new look instead. Of an object that is gone there is nothing to say.
    async fn write_status<K>(
        &self,
        api: &Api<K>,
        resource: &K,
        status: &impl Serialize,
        turn: Key,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let kind = K::kind(&());
        let what = format!("write the status of {kind} {}", key(resource));
        if !self.fence.is_open() {
            return Err(Error::NotLeading { what });
        }
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": kind,
            "metadata": {
                "name": resource.name_any(),
                "uid": resource.uid(),
                "resourceVersion": resource.resource_version(),
            },
            "status": status,
        });
        let params = PatchParams::apply(STATUS_MANAGER).force();
        match api
            .patch_status(&resource.name_any(), &params, &Patch::Apply(&patch))
            .await
        {
            Ok(written) => {
                self.metrics.wrote(static_kind(&turn), Verb::Status);
                let version = written.resource_version().unwrap_or_default();
                lock(&self.versions).wrote(turn, version, Instant::now());
                Ok(())
            }
            Err(error) if Refusal::of(&error) == Refusal::NotFound => Ok(()),
            Err(error) => Err(Error::api(what, &error)),
        }
    }

    /// Sends an Event when an object becomes ready, stops being so, or has a new reason for not being.
    async fn tell_ready<K: Resource<DynamicType = ()>>(
        &self,
        resource: &K,
        before: &[Condition],
        after: &[Condition],
    ) {
        if let Some(notice) = ready_notice(before, after) {
            self.events.send(resource, notice).await;
        }
    }
}

fn static_kind(turn: &Key) -> &'static str {
    match turn {
        Key::Namespace(_) => "ZeroTrustNamespace",
        Key::Access(_) => "ServiceAccess",
        Key::External(_) => "ExternalAccess",
        Key::Baseline => "ZeroTrustBaseline",
    }
}

fn ready_notice(before: &[Condition], after: &[Condition]) -> Option<Notice> {
    let ready = |conditions: &[Condition]| {
        conditions
            .iter()
            .find(|condition| condition.type_ == ConditionType::Ready.as_str())
            .cloned()
    };
    let (before, after) = (ready(before), ready(after)?);
    let state = |condition: &Condition| (condition.status.clone(), condition.reason.clone());
    if before.as_ref().map(state) == Some(state(&after)) {
        return None;
    }
    let reason = Reason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .find(|reason| *reason == after.reason)?;
    let warning = after.status == "False";
    Some(Notice {
        warning,
        reason,
        action: "Reconcile",
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
        let notice = ready_notice(&[], &missing).unwrap();
        assert!(notice.warning);
        assert_eq!(
            (notice.reason, notice.note.as_str()),
            ("TargetNotFound", "Service shop/api does not exist")
        );
        assert!(ready_notice(&missing, &ready("False", "TargetNotFound", "other words")).is_none());
        assert!(
            !ready_notice(&missing, &ready("True", "AsExpected", ""))
                .unwrap()
                .warning
        );
    }
}
