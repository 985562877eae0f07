//! The ZeroTrustBaseline's turn: its status. Its policies are written by the turns of the namespaces that it covers.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::{Controller, LAG, lock, snapshot};
use crate::error::Error;
use crate::queue::Done;
use crate::status::{BaselineInput, Summary, baseline_status};
use crate::triggers::Key;

impl Controller {
    pub(super) async fn baseline(&self) -> Result<Done, Error> {
        let view = snapshot::snapshot(&self.stores, "");
        let Some(resource) = view.baseline.clone() else {
            lock(&self.summaries).clear();
            return Ok(Done::Finished);
        };
        if snapshot::departing(&self.stores) {
            return Ok(Done::Finished);
        }
        let cached = resource.resource_version();
        if !lock(&self.versions).is_fresh(&Key::Baseline, cached.as_deref(), Instant::now()) {
            return Ok(Done::Again(LAG));
        }
        let summaries: BTreeMap<String, Summary> = {
            let mut summaries = lock(&self.summaries);
            summaries.retain(|name, _| view.by_baseline.contains(name));
            summaries.clone()
        };
        let status = baseline_status(&BaselineInput {
            view: &view,
            resource: &resource,
            summaries: &summaries,
            now: Timestamp::now(),
        });
        let before = resource.status.as_ref();
        self.publish(
            Api::all(self.client.clone()),
            resource.as_ref(),
            before,
            &status,
            |status| &status.conditions,
            Key::Baseline,
        )
        .await?;
        Ok(Done::Finished)
    }
}
