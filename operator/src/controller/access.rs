//! A ServiceAccess's turn: its status. Its policies are written by the turns of the namespaces they are in.

use std::collections::BTreeSet;

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

impl Controller {
    pub(super) async fn access(&self, access: &ObjectKey) -> Result<Done, Error> {
        let view = snapshot::snapshot(&self.stores, &access.namespace);
        let Some(resource) = view.accesses.get(access).cloned() else {
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
}
