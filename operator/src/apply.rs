//! Carrying out a plan: one request per step, in order, and nothing after the first that fails.
//!
//! A new policy is POSTed, never applied, so that it can't take over an object that appeared meanwhile. A change is a
//! PUT of the whole object at the version the plan was made for: server-side apply would leave fields in place that
//! somebody else added, and each of them opens something. A deletion names the UID. So every write either hits the very
//! object that was planned for or fails, and doing it twice does no harm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use ringfence_crd::AuditNetworkPolicy;
use ringfence_policy::ObjectKey;
use tokio::time::Instant;

use crate::error::{Error, Refusal};
use crate::expectations::{Expectations, Expected};
use crate::foreign::StagedKubernetesNetworkPolicy;
use crate::leader::Fence;
use crate::metrics::{OperatorMetrics, Verb};
use crate::names::FIELD_MANAGER;
use crate::ownership::difference;
use crate::transition::{Cause, Step, Version};
use crate::view::key;

/// What generated policies are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NetworkPolicies.
    Policy,
    /// AuditNetworkPolicies: policies on trial.
    Trial,
    /// The same as Calico knows them.
    Staged,
}

impl Kind {
    /// The kind as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "NetworkPolicy",
            Self::Trial => "AuditNetworkPolicy",
            Self::Staged => "StagedKubernetesNetworkPolicy",
        }
    }
}

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
    pub failure: Option<(ObjectKey, Error)>,
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
        let door = Door::new(kind, &self.client, namespace);
        let mut outcome = Outcome::default();
        for step in steps {
            let (target, cause) = (target(&step), cause(&step).clone());
            match self.take(&door, step, &outcome).await {
                Ok(answer) => self.took(kind, &target, &cause, answer, &mut outcome),
                Err(error) => outcome.failure = Some((target, error)),
            }
            if outcome.failure.is_some() {
                break;
            }
        }
        outcome
    }

    async fn take(&self, door: &Door, step: Step, sofar: &Outcome) -> Result<Answer, Error> {
        let what = describe(door.kind(), &step);
        if !self.fence.is_open() {
            return Err(Error::NotLeading { what });
        }
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match step {
            Step::Create { policy, .. } => {
                let answer = door
                    .create(&params, &policy)
                    .await
                    .map_err(|error| Error::api(&what, &error))?;
                Ok(Answer::written(Verb::Create, answer, &policy))
            }
            Step::Replace {
                mut policy, version, ..
            } => {
                let (uid, resource_version) = identity(&version, &key(policy.as_ref()), sofar, &what)?;
                policy.metadata.uid = Some(uid);
                policy.metadata.resource_version = Some(resource_version);
                let answer = door
                    .replace(&params, &policy)
                    .await
                    .map_err(|error| Error::api(&what, &error))?;
                Ok(Answer::written(Verb::Replace, answer, &policy))
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
                match door.delete(&key.name, &params).await {
                    Ok(()) => Ok(Answer::Deleted {
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
                    outcome.failure = Some((target.clone(), Error::Altered { what, field }));
                }
                let resource_version = policy.resource_version().unwrap_or_default();
                outcome.answers.insert(target.name.clone(), Some(*policy));
                Expected::Written { resource_version }
            }
        };
        let mut expectations = self.owed.of(kind).lock().unwrap_or_else(PoisonError::into_inner);
        expectations.expect(&target.namespace, &target.name, expected, Instant::now());
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

/// The API of one kind in one namespace, with policies of every kind as NetworkPolicies.
enum Door {
    Policies(Api<NetworkPolicy>),
    Trials(Api<AuditNetworkPolicy>),
    Staged(Api<StagedKubernetesNetworkPolicy>),
}

impl Door {
    fn new(kind: Kind, client: &Client, namespace: &str) -> Self {
        match kind {
            Kind::Policy => Self::Policies(Api::namespaced(client.clone(), namespace)),
            Kind::Trial => Self::Trials(Api::namespaced(client.clone(), namespace)),
            Kind::Staged => Self::Staged(Api::namespaced(client.clone(), namespace)),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Policies(_) => Kind::Policy,
            Self::Trials(_) => Kind::Trial,
            Self::Staged(_) => Kind::Staged,
        }
    }

    async fn create(&self, params: &PostParams, policy: &NetworkPolicy) -> kube::Result<NetworkPolicy> {
        match self {
            Self::Policies(api) => api.create(params, policy).await,
            Self::Trials(api) => {
                let answer = api.create(params, &policy.clone().into()).await;
                answer.map(|answer| answer.as_policy())
            }
            Self::Staged(api) => {
                let answer = api.create(params, &policy.clone().into()).await;
                answer.map(|answer| answer.as_policy())
            }
        }
    }

    async fn replace(&self, params: &PostParams, policy: &NetworkPolicy) -> kube::Result<NetworkPolicy> {
        let name = policy.name_any();
        match self {
            Self::Policies(api) => api.replace(&name, params, policy).await,
            Self::Trials(api) => {
                let answer = api.replace(&name, params, &policy.clone().into()).await;
                answer.map(|answer| answer.as_policy())
            }
            Self::Staged(api) => {
                let answer = api.replace(&name, params, &policy.clone().into()).await;
                answer.map(|answer| answer.as_policy())
            }
        }
    }

    async fn delete(&self, name: &str, params: &DeleteParams) -> kube::Result<()> {
        match self {
            Self::Policies(api) => api.delete(name, params).await.map(|_| ()),
            Self::Trials(api) => api.delete(name, params).await.map(|_| ()),
            Self::Staged(api) => api.delete(name, params).await.map(|_| ()),
        }
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

fn describe(kind: Kind, step: &Step) -> String {
    let verb = match step {
        Step::Create { .. } => "create",
        Step::Replace { .. } => "replace",
        Step::Delete { .. } => "delete",
    };
    format!("{verb} {} {}", kind.as_str(), target(step))
}
