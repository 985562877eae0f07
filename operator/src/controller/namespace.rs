//! A namespace's turn: its generated policies, then its ZeroTrustNamespace's status.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Resource, ResourceExt};
use ringfence_crd::ZeroTrustNamespace;
use tokio::time::Instant;

use super::{Controller, LAG, lock, snapshot};
use crate::apply::{Outcome, Repair};
use crate::error::Error;
use crate::events::{Notice, REPAIRED};
use crate::expectations::Freshness;
use crate::generate::{Generated, generate};
use crate::queue::Done;
use crate::status::{NamespaceInput, WriteFailure, namespace_status};
use crate::stores::list_policies;
use crate::transition::{Cause, Step, plan};
use crate::triggers::Key;
use crate::view::ClusterView;

impl Controller {
    pub(super) async fn namespace(&self, namespace: &str) -> Result<Done, Error> {
        let mut view = snapshot::snapshot(&self.stores, namespace);
        snapshot::add_names(&mut view, &self.stores, &self.names, namespace);
        if !self.concerns(&view, namespace) {
            self.failed(namespace, None);
            return Ok(Done::Finished);
        }
        if !self.is_current(&mut view, namespace).await? {
            return Ok(Done::Again(LAG));
        }
        let effective = view.effective(namespace).map(AsRef::as_ref);
        if let Some(wait) = lock(&self.newcomers).wait(namespace, effective, Instant::now()) {
            return Ok(Done::Again(wait));
        }
        let generated = generate(&view, &self.generator, namespace);
        let plan = plan(&view, namespace, &generated);
        if plan.steps.iter().any(narrows) && !self.is_still_in_force(&view, namespace).await? {
            return Ok(Done::Again(LAG));
        }
        let outcome = self.applier.execute(namespace, plan.steps).await;
        snapshot::enter(&mut view, namespace, &outcome.answers);
        let failure = outcome.failure.as_ref().and_then(|(policy, error)| {
            let lasting = !error.is_conflict() && !matches!(error, Error::NotLeading { .. });
            lasting.then(|| WriteFailure {
                policy: policy.clone(),
                message: error.to_string(),
            })
        });
        self.failed(namespace, failure.as_ref());
        if let Some(resource) = view.zero_trust.get(namespace).cloned() {
            self.tell_repairs(&resource, &outcome).await;
            self.namespace_status(&view, &resource, &generated, failure.as_slice())
                .await?;
        }
        match outcome.failure {
            Some((_, error)) => Err(error),
            None => Ok(Done::Finished),
        }
    }

    /// Whether there is anything to do in a namespace. In one that is on its way out nothing can be created, and the
    /// namespace controller deletes everything.
    fn concerns(&self, view: &ClusterView, namespace: &str) -> bool {
        let alive = view.namespaces.contains_key(namespace) && !view.terminating(namespace);
        let paused = snapshot::departing(&self.stores) && view.effective(namespace).is_some();
        alive && !paused
    }

    /// Whether the ZeroTrustNamespace that the view holds is in force in the API server too.
    ///
    /// Each kind has a watch of its own, and their news come in any order. Who deletes a file that holds both a
    /// ZeroTrustNamespace and its grants deletes the former first, but the operator may hear of a grant's end first:
    /// withdrawing it then would close for a moment what is open before and after.
    async fn is_still_in_force(&self, view: &ClusterView, namespace: &str) -> Result<bool, Error> {
        let Some(cached) = view.effective(namespace) else {
            return Ok(true);
        };
        let api: Api<ZeroTrustNamespace> = Api::namespaced(self.client.clone(), namespace);
        let live = api.get_opt(&cached.name_any()).await.map_err(|error| {
            Error::api(
                format!("get ZeroTrustNamespace {namespace}/{}", cached.name_any()),
                &error,
            )
        })?;
        Ok(live.is_some_and(|live| live.uid() == cached.uid() && live.metadata.deletion_timestamp.is_none()))
    }

    /// Whether the view holds everything that was written in this namespace. When the cache fails to show that for too
    /// long, the API server's own list takes its place.
    async fn is_current(&self, view: &mut ClusterView, namespace: &str) -> Result<bool, Error> {
        let cached = view
            .zero_trust
            .get(namespace)
            .and_then(|resource| resource.resource_version());
        let key = Key::Namespace(namespace.to_owned());
        let now = Instant::now();
        if cached.is_some() && !lock(&self.versions).is_fresh(&key, cached.as_deref(), now) {
            return Ok(false);
        }
        let policies = view
            .policies
            .get(namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let freshness =
            lock(&self.expectations).check(namespace, policies.iter().map(|policy| policy.as_ref()), now);
        match freshness {
            Freshness::Fresh => Ok(true),
            Freshness::Behind => Ok(false),
            Freshness::Doubtful => {
                let listed: Vec<NetworkPolicy> = list_policies(&self.client, namespace).await?;
                view.policies
                    .insert(namespace.to_owned(), listed.into_iter().map(Arc::new).collect());
                lock(&self.expectations).forget(namespace);
                Ok(true)
            }
        }
    }

    /// Keeps the namespace's failure, or its end, for the statuses of the ServiceAccesses concerned.
    fn failed(&self, namespace: &str, failure: Option<&WriteFailure>) {
        let changed = {
            let mut failures = lock(&self.failures);
            let before = match failure {
                Some(failure) => failures.insert(namespace.to_owned(), failure.clone()),
                None => failures.remove(namespace),
            };
            before.as_ref() != failure
        };
        if changed {
            for access in self.stores.accesses.state() {
                self.queue
                    .add(Key::Access(crate::view::key(access.as_ref())), LAG);
            }
            for external in self.stores.externals.state() {
                self.queue
                    .add(Key::External(crate::view::key(external.as_ref())), LAG);
            }
        }
    }

    async fn tell_repairs(&self, resource: &ZeroTrustNamespace, outcome: &Outcome) {
        for repair in &outcome.repairs {
            self.events.send(resource, repaired(repair)).await;
        }
    }

    async fn namespace_status(
        &self,
        view: &ClusterView,
        resource: &ZeroTrustNamespace,
        generated: &Generated,
        failures: &[WriteFailure],
    ) -> Result<(), Error> {
        let status = namespace_status(&NamespaceInput {
            view,
            resource,
            generated,
            failures,
            now: Timestamp::now(),
        });
        let turn = Key::Namespace(resource.namespace().unwrap_or_default());
        let before = resource.status.as_ref();
        self.publish(resource, before, &status, |status| &status.conditions, turn)
            .await
    }
}

/// Whether a step withdraws something because of what users changed.
fn narrows(step: &Step) -> bool {
    match step {
        Step::Create { .. } => false,
        Step::Replace { cause, .. } => *cause == Cause::Changed,
        Step::Delete { cause, .. } => *cause == Cause::Unneeded,
    }
}

fn repaired(repair: &Repair) -> Notice {
    let name = repair.policy.name_any();
    let note = match repair.field {
        Some(field) => format!(
            "{field} of the generated NetworkPolicy {name} was changed by somebody else and has been put back; \
             to open more, write a ServiceAccess"
        ),
        None => format!(
            "The generated NetworkPolicy {name} was deleted by somebody else and has been created again"
        ),
    };
    let related = Some(repair.policy.object_ref(&()));
    Notice {
        warning: true,
        reason: REPAIRED,
        action: "Repair",
        note,
        related,
    }
}
