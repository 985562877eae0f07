//! One round, carried out: policies, servers, callers, and nothing left of the pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use ringfence_crd::EnforcementProbe;
use tokio::time::{Instant, interval};

use super::Settings;
use super::judge::{Caller, Seen, Server};
use super::objects::{PodImage, Pods, ROLE_LABEL, ROUND_LABEL, is_a_probes, policies};
use super::observe;
use super::plan::{Direction, Round};
use crate::error::{Error, Refusal, watch_message};
use crate::leader::Fence;
use crate::names::FIELD_MANAGER;

/// How often what is known of a round's pods is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How many pods are created or deleted at a time.
const AT_ONCE: usize = 8;

/// What a round needs of the world.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) fence: Fence,
}

/// Why a round has no result.
pub(super) enum Unfinished {
    /// It is not wanted any more: the spec changed, the probe is gone, or leadership.
    Unwanted,
    /// A policy of somebody else has a name that is needed.
    NameConflict(String),
    /// The API server refused something that everything depends on.
    Failed(Error),
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A round under way.
pub(super) struct Work<'a, W> {
    pub(super) hands: &'a Hands,
    pub(super) settings: &'a Settings,
    pub(super) probe: &'a EnforcementProbe,
    pub(super) round: &'a Round,
    pub(super) image: &'a PodImage,
    /// Whether the round is still wanted.
    pub(super) wanted: W,
}

impl<W: Fn() -> bool> Work<'_, W> {
    /// Carries the round out and removes its pods, whatever becomes of it.
    pub(super) async fn carry_out(&self) -> Result<Seen, Unfinished> {
        self.hands.ensure_policies(self.probe).await?;
        self.hands.sweep().await?;
        let seen = self.run().await;
        self.hands.sweep().await?;
        seen
    }

    async fn run(&self) -> Result<Seen, Unfinished> {
        let mut seen = Seen::default();
        seen.servers = self.servers().await?;
        seen.callers = self.callers(&seen).await?;
        Ok(seen)
    }

    fn pods(&self) -> Pods<'_> {
        Pods {
            probe: self.probe,
            namespace: &self.hands.namespace,
            image: self.image,
            round: self.round,
            deadline: self.settings.longest(),
            settle: self.settings.settle,
        }
    }

    async fn servers(&self) -> Result<BTreeMap<usize, Server>, Unfinished> {
        let mut servers = BTreeMap::new();
        let mut wanted = Vec::new();
        for (node, known) in self.round.nodes.iter().enumerate() {
            if known.ready {
                wanted.push((node, self.pods().server(node)));
            } else {
                let why = "the node is not Ready".to_owned();
                servers.insert(node, Server::NotStarted(why));
            }
        }
        for (node, why) in self.create(wanted.clone()).await? {
            servers.insert(node, Server::NotStarted(why));
        }
        let awaited = wanted
            .iter()
            .filter(|(node, _)| !servers.contains_key(node))
            .map(|(node, pod)| (*node, pod.name_any()))
            .collect();
        let decide = |_: &usize, pod: &Pod| observe::server(pod);
        let late = |pod: &Pod| Server::NotStarted(observe::why(pod));
        servers.extend(self.watch(awaited, self.settings.start, decide, late).await?);
        Ok(servers)
    }

    async fn callers(&self, seen: &Seen) -> Result<BTreeMap<(usize, Direction), Caller>, Unfinished> {
        let mut callers = BTreeMap::new();
        let mut wanted = Vec::new();
        for (node, known) in self.round.nodes.iter().enumerate() {
            let targets = seen.targets(self.round, node);
            // Without a server to call there is nothing to find out; its failure says why.
            if !known.ready || targets.is_empty() {
                continue;
            }
            let addresses: Vec<Vec<IpAddr>> = targets.iter().map(|(_, all)| all.to_vec()).collect();
            for direction in Direction::BOTH {
                let pod = self.pods().caller(node, direction, &addresses);
                wanted.push(((node, direction), pod));
            }
        }
        for (who, why) in self.create(wanted.clone()).await? {
            callers.insert(who, Caller::NotStarted(why));
        }
        let awaited = wanted
            .iter()
            .filter(|(who, _)| !callers.contains_key(who))
            .map(|(who, pod)| (*who, pod.name_any()))
            .collect();
        let limit = self.settings.start + 2 * self.settings.settle;
        let decide =
            |who: &(usize, Direction), pod: &Pod| observe::caller(pod, seen.targets(self.round, who.0).len());
        callers.extend(
            self.watch(awaited, limit, decide, observe::overdue_caller)
                .await?,
        );
        Ok(callers)
    }

    /// Creates pods, some at a time. Those that the API server refuses, with what it says.
    async fn create<K: Copy>(&self, pods: Vec<(K, Pod)>) -> Result<Vec<(K, String)>, Unfinished> {
        let created = stream::iter(pods).map(|(who, pod)| async move {
            if !(self.wanted)() {
                return Err(Unfinished::Unwanted);
            }
            match self.hands.create_pod(&pod).await {
                Ok(()) => Ok(None),
                Err(error @ Error::NotLeading { .. }) => Err(Unfinished::Failed(error)),
                Err(error) => Ok(Some((who, error.to_string()))),
            }
        });
        let outcomes: Vec<_> = created.buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().filter_map(Result::transpose).collect()
    }

    /// Watches pods until all are decided about, or time is up.
    async fn watch<K: Copy + Ord, T>(
        &self,
        mut awaited: BTreeMap<K, String>,
        limit: Duration,
        decide: impl Fn(&K, &Pod) -> Option<T>,
        late: impl Fn(&Pod) -> T,
    ) -> Result<BTreeMap<K, T>, Unfinished> {
        let started = Instant::now();
        let (pods, mut events) = self.hands.pods_of(&self.round.id);
        let mut look = interval(LOOK);
        let mut decided = BTreeMap::new();
        while !awaited.is_empty() {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => {
                        let cause = watch_message(&error);
                        return Err(Error::Probe(format!("the pods of the probe can't be followed: {cause}")).into());
                    }
                    None => return Err(Error::Ended("the watch of the probe's pods").into()),
                },
                _ = look.tick() => {}
            }
            if !(self.wanted)() {
                return Err(Unfinished::Unwanted);
            }
            let is_late = started.elapsed() > limit;
            awaited.retain(|who, name| {
                let pod = pods.get(&ObjectRef::new(name).within(&self.hands.namespace));
                // A pod that somebody deleted is told of as one that no node has seen.
                let pod = pod.unwrap_or_default();
                let outcome = decide(who, &pod).or_else(|| is_late.then(|| late(&pod)));
                outcome.map(|outcome| decided.insert(*who, outcome)).is_none()
            });
        }
        Ok(decided)
    }
}

