//! A namespace's turn: its generated policies, then its ZeroTrustNamespace's status.

use std::sync::Arc;
use std::time::Duration;

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
use crate::form::Kind;
use crate::generate::{Generated, generate};
use crate::queue::Done;
use crate::status::{NamespaceInput, WriteFailure, namespace_status, namespace_summary};
use crate::stores::list_policies;
use crate::transition::{Cause, Step, TrialPlan, plan, plan_staged, plan_trials};
use crate::triggers::Key;
use crate::view::{ByNamespace, ClusterView};

/// The pause before the ZeroTrustBaseline's status follows its namespaces: they change together.
const SUMMED: Duration = Duration::from_millis(300);

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
        let trials = plan_trials(&view, namespace, &generated);
        let staged = plan_staged(&view, namespace, &generated);
        if plan.steps.iter().any(narrows) && !self.is_still_in_force(&view, namespace).await? {
            return Ok(Done::Again(LAG));
        }
        let outcome = self.write(&mut view, namespace, plan.steps, trials).await;
        let failure = outcome.failure.as_ref().and_then(|failed| {
            let lasting = !failed.error.is_conflict() && !matches!(failed.error, Error::NotLeading { .. });
            lasting.then(|| WriteFailure {
                kind: failed.kind,
                policy: failed.policy.clone(),
                message: failed.error.to_string(),
            })
        });
        self.failed(namespace, failure.as_ref());
        let steps = staged.first.into_iter().chain(staged.last).collect();
        let staged = self.applier.execute(Kind::Staged, namespace, steps).await;
        self.tell(&view, namespace, &generated, &outcome, failure.as_slice())
            .await?;
        // What Calico is to try out decides nothing here: its failure only has it tried again.
        let failed = outcome.failure.or(staged.failure);
        failed.map_or(Ok(Done::Finished), |failed| Err(failed.error))
    }

    /// Writes the policies of a namespace: those on trial that are new before, and those that are not needed any more after the
    /// others, so that connections are judged without a break when the mode changes.
    async fn write(
        &self,
        view: &mut ClusterView,
        namespace: &str,
        steps: Vec<Step>,
        trials: TrialPlan,
    ) -> Outcome {
        let mut all = Outcome::default();
        let stages = [
            (Kind::Trial, trials.first),
            (Kind::Policy, steps),
            (Kind::Trial, trials.last),
        ];
        for (kind, steps) in stages {
            let outcome = self.applier.execute(kind, namespace, steps).await;
            if let Some(held) = held(view, kind) {
                snapshot::enter(held, namespace, &outcome.answers);
            }
            all.repairs.extend(outcome.repairs);
            if outcome.failure.is_some() {
                all.failure = outcome.failure;
                break;
            }
        }
        all
    }

    /// Tells of what was done: in the status of the namespace's ZeroTrustNamespace, or, if it has none, in the
    /// ZeroTrustBaseline's.
    async fn tell(
        &self,
        view: &ClusterView,
        namespace: &str,
        generated: &Generated,
        outcome: &Outcome,
        failures: &[WriteFailure],
    ) -> Result<(), Error> {
        if view.by_baseline.contains(namespace) {
            self.summarise(view, namespace, generated, failures);
            if let Some(baseline) = &view.baseline {
                self.tell_repairs(baseline.as_ref(), outcome).await;
            }
        }
        // One that is being deleted leaves its namespace to the baseline, and has still something to say.
        let Some(resource) = view.written.get(namespace) else {
            return Ok(());
        };
        let in_force = view
            .zero_trust
            .get(namespace)
            .filter(|_| !view.by_baseline.contains(namespace));
        let resource = in_force.unwrap_or(resource).clone();
        self.tell_repairs(resource.as_ref(), outcome).await;
        self.namespace_status(view, &resource, generated, failures).await
    }

    /// Notes what there is to say of a namespace that goes by the ZeroTrustBaseline alone.
    fn summarise(
        &self,
        view: &ClusterView,
        namespace: &str,
        generated: &Generated,
        failures: &[WriteFailure],
    ) {
        let Some(resource) = view.zero_trust.get(namespace) else {
            return;
        };
        let summary = namespace_summary(&NamespaceInput {
            view,
            resource,
            generated,
            failures,
            now: Timestamp::now(),
        });
        let before = lock(&self.summaries).insert(namespace.to_owned(), summary.clone());
        if before.as_ref() != Some(&summary) {
            self.queue.add(Key::Baseline, SUMMED);
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
        if view.by_baseline.contains(namespace) {
            let api = Api::all(self.client.clone());
            return self.is_live(&api, view.baseline.as_deref()).await;
        }
        let api = Api::namespaced(self.client.clone(), namespace);
        let cached = view.effective(namespace).map(AsRef::as_ref);
        self.is_live(&api, cached).await
    }

    /// Whether the API server has this very object, and it is not being deleted.
    async fn is_live<K>(&self, api: &Api<K>, cached: Option<&K>) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let Some(cached) = cached else {
            return Ok(true);
        };
        let live = api.get_opt(&cached.name_any()).await.map_err(|error| {
            let kind = K::kind(&());
            Error::api(format!("get {kind} {}", crate::view::key(cached)), &error)
        })?;
        Ok(live.is_some_and(|live| live.uid() == cached.uid() && live.meta().deletion_timestamp.is_none()))
    }

    /// Whether the view holds everything that was written in this namespace. When the cache fails to show that for too
    /// long, the API server's own list takes its place.
    async fn is_current(&self, view: &mut ClusterView, namespace: &str) -> Result<bool, Error> {
        let cached = view
            .written
            .get(namespace)
            .and_then(|resource| resource.resource_version());
        let key = Key::Namespace(namespace.to_owned());
        if cached.is_some() && !lock(&self.versions).is_fresh(&key, cached.as_deref(), Instant::now()) {
            return Ok(false);
        }
        for kind in [Kind::Policy, Kind::Trial, Kind::Staged] {
            let Some(cached) = held(view, kind) else {
                continue;
            };
            let policies = cached.get(namespace).into_iter().flatten();
            let policies = policies.map(AsRef::as_ref);
            let freshness = lock(self.owed.of(kind)).check(namespace, policies, Instant::now());
            match freshness {
                Freshness::Fresh => continue,
                Freshness::Behind => return Ok(false),
                Freshness::Doubtful => {
                    let listed = list_policies(&self.client, kind, namespace).await?;
                    cached.insert(namespace.to_owned(), listed.into_iter().map(Arc::new).collect());
                    lock(self.owed.of(kind)).forget(namespace);
                }
            }
        }
        Ok(true)
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
            self.stores.mirror.read(|view| {
                for access in view.grants_into(namespace) {
                    self.queue
                        .add(Key::Access(crate::view::key(access.as_ref())), LAG);
                }
                for (external, _) in view.externals_of(namespace) {
                    self.queue.add(Key::External(external.clone()), LAG);
                }
            });
        }
    }

    async fn tell_repairs<K: Resource<DynamicType = ()>>(&self, resource: &K, outcome: &Outcome) {
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
        let namespace = resource.namespace().unwrap_or_default();
        let api = Api::namespaced(self.client.clone(), &namespace);
        let turn = Key::Namespace(namespace);
        let before = resource.status.as_ref();
        self.publish(api, resource, before, &status, |status| &status.conditions, turn)
            .await
    }
}

/// The view's policies of a kind; None where the cluster has no such kind.
fn held(view: &mut ClusterView, kind: Kind) -> Option<&mut ByNamespace<NetworkPolicy>> {
    match kind {
        Kind::Policy => Some(&mut view.policies),
        Kind::Trial => Some(&mut view.trials),
        Kind::Staged => view.staged.as_mut(),
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
