//! A ServiceAccess's turn: its status. Its policies are written by the turns of the namespaces they are in.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use ringfence_policy::ObjectKey;
use tokio::time::Instant;

use super::{Controller, LAG, lock, snapshot};
use crate::error::Error;
use crate::generate::outline;
use crate::queue::Done;
use crate::status::{AccessInput, WriteFailure, access_status};
use crate::triggers::{Key, grant_of};
use crate::view::key as key_of;

impl Controller {
    pub(super) async fn access(&self, access: &ObjectKey) -> Result<Done, Error> {
        let mut view = snapshot::without_policies(&self.stores, &access.namespace);
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
        snapshot::add_policies(&mut view, &self.stores, |policy| {
            // What nodes hold is told namespace by namespace, so the others' count, too.
            policy.metadata.namespace.as_deref() == Some(&access.namespace)
                || grant_of(policy).as_ref() == Some(&key)
                || generated.contains(&key_of(policy))
        });
        let own = |failure: &&WriteFailure| generated.contains(&failure.policy);
        let failures: Vec<WriteFailure> = lock(&self.failures).values().filter(own).cloned().collect();
        let input = AccessInput {
            view: &view,
            resource: &resource,
            outline: &outline,
            failures: &failures,
            now: Timestamp::now(),
        };
        let status = access_status(&input);
        if resource.status.as_ref() != Some(&status) {
            self.write_status(resource.as_ref(), &status, key).await?;
            let before = resource
                .status
                .as_ref()
                .map(|status| status.conditions.as_slice())
                .unwrap_or_default();
            self.tell_ready(resource.as_ref(), before, &status.conditions)
                .await;
        }
        Ok(Done::Finished)
    }
}
