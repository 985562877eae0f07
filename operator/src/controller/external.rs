//! An ExternalAccess's turn: its status. Its policies are written by its namespace's turn.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use ringfence_policy::ObjectKey;
use tokio::time::Instant;

use super::{Controller, LAG, lock, snapshot};
use crate::error::Error;
use crate::generate::outline_external;
use crate::queue::Done;
use crate::status::{ExternalInput, external_status};
use crate::triggers::Key;
use crate::view::key as key_of;

impl Controller {
    pub(super) async fn external(&self, external: &ObjectKey) -> Result<Done, Error> {
        let mut view = snapshot::snapshot(&self.stores, &external.namespace);
        snapshot::add_names(&mut view, &self.stores, &self.names, &external.namespace);
        let Some(resource) = view.externals.get(external).cloned() else {
            return Ok(Done::Finished);
        };
        if snapshot::departing(&self.stores) || view.terminating(&external.namespace) {
            return Ok(Done::Finished);
        }
        let key = Key::External(external.clone());
        let cached = resource.resource_version();
        if !lock(&self.versions).is_fresh(&key, cached.as_deref(), Instant::now()) {
            return Ok(Done::Again(LAG));
        }
        let outline = outline_external(&view, &resource);
        let generated: BTreeSet<ObjectKey> = outline.policies.iter().map(key_of).collect();
        let failures = self.failures_among(&generated);
        let status = external_status(&ExternalInput {
            view: &view,
            resource: &resource,
            outline: &outline,
            failures: &failures,
            now: Timestamp::now(),
        });
        let before = resource.status.as_ref();
        self.publish(
            Api::namespaced(self.client.clone(), &external.namespace),
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
