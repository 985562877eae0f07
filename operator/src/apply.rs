//! Carrying out a plan: one request per step, in order, and nothing after the first that fails.
//!
//! A new policy is POSTed, never applied, so that it can't take over an object that appeared meanwhile. A change is a
//! PUT of the whole object at the version the plan was made for: server-side apply would leave fields in place that
//! somebody else added, and each of them opens something. A deletion names the UID. So every write either hits the very
//! object that was planned for or fails, and doing it twice does no harm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use ringfence_crd::AuditNetworkPolicy;
use ringfence_policy::ObjectKey;
use tokio::time::Instant;

use crate::error::{Error, Refusal};
use crate::expectations::{Expectations, Expected};
use crate::foreign::StagedKubernetesNetworkPolicy;
use crate::form::{Form, Kind};
use crate::leader::Fence;
use crate::metrics::{OperatorMetrics, Verb};
use crate::names::FIELD_MANAGER;
use crate::ownership::difference;
use crate::transition::{Cause, Step, Version};
use crate::view::key;

/// What was written but not yet seen again, of each kind.
#[derive(Clone, Default)]
pub struct Owed {
    /// Of NetworkPolicies.
    pub policies: Arc<Mutex<Expectations>>,
    /// Of AuditNetworkPolicies.
    pub trials: Arc<Mutex<Expectations>>,
    /// Of Calico's policies on trial.
    pub staged: Arc<Mutex<Expectations>>,
}

impl Owed {
    /// Of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &Arc<Mutex<Expectations>> {
        match kind {
            Kind::Policy => &self.policies,
            Kind::Trial => &self.trials,
            Kind::Staged => &self.staged,
        }
    }
}

/// Writes generated policies.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    fence: Fence,
    metrics: OperatorMetrics,
    owed: Owed,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The last answer about every policy written, by name; `None` for those deleted.
    pub answers: BTreeMap<String, Option<NetworkPolicy>>,
    /// Policies put back after somebody else edited or deleted them.
    pub repairs: Vec<Repair>,
    /// The step that failed, and why. Those after it were not taken.
    pub failure: Option<Failure>,
}

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// What was to be written.
    pub kind: Kind,
    /// Which one of it.
    pub policy: ObjectKey,
    /// Why not.
    pub error: Error,
}

/// A policy put back.
#[derive(Clone, Debug)]
pub struct Repair {
    /// The policy as it is now.
    pub policy: NetworkPolicy,
    /// The field that was edited; `None` when all of it was deleted.
    pub field: Option<&'static str>,
}

impl Applier {
    /// An applier that writes while `fence` is open.
    pub fn new(client: Client, fence: Fence, metrics: OperatorMetrics, owed: Owed) -> Self {
        Self {
            client,
            fence,
            metrics,
            owed,
        }
    }

    /// Takes the steps in their order, on objects of this kind.
    pub async fn execute(&self, kind: Kind, namespace: &str, steps: Vec<Step>) -> Outcome {
        match kind {
            Kind::Policy => self.carry_out::<NetworkPolicy>(kind, namespace, steps).await,
            Kind::Trial => self.carry_out::<AuditNetworkPolicy>(kind, namespace, steps).await,
            Kind::Staged => {
                self.carry_out::<StagedKubernetesNetworkPolicy>(kind, namespace, steps)
                    .await
            }
        }
    }

    async fn carry_out<K: Form>(&self, kind: Kind, namespace: &str, steps: Vec<Step>) -> Outcome {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let mut outcome = Outcome::default();
        for step in steps {
            let (policy, cause) = (target(&step), cause(&step).clone());
            match self.take(&api, step, &outcome).await {
                Ok(answer) => self.took(kind, &policy, &cause, answer, &mut outcome),
                Err(error) => {
                    if error.is_conflict() {
                        self.owed(kind).doubt(namespace);
                    }
                    outcome.failure = Some(Failure { kind, policy, error });
                }
            }
            if outcome.failure.is_some() {
                break;
            }
        }
        outcome
    }

