//! Watches the API server and turns its objects into [`Update`]s.

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_policy::{Namespace, Node, ObjectKey, Pod, Policy};
use serde::de::DeserializeOwned;

use crate::cluster::{Kind, Object, Update};
use crate::metrics::Counters;

/// Every update of everything that matters for the pods of `node`. Ends never: a watch that fails is started again,
/// later and later.
pub fn updates(
    client: &Client,
    node: &str,
    counters: &Counters,
) -> impl Stream<Item = Update> + Send + use<> {
    let own = format!("metadata.name={node}");
    // A pod that has ended holds no address. Asked so, the API server tells its end as a removal.
    let running = "status.phase!=Succeeded,status.phase!=Failed";
    futures::stream::select_all([
        kind(client, running, Kind::Pod, counters, |pod: &core::Pod| {
            Update::Upsert(Object::Pod(Pod::from_api(pod)))
        }),
        kind(
            client,
            "",
            Kind::Namespace,
            counters,
            |namespace: &core::Namespace| Update::Upsert(Object::Namespace(Namespace::from_api(namespace))),
        ),
        kind(client, &own, Kind::Node, counters, |node: &core::Node| {
            Update::Upsert(Object::Node(Node::from_api(node)))
        }),
        kind(client, "", Kind::Policy, counters, policy),
    ])
}

fn policy(policy: &networking::NetworkPolicy) -> Update {
    match Policy::from_api(policy) {
        Ok(policy) => Update::Upsert(Object::Policy(policy)),
        Err(error) => {
            tracing::error!(
                %error,
                "a NetworkPolicy cannot be read: what it said before stays in force, or else it allows nothing"
            );
            Update::Unreadable(Object::Policy(Policy::closed(policy)))
        }
    }
}

fn kind<K>(
    client: &Client,
    fields: &str,
    kind: Kind,
    counters: &Counters,
    read: fn(&K) -> Update,
) -> futures::stream::BoxStream<'static, Update>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(fields);
    let counters = counters.clone();
    let events = watch(Api::<K>::all(client.clone()), config).default_backoff();
    let updates = events.map(move |event| match event {
        Ok(event) => updates_of(kind, &event, read),
        Err(error) => {
            counters.error("WatchFailed");
            tracing::warn!(?kind, %error, "a watch failed; trying again, the rules stay as they are");
            Vec::new()
        }
    });
    updates.flat_map(futures::stream::iter).boxed()
}

fn updates_of<K: Resource<DynamicType = ()>>(
    kind: Kind,
    event: &Event<K>,
    read: fn(&K) -> Update,
) -> Vec<Update> {
    let leaving = match event {
        Event::Apply(object) | Event::InitApply(object) if kind == Kind::Namespace => object
            .meta()
            .deletion_timestamp
            .as_ref()
            .map(|_| Update::Terminating(object.name_any())),
        _ => None,
    };
    [update(kind, event, read)].into_iter().chain(leaving).collect()
}

fn update<K: Resource<DynamicType = ()>>(kind: Kind, event: &Event<K>, read: fn(&K) -> Update) -> Update {
    let key = |object: &K| ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any());
    match event {
        Event::Init => Update::Begin(kind),
        Event::InitDone => Update::End(kind),
        Event::Delete(object) => Update::Remove(kind, key(object)),
        Event::Apply(object) | Event::InitApply(object) => read(object),
    }
}
