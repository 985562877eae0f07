//! What openings are derived from: further caches, some of kinds that a cluster need not have.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use futures::future::{BoxFuture, pending};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, PodTemplateSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::reflector::{self, Lookup, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;

use crate::callbacks::{Callback, Calls};
use crate::error::Error;
use crate::foreign::{HTTPRoute, PodMonitor, ServiceMonitor, StagedKubernetesNetworkPolicy};
use crate::stores::{Definition, Mirrored, Sink, Versions, forget_managers, keep_managers, named};
use crate::triggers::Change;

/// A cache's name, and its first list as a future.
pub(crate) type Readiness<'a> = (&'static str, BoxFuture<'a, Result<(), Error>>);

macro_rules! sources {
    (
        always { $($(#[$doc:meta])* $field:ident: $kind:ty, $trim:expr;)* }
        optional { $($(#[$odoc:meta])* $ofield:ident: $okind:ty, $definition:expr, $otrim:expr;)* }
    ) => {
        /// The caches. Cheap to clone.
        #[derive(Clone)]
        pub struct Sources {
            $($(#[$doc])* pub $field: Store<$kind>,)*
            $($(#[$odoc])* pub $ofield: Store<$okind>,)*
            settled: Settled,
        }

        /// Whether it is known, of each kind that a cluster need not have, what there is of it.
        #[derive(Clone)]
        struct Settled {
            $($ofield: watch::Receiver<Presence>,)*
        }

        /// The writing ends of [`Sources`].
        pub(crate) struct SourceFeeds {
            $(pub(crate) $field: Writer<$kind>,)*
            $(pub(crate) $ofield: (Writer<$okind>, watch::Sender<Presence>),)*
        }

        /// Empty caches and what fills them.
        pub(crate) fn sources() -> (Sources, SourceFeeds) {
            $(let $field = reflector::store::<$kind>();)*
            $(let $ofield = (reflector::store::<$okind>(), watch::channel(Presence::Unknown));)*
            let sources = Sources {
                $($field: $field.0,)*
                $($ofield: $ofield.0.0,)*
                settled: Settled { $($ofield: $ofield.1.1,)* },
            };
            let feeds = SourceFeeds {
                $($field: $field.1,)*
                $($ofield: ($ofield.0.1, $ofield.1.0),)*
            };
            (sources, feeds)
        }

        impl Sources {
            /// For each cache, when it has had its first list.
            pub(crate) fn readiness(&self) -> Vec<Readiness<'_>> {
                vec![
                    $((kind_of::<$kind>(), self.$field.wait_until_ready().map(|ready| ready.map_err(|_| ENDED)).boxed()),)*
                    $((kind_of::<$okind>(), known(self.settled.$ofield.clone()).boxed()),)*
                ]
            }
        }

        impl SourceFeeds {
            /// What keeps the caches filled, to be run together.
            pub(crate) fn run<'a>(self, sink: &'a Sink, client: &Client) -> Vec<BoxFuture<'a, Result<(), Error>>> {
                vec![
                    $(sink.feed(
                        watcher(Api::<$kind>::all(client.clone()), watcher::Config::default()),
                        self.$field,
                        $trim,
                    ).boxed(),)*
                    $(optional(sink, client.clone(), ($definition, $otrim), self.$ofield.0, self.$ofield.1).boxed(),)*
                ]
            }
        }

        /// The names of the kinds, for labels that live as long as the program.
        pub(crate) fn kind_names() -> impl Iterator<Item = &'static str> {
            [$(kind_of::<$kind>(),)* $(kind_of::<$okind>(),)*].into_iter()
        }
    };
}

sources! {
    always {
        /// EndpointSlices: the addresses behind Services.
        endpoint_slices: EndpointSlice, trim_slice;
        /// StatefulSets: which pods are peers.
        stateful_sets: StatefulSet, trim_set;
        /// Ingresses: which Services are back ends.
        ingresses: Ingress, forget_managers;
        /// Nodes: their addresses and the ranges of their pods.
        nodes: Node, trim_node;
        /// What the API server asks before it stores an object.
        validating: ValidatingWebhookConfiguration, forget_managers;
        /// What the API server lets change an object before it stores it.
        mutating: MutatingWebhookConfiguration, forget_managers;
        /// What the API server passes requests on to.
        api_services: APIService, forget_managers;
    }
    optional {
        /// HTTPRoutes: which Services are back ends of gateways.
        http_routes: HTTPRoute, "httproutes.gateway.networking.k8s.io", forget_managers;
        /// PodMonitors: on which ports pods serve metrics.
        pod_monitors: PodMonitor, "podmonitors.monitoring.coreos.com", forget_managers;
        /// ServiceMonitors: on which ports the pods behind Services serve metrics.
        service_monitors: ServiceMonitor, "servicemonitors.monitoring.coreos.com", forget_managers;
        // Ownership is judged by who manages a policy, so here the managers stay.
        /// Policies on trial as Calico knows them, where its API is served from definitions.
        staged: StagedKubernetesNetworkPolicy, "stagedkubernetesnetworkpolicies.projectcalico.org", keep_managers;
        /// The same where Calico's own API server serves them, and the definition is of what that one stores.
        staged_elsewhere: StagedKubernetesNetworkPolicy, "stagedkubernetesnetworkpolicies.crd.projectcalico.org", keep_managers;
    }
}

const ENDED: Error = Error::Ended("a watch");

/// Whether a cluster has a kind that it need not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nobody knows yet.
    Unknown,
    /// It has not, or does not let it be read.
    Absent,
    /// It has, and all objects were listed.
    Listed,
}

impl Sources {
    /// Whether the cluster has Calico's policies on trial, and all of them were listed.
    pub(crate) fn has_staged(&self) -> bool {
        let listed = |presence: &watch::Receiver<Presence>| *presence.borrow() == Presence::Listed;
        listed(&self.settled.staged) || listed(&self.settled.staged_elsewhere)
    }

    /// What the API server is told to call.
    pub(crate) fn callbacks(&self) -> BTreeSet<Callback> {
        fn of<K>(store: &Store<K>) -> impl Iterator<Item = Callback> + use<K>
        where
            K: Lookup + Calls + Clone + 'static,
            <K as Lookup>::DynamicType: Eq + Hash + Clone,
        {
            store.state().into_iter().flat_map(|object| object.callbacks())
        }
        of(&self.validating)
            .chain(of(&self.mutating))
            .chain(of(&self.api_services))
            .collect()
    }
}

fn kind_of<K>() -> &'static str
where
    K: Resource<DynamicType = ()>,
{
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "other",
    }
}

async fn known(mut settled: watch::Receiver<Presence>) -> Result<(), Error> {
    settled
        .wait_for(|settled| *settled != Presence::Unknown)
        .await
        .map(|_| ())
        .map_err(|_| ENDED)
}

/// Fills the cache of a kind while the cluster has it: the watch begins when the kind's definition appears and ends, with an
/// empty cache, when it goes.
async fn optional<K>(
    sink: &Sink,
    client: Client,
    (definition, trim): (&str, fn(&mut K)),
    mut writer: Writer<K>,
    settled: watch::Sender<Presence>,
) -> Result<(), Error>
where
    K: Mirrored,
    Change: From<Versions<K>>,
{
    let store = writer.as_reader();
    let (definitions, mut definition_writer) = reflector::store::<Definition>();
    let watched = watcher(Api::<Definition>::all(client.clone()), named(definition));
    let mut news = watched.default_backoff().boxed();
    let mut objects: Option<BoxStream<'static, watcher::Result<watcher::Event<K>>>> = None;
    loop {
        tokio::select! {
            event = news.next() => {
                let event = match event.ok_or(ENDED)? {
                    Ok(event) => event,
                    Err(error) => {
                        sink.failed::<Definition>(&error);
                        unblock(&settled, &error);
                        continue;
                    }
                };
                definition_writer.apply_watcher_event(&event);
                if matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                    continue;
                }
                match (definitions.is_empty(), objects.is_some()) {
                    (false, false) => {
                        let all = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
                        objects = Some(all.default_backoff().boxed());
                    }
                    (true, watching) => {
                        objects = None;
                        settled.send_replace(Presence::Absent);
                        if watching {
                            writer.apply_watcher_event(&watcher::Event::Init);
                            let cleared = sink.step(&mut writer, &store, &watcher::Event::InitDone);
                            cleared.iter().for_each(|change| sink.changed(change));
                        }
                    }
                    (false, true) => {}
                }
            }
            event = next(&mut objects) => match event.ok_or(ENDED)? {
                Ok(event) => {
                    let event = event.modify(trim);
                    let change = sink.step(&mut writer, &store, &event);
                    change.iter().for_each(|change| sink.changed(change));
                    if matches!(event, watcher::Event::InitDone) {
                        settled.send_replace(Presence::Listed);
                    }
                }
                Err(error) => {
                    sink.failed::<K>(&error);
                    unblock(&settled, &error);
                }
            },
        }
    }
}

/// A kind that may not be read must not keep everything else waiting. One that can't be read just now does: without it
/// openings would be withdrawn and come back.
fn unblock(settled: &watch::Sender<Presence>, error: &watcher::Error) {
    if is_refusal(error) {
        settled.send_replace(Presence::Absent);
    }
}

async fn next<T: Send>(stream: &mut Option<BoxStream<'_, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => pending().await,
    }
}

/// Whether the API server will not serve a watch, as opposed to being unable to just now.
fn is_refusal(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404))
}

