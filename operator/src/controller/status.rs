//! Writing a status, and telling of what changed in it.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Resource, ResourceExt};
use ringfence_crd::ConditionType;
use ringfence_policy::ObjectKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Controller, lock};
use crate::error::Error;
use crate::metrics::Verb;
use crate::publish::{apply_status, news_of};
use crate::status::WriteFailure;
use crate::triggers::Key;

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
        // One that changed meanwhile gets a new look instead.
        let pinned = resource.resource_version();
        let written = apply_status(&api, &self.fence, resource, pinned, status).await?;
        if let Some(written) = written {
            self.metrics.wrote(static_kind(&turn), Verb::Status);
            let version = written.resource_version().unwrap_or_default();
            lock(&self.versions).wrote(turn, version, Instant::now());
        }
        let before = before.map(conditions).unwrap_or_default();
        if let Some(notice) = news_of(ConditionType::Ready, "Reconcile", before, conditions(status)) {
            self.events.send(resource, notice).await;
        }
        Ok(())
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