impl Hands {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn may_write(&self, what: &str) -> Result<(), Error> {
        if self.fence.is_open() {
            return Ok(());
        }
        Err(Error::NotLeading {
            what: what.to_owned(),
        })
    }

    /// The pods of a round, as far as they are known, and what keeps that up to date.
    fn pods_of(
        &self,
        round: &str,
    ) -> (
        Store<Pod>,
        BoxStream<'static, watcher::Result<watcher::Event<Pod>>>,
    ) {
        let config = watcher::Config::default().labels(&format!("{ROUND_LABEL}={round}"));
        let (store, writer) = reflector::store();
        let events = reflector::reflector(writer, watcher(self.pods(), config));
        (store, events.boxed())
    }

    async fn create_pod(&self, pod: &Pod) -> Result<(), Error> {
        let what = format!("create pod {}/{}", self.namespace, pod.name_any());
        self.may_write(&what)?;
        let created = self.pods().create(&params(), pod).await;
        created.map(drop).map_err(|error| Error::api(what, &error))
    }

    /// The image of the operator's own container, and the secrets that it is pulled with.
    pub(super) async fn own_image(&self, pod: &str) -> Result<Option<PodImage>, Error> {
        let named = ListParams::default().fields(&format!("metadata.name={pod}"));
        let list = self.pods().list(&named).await;
        let list = list.map_err(|error| Error::api(format!("read pod {}/{pod}", self.namespace), &error))?;
        let Some(spec) = list.items.into_iter().next().and_then(|pod| pod.spec) else {
            return Ok(None);
        };
        let operator = spec
            .containers
            .iter()
            .find(|container| container.name == "operator");
        let image = operator
            .or(spec.containers.first())
            .and_then(|container| container.image.clone());
        Ok(image.map(|image| PodImage {
            image,
            secrets: spec.image_pull_secrets.unwrap_or_default(),
        }))
    }

    /// Deletes every pod of a probe, of whatever round: also what an operator left behind that crashed.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        let list = self.pods().list(&ListParams::default().labels(ROLE_LABEL)).await;
        let list = list.map_err(|error| Error::api("list the pods of the probe", &error))?;
        // A label can be written by anybody; an owner of this kind is what a person would have to mean.
        let ours = list
            .items
            .into_iter()
            .filter(|pod| is_a_probes(pod) && pod.metadata.deletion_timestamp.is_none());
        let deletions = stream::iter(ours).map(|pod| async move { self.delete_pod(&pod).await });
        let outcomes: Vec<_> = deletions.buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().collect()
    }

    async fn delete_pod(&self, pod: &Pod) -> Result<(), Error> {
        let what = format!("delete pod {}/{}", self.namespace, pod.name_any());
        self.may_write(&what)?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.pods().delete(&pod.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(Refusal::of(&error), Refusal::NotFound | Refusal::Conflict) => Ok(()),
            Err(error) => Err(Error::api(what, &error)),
        }
    }

    async fn ensure_policies(&self, probe: &EnforcementProbe) -> Result<(), Unfinished> {
        for policy in policies(probe, &self.namespace) {
            self.ensure_policy(probe, policy).await?;
        }
        Ok(())
    }

    /// Brings a policy to what it must be, unless it is somebody else's.
    async fn ensure_policy(&self, probe: &EnforcementProbe, wanted: NetworkPolicy) -> Result<(), Unfinished> {
        let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), &self.namespace);
        let name = wanted.name_any();
        let what = format!("write NetworkPolicy {}/{name}", self.namespace);
        // The operator may list policies, which is as good as reading one.
        let listed = api
            .list(&ListParams::default().fields(&format!("metadata.name={name}")))
            .await;
        let listed = listed.map_err(|error| Error::api(what.clone(), &error))?;
        let Some(found) = listed.items.into_iter().next() else {
            self.may_write(&what)?;
            let created = api.create(&params(), &wanted).await;
            return Ok(created.map(drop).map_err(|error| Error::api(what, &error))?);
        };
        let owners: BTreeSet<&str> = found
            .owner_references()
            .iter()
            .map(|owner| owner.uid.as_str())
            .collect();
        if !owners.contains(probe.metadata.uid.as_deref().unwrap_or_default()) {
            return Err(Unfinished::NameConflict(format!(
                "NetworkPolicy {}/{name} is not this probe's and has the name that it needs: delete it, or rename it",
                self.namespace
            )));
        }
        if found.spec == wanted.spec {
            return Ok(());
        }
        self.may_write(&what)?;
        let mut replacement = found;
        replacement.spec = wanted.spec;
        replacement.metadata.managed_fields = None;
        let replaced = api.replace(&name, &params(), &replacement).await;
        Ok(replaced.map(drop).map_err(|error| Error::api(what, &error))?)
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
