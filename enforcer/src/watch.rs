//! Watches the API server and turns its objects into [`Update`]s.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::AuditNetworkPolicy;
use ringfence_policy::{Namespace, Node, ObjectKey, Pod, Policy, Version};
use serde::de::DeserializeOwned;

use crate::cluster::{Kind, Object, Update};
use crate::metrics::Counters;

/// Every update of everything that matters for the pods of the node `own`. Ends never: a watch that fails is started again
/// after a pause.
pub fn updates(client: &Client, own: &str, counters: &Counters) -> impl Stream<Item = Update> + Send + use<> {
    let own = format!("metadata.name={own}");
    // A pod that has ended holds no address. Asked so, the API server tells its end as a removal.
    let running = "status.phase!=Succeeded,status.phase!=Failed";
    futures::stream::select_all([
        kind(client, running, Kind::Pod, counters, |pod: &core::Pod| {
            vec![Update::Upsert(Object::Pod(read_pod(pod)))]
        }),
        kind(client, "", Kind::Namespace, counters, namespace),
        kind(client, &own, Kind::Node, counters, node),
        kind(client, "", Kind::Policy, counters, policy),
        kind(client, "", Kind::Audit, counters, audit),
    ])
}

/// A pod. The node knows a static pod by another UID than the mirror that the kubelet makes of it for the API server; the
/// mirror says which.
fn read_pod(pod: &core::Pod) -> Pod {
    let own_uid = pod.annotations().get("kubernetes.io/config.mirror");
    let read = Pod::from_api(pod);
    Pod {
        uid: own_uid.cloned().unwrap_or_else(|| read.uid.clone()),
        ..read
    }
}

fn namespace(namespace: &core::Namespace) -> Vec<Update> {
    let read = Update::Upsert(Object::Namespace(Namespace::from_api(namespace)));
    let leaving = namespace.metadata.deletion_timestamp.as_ref();
    let leaving = leaving.map(|_| Update::Terminating(namespace.name_any()));
    [read].into_iter().chain(leaving).collect()
}

fn node(node: &core::Node) -> Vec<Update> {
    let spec = node.spec.iter();
    let ranges = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    let ranges: BTreeSet<IpNet> = ranges.filter_map(|range| range.parse().ok()).collect();
    vec![
        Update::Upsert(Object::Node(Node::from_api(node))),
        version(Kind::Node, &node.metadata),
        Update::PodRanges(node.name_any(), ranges.into_iter().collect()),
    ]
}

fn policy(policy: &networking::NetworkPolicy) -> Vec<Update> {
    match Policy::from_api(policy) {
        Ok(read) => vec![
            Update::Upsert(Object::Policy(read)),
            version(Kind::Policy, &policy.metadata),
        ],
        Err(error) => {
            tracing::error!(
                %error,
                "a NetworkPolicy cannot be read: what it said before stays in force, or else it allows nothing"
            );
            vec![Update::Unreadable(Object::Policy(Policy::closed(policy)))]
        }
    }
}

fn audit(audit: &AuditNetworkPolicy) -> Vec<Update> {
    let policy = audit.as_policy();
    match Policy::from_api(&policy) {
        Ok(read) => vec![
            Update::Upsert(Object::Audit(read)),
            version(Kind::Audit, &audit.metadata),
        ],
        Err(error) => {
            tracing::error!(
                %error,
                "an AuditNetworkPolicy cannot be read: connections are judged as if it allowed nothing, or by what it said before"
            );
            vec![Update::Unreadable(Object::Audit(Policy::closed(&policy)))]
        }
    }
}

fn version(kind: Kind, object: &ObjectMeta) -> Update {
    let version = Version {
        uid: object.uid.clone().unwrap_or_default(),
        generation: object.generation.unwrap_or_default(),
    };
    let name = object.name.clone().unwrap_or_default();
    let key = ObjectKey::new(object.namespace.clone().unwrap_or_default(), name);
    Update::Version(kind, key, version)
}

fn kind<K>(
    client: &Client,
    fields: &str,
    kind: Kind,
    counters: &Counters,
    read: fn(&K) -> Vec<Update>,
) -> futures::stream::BoxStream<'static, Update>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(fields);
    let counters = counters.clone();
    let events = watch(Api::<K>::all(client.clone()), config).backoff(Pauses::of(kind));
    let updates = events.map(move |event| match event {
        Ok(event) => updates_of(kind, &event, read),
        Err(error) if kind == Kind::Audit && is_unknown(&error) => {
            tracing::debug!("the cluster does not know AuditNetworkPolicies: nothing is audited");
            Vec::new()
        }
        Err(error) => {
            counters.error("WatchFailed");
            tracing::warn!(?kind, %error, "a watch failed; trying again, the rules stay as they are");
            Vec::new()
        }
    });
    updates.flat_map(futures::stream::iter).boxed()
}

/// The first pause after a watch has failed, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Nobody's packets wait for what is on trial, and a cluster may never know the kind.
const LONGEST_PAUSE_ON_TRIAL: Duration = Duration::from_secs(30);

/// The pauses before a watch is tried again. Each kind has a watch of its own, and while one sleeps the others may be back: a
/// pod that starts then is judged by what another kind said before the outage. So none sleeps long, unlike those of programs
/// that nobody waits for.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    fn of(kind: Kind) -> Self {
        Self {
            next: FIRST_PAUSE,
            longest: if kind == Kind::Audit {
                LONGEST_PAUSE_ON_TRIAL
            } else {
                LONGEST_PAUSE
            },
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        // Between half of it and all, so that the nodes of a cluster do not all come back at the same moment.
        Some(pause.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

/// Whether the API server does not know the kind.
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

fn updates_of<K: Resource<DynamicType = ()>>(
    kind: Kind,
    event: &Event<K>,
    read: fn(&K) -> Vec<Update>,
) -> Vec<Update> {
    let key = |object: &K| ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any());
    match event {
        Event::Init => vec![Update::Begin(kind)],
        Event::InitDone => vec![Update::End(kind)],
        Event::Delete(object) => vec![Update::Remove(kind, key(object))],
        Event::Apply(object) | Event::InitApply(object) => read(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sleeps_longer_and_longer_and_never_long() {
        let mut pauses = Pauses::of(Kind::Policy);
        let slept: Vec<Duration> = pauses.by_ref().take(20).collect();
        assert!(slept[0] <= FIRST_PAUSE && slept[19] > FIRST_PAUSE, "{slept:?}");
        assert!(slept.iter().all(|pause| *pause <= LONGEST_PAUSE), "{slept:?}");
        pauses.reset();
        assert!(pauses.next() <= Some(FIRST_PAUSE));
    }
}
