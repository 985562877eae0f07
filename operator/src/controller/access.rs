//! A ServiceAccess's turn: its status. Its policies are written by the turns of the namespaces they are in.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use ringfence_policy::ObjectKey;
use tokio::time::Instant;

use super::{Controller, LAG, lock, snapshot};
use crate::error::Error;
use crate::generate::outline;
use crate::queue::Done;
use crate::status::{AccessInput, access_status};
use crate::triggers::Key;
use crate::view::key as key_of;
use ringfence_crd::{ConditionStatus, ConditionType, ServiceAccessStatus};

/// When to look again at a grant whose policies are being written, should nothing bring it up before.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// How long nothing is said about that.
const PATIENCE: Duration = Duration::from_secs(60);

impl Controller {
    pub(super) async fn access(&self, access: &ObjectKey) -> Result<Done, Error> {
        let view = snapshot::snapshot(&self.stores, &access.namespace);
        let Some(resource) = view.accesses.get(access).cloned() else {
            lock(&self.waiting).remove(access);
            return Ok(Done::Finished);
        };
        if snapshot::departing(&self.stores) || view.terminating(&access.namespace) {
            return Ok(Done::Finished);
        }
        let key = Key::Access(access.clone());
        let cached = resource.resource_version();
        if !lock(&self.versions).is_fresh(&key, cached.as_deref(), Instant::now()) {
            return Ok(Done::Again(LAG));
        }
        let outline = outline(&view, &resource);
        let generated: BTreeSet<ObjectKey> = outline.policies.iter().map(key_of).collect();
        let failures = self.failures_among(&generated);
        let input = AccessInput {
            view: &view,
            resource: &resource,
            outline: &outline,
            failures: &failures,
            now: Timestamp::now(),
        };
        let status = access_status(&input);
        if self.will_be_ready_soon(access, &generated, &status) {
            return Ok(Done::Again(SECOND_LOOK));
        }
        let before = resource.status.as_ref();
        self.publish(
            Api::namespaced(self.client.clone(), &access.namespace),
            resource.as_ref(),
            before,
            &status,
            |status| &status.conditions,
            key,
        )
        .await?;
        Ok(Done::Finished)
    }

    /// Whether there is nothing to say but that policies are still to be written, and whoever writes them is about to. A status
    /// that nobody can read before the next one takes its place would be a second write for every grant.
    fn will_be_ready_soon(
        &self,
        access: &ObjectKey,
        generated: &BTreeSet<ObjectKey>,
        status: &ServiceAccessStatus,
    ) -> bool {
        let unknown = status.conditions.iter().any(|condition| {
            condition.type_ == ConditionType::Ready.as_str()
                && condition.status == ConditionStatus::Unknown.as_str()
        });
        let mut namespaces = generated.iter().map(|policy| &policy.namespace);
        let busy =
            unknown && namespaces.any(|namespace| self.queue.holds(&Key::Namespace(namespace.clone())));
        let mut waiting = lock(&self.waiting);
        if !busy {
            waiting.remove(access);
            return false;
        }
        let since = waiting.entry(access.clone()).or_insert_with(Instant::now);
        since.elapsed() < PATIENCE
    }
}