    async fn take<K: Form>(&self, api: &Api<K>, step: Step, sofar: &Outcome) -> Result<Answer, Error> {
        let what = describe::<K>(&step);
        if !self.fence.is_open() {
            return Err(Error::NotLeading { what });
        }
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match step {
            Step::Create { policy, .. } => {
                let answer = api
                    .create(&params, &K::from((*policy).clone()))
                    .await
                    .map_err(|error| Error::api(&what, &error))?;
                Ok(Answer::written(Verb::Create, answer.into_policy(), &policy))
            }
            Step::Replace {
                mut policy, version, ..
            } => {
                let (uid, resource_version) = identity(&version, &key(policy.as_ref()), sofar, &what)?;
                policy.metadata.uid = Some(uid);
                policy.metadata.resource_version = Some(resource_version);
                let answer = api
                    .replace(&policy.name_any(), &params, &K::from((*policy).clone()))
                    .await
                    .map_err(|error| Error::api(&what, &error))?;
                Ok(Answer::written(Verb::Replace, answer.into_policy(), &policy))
            }
            Step::Delete { key, version, .. } => {
                let (uid, _) = identity(&version, &key, sofar, &what)?;
                let preconditions = Some(Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                });
                let params = DeleteParams {
                    preconditions,
                    ..DeleteParams::background()
                };
                match api.delete(&key.name, &params).await {
                    Ok(_) => Ok(Answer::Deleted {
                        uid,
                        verb: Some(Verb::Delete),
                    }),
                    Err(error) if Refusal::of(&error) == Refusal::NotFound => {
                        Ok(Answer::Deleted { uid, verb: None })
                    }
                    Err(error) => Err(Error::api(what, &error)),
                }
            }
        }
    }

    /// Notes a step that was taken.
    fn took(&self, kind: Kind, target: &ObjectKey, cause: &Cause, answer: Answer, outcome: &mut Outcome) {
        let expected = match answer {
            Answer::Deleted { uid, verb } => {
                if let Some(verb) = verb {
                    self.metrics.wrote(kind.as_str(), verb);
                    tracing::info!(kind = kind.as_str(), policy = %target, ?cause, "deleted");
                }
                outcome.answers.insert(target.name.clone(), None);
                Expected::Deleted { uid }
            }
            Answer::Written {
                verb,
                policy,
                altered,
            } => {
                self.metrics.wrote(kind.as_str(), verb);
                tracing::info!(kind = kind.as_str(), policy = %target, ?cause, ?verb, "written");
                self.note_repair(cause, &policy, outcome);
                if let Some(field) = altered {
                    let what = format!("write {} {target}", kind.as_str());
                    outcome.failure = Some(Failure {
                        kind,
                        policy: target.clone(),
                        error: Error::Altered { what, field },
                    });
                }
                let resource_version = policy.resource_version().unwrap_or_default();
                outcome.answers.insert(target.name.clone(), Some(*policy));
                Expected::Written { resource_version }
            }
        };
        let (namespace, name) = (&target.namespace, &target.name);
        self.owed(kind).expect(namespace, name, expected, Instant::now());
    }

    fn owed(&self, kind: Kind) -> MutexGuard<'_, Expectations> {
        let owed = self.owed.of(kind);
        owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_repair(&self, cause: &Cause, policy: &NetworkPolicy, outcome: &mut Outcome) {
        let field = match cause {
            Cause::Edited { field } => Some(*field),
            Cause::Deleted => None,
            _ => return,
        };
        self.metrics.repaired(field.unwrap_or("deleted"));
        outcome.repairs.push(Repair {
            policy: policy.clone(),
            field,
        });
    }
}

/// What the API server answered to a step.
enum Answer {
    Written {
        verb: Verb,
        policy: Box<NetworkPolicy>,
        /// The first field in which it is not what was sent.
        altered: Option<&'static str>,
    },
    Deleted {
        uid: String,
        /// `None` when it was gone already.
        verb: Option<Verb>,
    },
}

impl Answer {
    fn written(verb: Verb, answer: NetworkPolicy, sent: &NetworkPolicy) -> Self {
        let altered = difference(&answer, sent).map(|difference| match difference {
            crate::ownership::Difference::Edited { field } => field,
            crate::ownership::Difference::Outdated => "metadata.annotations",
        });
        Self::Written {
            verb,
            policy: Box::new(answer),
            altered,
        }
    }
}

/// The UID and resourceVersion a step is meant for.
fn identity(
    version: &Version,
    target: &ObjectKey,
    sofar: &Outcome,
    what: &str,
) -> Result<(String, String), Error> {
    match version {
        Version::Seen {
            uid,
            resource_version,
        } => Ok((uid.clone(), resource_version.clone())),
        Version::WrittenBefore => {
            let answer = sofar.answers.get(&target.name).and_then(Option::as_ref);
            let identity = answer.and_then(|policy| Some((policy.uid()?, policy.resource_version()?)));
            identity.ok_or_else(|| Error::Incomplete {
                what: what.to_owned(),
                field: "metadata.uid",
            })
        }
    }
}

fn target(step: &Step) -> ObjectKey {
    match step {
        Step::Create { policy, .. } | Step::Replace { policy, .. } => key(policy.as_ref()),
        Step::Delete { key, .. } => key.clone(),
    }
}

fn cause(step: &Step) -> &Cause {
    match step {
        Step::Create { cause, .. } | Step::Replace { cause, .. } | Step::Delete { cause, .. } => cause,
    }
}

fn describe<K: Form>(step: &Step) -> String {
    let verb = match step {
        Step::Create { .. } => "create",
        Step::Replace { .. } => "replace",
        Step::Delete { .. } => "delete",
    };
    format!("{verb} {} {}", K::kind(&()), target(step))
}