/// Leaves of a slice where its endpoints are.
fn trim_slice(slice: &mut EndpointSlice) {
    forget_managers(slice);
    slice.metadata.annotations = None;
    for endpoint in slice.endpoints.iter_mut().flatten() {
        *endpoint = Endpoint {
            addresses: std::mem::take(&mut endpoint.addresses),
            ..Endpoint::default()
        };
    }
}

/// Leaves of a StatefulSet which pods it has and what governs them.
fn trim_set(set: &mut StatefulSet) {
    forget_managers(set);
    set.metadata.annotations = None;
    set.status = None;
    if let Some(spec) = set.spec.as_mut() {
        spec.template = PodTemplateSpec::default();
        spec.volume_claim_templates = None;
    }
}

/// Leaves of a node its addresses and the ranges of its pods, and what tells whether it can be probed. Its status changes every
/// few minutes.
fn trim_node(node: &mut Node) {
    let metadata = std::mem::take(&mut node.metadata);
    node.metadata = ObjectMeta {
        name: metadata.name,
        labels: metadata.labels,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    };
    node.spec = node.spec.take().map(|spec| NodeSpec {
        pod_cidr: spec.pod_cidr,
        pod_cidrs: spec.pod_cidrs,
        taints: spec.taints,
        ..NodeSpec::default()
    });
    node.status = node.status.take().map(|status| NodeStatus {
        addresses: status.addresses,
        conditions: status.conditions.map(readiness),
        ..NodeStatus::default()
    });
}

/// Whether a node is ready, without the times.
fn readiness(conditions: Vec<NodeCondition>) -> Vec<NodeCondition> {
    let ready = conditions
        .into_iter()
        .filter(|condition| condition.type_ == "Ready");
    ready
        .map(|condition| NodeCondition {
            type_: condition.type_,
            status: condition.status,
            ..NodeCondition::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn answer(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(Status {
            code,
            ..Status::default()
        })))
    }

    #[test]
    fn what_is_refused_is_not_waited_for_and_what_fails_is() {
        for (code, waits) in [
            (401, false),
            (403, false),
            (404, false),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let (settled, known) = watch::channel(Presence::Unknown);
            unblock(&settled, &answer(code));
            assert_eq!(*known.borrow() == Presence::Unknown, waits, "{code}");
        }
    }

    #[test]
    fn every_kind_has_a_name_for_metrics() {
        let names: BTreeSet<_> = kind_names().collect();
        assert_eq!(names.len(), 11);
        assert!(!names.contains("other"), "{names:?}");
    }
}
