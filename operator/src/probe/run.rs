//! The probe's loop, beside the controller, on the replica that leads.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::{ConditionType, EnforcementProbe, EnforcementProbeStatus, Reason};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::judge::{Verdict, judge};
use super::objects::PodImage;
use super::plan::{Round, nodes};
use super::round::{Hands, Unfinished, Work};
use super::schedule::{Last, due, is_stale};
use crate::error::{Error, Refusal};
use crate::events::Events;
use crate::leader::Fence;
use crate::metrics::{OperatorMetrics, Verb};
use crate::publish::{apply_status, news_of};
use crate::status::{ProbeOutcome, probe_status};
use crate::stores::Stores;

/// How often the nodes are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The pause after a round that could not be made.
const RETRY: Duration = Duration::from_secs(10);

/// What the loop is made of.
pub struct Parts {
    /// The connection.
    pub client: Client,
    /// The operator's namespace, where the pods run.
    pub namespace: String,
    /// The caches.
    pub stores: Stores,
    /// How rounds are made.
    pub settings: Settings,
    /// Open while writing is permitted.
    pub fence: Fence,
    /// Where Events go.
    pub events: Events,
    /// Where counts go.
    pub metrics: OperatorMetrics,
}

/// Makes rounds while there is an EnforcementProbe.
pub struct Prober {
    hands: Hands,
    stores: Stores,
    settings: Settings,
    events: Events,
    metrics: OperatorMetrics,
}

/// What is remembered of a probe: the cache may lag behind what was written.
struct Memory {
    uid: Option<String>,
    /// The generation of the spec that was last looked at.
    generation: Option<i64>,
    last: Last,
    status: EnforcementProbeStatus,
}

impl Memory {
    fn of(probe: &EnforcementProbe) -> Self {
        let status = probe.status.clone().unwrap_or_default();
        // Which of them were ready nobody remembers: one that was not waits for its turn.
        let nodes = status.nodes.iter().map(|node| (node.clone(), true)).collect();
        Self {
            uid: probe.uid(),
            generation: None,
            last: Last {
                ended: status.last_run_time.as_ref().map(|time| time.0),
                generation: status.observed_generation,
                nodes,
            },
            status,
        }
    }
}

impl Prober {
    /// A prober that has not seen anything yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let hands = Hands {
            client: parts.client,
            namespace: parts.namespace,
            fence: parts.fence,
        };
        Arc::new(Self {
            hands,
            stores: parts.stores,
            settings: parts.settings,
            events: parts.events,
            metrics: parts.metrics,
        })
    }

    /// Works until `shutdown`. What goes wrong is told, and tried again.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), Error> {
        let mut memory = None;
        let mut news = self.stores.probe.changes();
        while !shutdown.is_cancelled() {
            // Whatever goes wrong here stays here: namespaces are worked on all the same.
            let turn = AssertUnwindSafe(self.turn(&mut memory, &shutdown))
                .catch_unwind()
                .await;
            let panicked = Error::Panicked {
                what: "a round of the EnforcementProbe".to_owned(),
            };
            let pause = match turn.unwrap_or(Err(panicked)) {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, reason = error.name(), "the probe failed, trying again later");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(pause) => {}
                // Our own status is no news.
                _ = news.wait_for(|probe| is_another(memory.as_ref(), probe.as_deref())) => {}
            }
        }
        self.metrics.probe_unknown();
        Ok(())
    }

    /// Does what is due; gives how long to wait.
    async fn turn(
        &self,
        memory: &mut Option<Memory>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, Error> {
        let Some(probe) = self.stores.probe.now() else {
            if memory.is_some() {
                self.hands.sweep().await?;
                self.metrics.probe_unknown();
                *memory = None;
            }
            return Ok(TICK);
        };
        let memory = match memory {
            Some(known) if known.uid == probe.uid() => known,
            // What a predecessor left behind that had no time to remove it.
            other => {
                self.hands.sweep().await?;
                other.insert(Memory::of(&probe))
            }
        };
        memory.generation = probe.metadata.generation;
        let nodes = nodes(&probe.spec, &self.stores.sources.nodes.state());
        let now = Timestamp::now();
        let (generation, interval) = (probe.metadata.generation, interval(&probe));
        let wait = due(&memory.last, generation, interval, &nodes, now);
        if !wait.is_zero() {
            return Ok(wait.min(TICK));
        }
        let longest = self.settings.longest();
        let proof = verdict(&memory.status).filter(|verdict| verdict.status == "True");
        let is_stale = |ended| is_stale(ended, interval, longest, now);
        let stale = proof.is_some() && memory.last.ended.is_none_or(is_stale);
        if stale || memory.status.observed_generation != generation {
            self.publish(&probe, memory, &ProbeOutcome::Pending).await?;
        }
        self.round(&probe, memory, nodes, shutdown).await
    }

    /// Makes a round and tells what it showed.
    async fn round(
        &self,
        probe: &EnforcementProbe,
        memory: &mut Memory,
        nodes: BTreeMap<String, bool>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, Error> {
        let id: String = std::iter::repeat_with(fastrand::lowercase).take(6).collect();
        let round = Round::new(id, &nodes, &probe.spec);
        let Some(image) = self.image(probe).await? else {
            let why = "the operator does not know its own image: give spec.image".to_owned();
            let blocked = ProbeOutcome::Blocked(Reason::Invalid, why);
            self.publish(probe, memory, &blocked).await?;
            return Ok(RETRY);
        };
        let known = &self.stores.probe;
        let wanted = || {
            let same = |now: &EnforcementProbe| {
                now.uid() == probe.uid() && now.meta().generation == probe.meta().generation
            };
            !shutdown.is_cancelled() && known.now().is_some_and(|now| same(&now))
        };
        let work = Work {
            hands: &self.hands,
            settings: &self.settings,
            probe,
            round: &round,
            image: &image,
            wanted,
        };
        let outcome = match work.carry_out().await {
            Ok(seen) => ProbeOutcome::Judged(judge(&round, &seen)),
            Err(Unfinished::Unwanted) => return Ok(Duration::ZERO),
            Err(Unfinished::NameConflict(why)) => ProbeOutcome::Blocked(Reason::NameConflict, why),
            Err(Unfinished::Failed(error)) if is_lasting(&error) => {
                ProbeOutcome::Blocked(Reason::WriteFailed, error.to_string())
            }
            // What was shown before holds until it is stale.
            Err(Unfinished::Failed(error)) => return Err(error),
        };
        self.publish(probe, memory, &outcome).await?;
        let ProbeOutcome::Judged(verdict) = outcome else {
            return Ok(RETRY);
        };
        memory.last = Last {
            ended: Some(Timestamp::now()),
            generation: probe.metadata.generation,
            nodes,
        };
        self.count(&verdict);
        Ok(Duration::ZERO)
    }

    async fn image(&self, probe: &EnforcementProbe) -> Result<Option<PodImage>, Error> {
        let own = self.hands.own_image(&self.settings.own_pod).await?;
        let given = probe.spec.image.as_ref().or(self.settings.image.as_ref());
        Ok(match (given, own) {
            (None, own) => own,
            (Some(image), own) => Some(PodImage {
                image: image.clone(),
                secrets: own.map(|own| own.secrets).unwrap_or_default(),
            }),
        })
    }

    fn count(&self, verdict: &Verdict) {
        let right = verdict.right();
        self.metrics.probed(right, &verdict.wrong, Timestamp::now());
    }

    /// Writes a status that has something new to say, and tells of a new verdict in an Event.
    async fn publish(
        &self,
        probe: &EnforcementProbe,
        memory: &mut Memory,
        outcome: &ProbeOutcome,
    ) -> Result<(), Error> {
        let status = probe_status(probe, &memory.status, outcome, Timestamp::now());
        if status == memory.status {
            return Ok(());
        }
        let api = Api::<EnforcementProbe>::all(self.hands.client.clone());
        // Whatever version it has: the spec that this is about is in the status.
        let written = apply_status(&api, &self.hands.fence, probe, None, &status).await?;
        if written.is_none() {
            return Ok(());
        }
        self.metrics.wrote("EnforcementProbe", Verb::Status);
        let kind = ConditionType::EnforcementVerified;
        if let Some(notice) = news_of(kind, "Probe", &memory.status.conditions, &status.conditions) {
            self.events.send(probe, notice).await;
        }
        memory.status = status;
        Ok(())
    }
}

fn interval(probe: &EnforcementProbe) -> Duration {
    let seconds = u64::try_from(probe.spec.interval_seconds);
    Duration::from_secs(seconds.unwrap_or(600))
}

/// Whether the API server will refuse it again.
fn is_lasting(error: &Error) -> bool {
    let Error::Api { refusal, .. } = error else {
        return false;
    };
    matches!(refusal, Refusal::Forbidden | Refusal::Invalid)
}

fn verdict(status: &EnforcementProbeStatus) -> Option<&Condition> {
    let kind = ConditionType::EnforcementVerified.as_str();
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == kind)
}

/// Whether this is another probe, or another spec, than the one remembered.
fn is_another(memory: Option<&Memory>, probe: Option<&EnforcementProbe>) -> bool {
    match (memory, probe) {
        (None, probe) => probe.is_some(),
        (Some(_), None) => true,
        (Some(memory), Some(probe)) => {
            memory.uid != probe.uid() || memory.generation != probe.metadata.generation
        }
    }
}
