//! What is watched: the caches every decision is made from.

mod trim;

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustNamespace};
use serde::de::DeserializeOwned;

use crate::error::{Error, watch_message};
use crate::metrics::OperatorMetrics;
use crate::reports::Reports;
use crate::sources::{Readiness, SourceFeeds, Sources, kind_names, sources};
use crate::triggers::{Change, Triggers};
use trim::trim_pod;

/// The name of the CustomResourceDefinition of ZeroTrustNamespaces.
pub const ZERO_TRUST_DEFINITION: &str = "zerotrustnamespaces.ringfence.dev";
/// The name of the CustomResourceDefinition of ServiceAccesses.
pub const ACCESS_DEFINITION: &str = "serviceaccesses.ringfence.dev";
/// The name of the CustomResourceDefinition of ExternalAccesses.
pub const EXTERNAL_DEFINITION: &str = "externalaccesses.ringfence.dev";

/// A CustomResourceDefinition without its schemas.
pub type Definition = PartialObjectMeta<CustomResourceDefinition>;

/// The caches. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    /// Namespaces.
    pub namespaces: Store<Namespace>,
    /// Pods, without what no decision depends on.
    pub pods: Store<Pod>,
    /// Services.
    pub services: Store<Service>,
    /// NetworkPolicies of any origin, whole.
    pub policies: Store<NetworkPolicy>,
    /// ZeroTrustNamespaces.
    pub zero_trust: Store<ZeroTrustNamespace>,
    /// ServiceAccesses.
    pub accesses: Store<ServiceAccess>,
    /// ExternalAccesses.
    pub externals: Store<ExternalAccess>,
    /// Ranges of Service addresses. Empty where the cluster does not have that kind.
    pub service_cidrs: Store<ServiceCIDR>,
    /// The definition of ZeroTrustNamespaces, the second owner of what they lead to.
    pub zero_trust_definition: Store<Definition>,
    /// The definition of ServiceAccesses.
    pub access_definition: Store<Definition>,
    /// The definition of ExternalAccesses.
    pub external_definition: Store<Definition>,
    /// Admission policies that are part of Ringfence, among them those that protect stamps.
    pub admission: Store<ValidatingAdmissionPolicy>,
    /// Their bindings.
    pub admission_bindings: Store<ValidatingAdmissionPolicyBinding>,
    /// What the nodes' enforcers report.
    pub reports: Reports,
    /// What openings are derived from.
    pub sources: Sources,
}

/// The writing ends of [`Stores`], to be run by [`Feeds::run`].
pub struct Feeds {
    namespaces: Writer<Namespace>,
    pods: Writer<Pod>,
    services: Writer<Service>,
    policies: Writer<NetworkPolicy>,
    zero_trust: Writer<ZeroTrustNamespace>,
    accesses: Writer<ServiceAccess>,
    externals: Writer<ExternalAccess>,
    service_cidrs: Writer<ServiceCIDR>,
    zero_trust_definition: Writer<Definition>,
    access_definition: Writer<Definition>,
    external_definition: Writer<Definition>,
    admission: Writer<ValidatingAdmissionPolicy>,
    admission_bindings: Writer<ValidatingAdmissionPolicyBinding>,
    sources: SourceFeeds,
}

/// Empty caches and what fills them.
pub fn stores() -> (Stores, Feeds) {
    let (namespaces, feed_namespaces) = reflector::store();
    let (pods, feed_pods) = reflector::store();
    let (services, feed_services) = reflector::store();
    let (policies, feed_policies) = reflector::store();
    let (zero_trust, feed_zero_trust) = reflector::store();
    let (accesses, feed_accesses) = reflector::store();
    let (externals, feed_externals) = reflector::store();
    let (service_cidrs, feed_service_cidrs) = reflector::store();
    let (zero_trust_definition, feed_zero_trust_definition) = reflector::store();
    let (access_definition, feed_access_definition) = reflector::store();
    let (external_definition, feed_external_definition) = reflector::store();
    let (admission, feed_admission) = reflector::store();
    let (admission_bindings, feed_admission_bindings) = reflector::store();
    let (sources, feed_sources) = sources();
    let stores = Stores {
        namespaces,
        pods,
        services,
        policies,
        zero_trust,
        accesses,
        externals,
        service_cidrs,
        zero_trust_definition,
        access_definition,
        external_definition,
        admission,
        admission_bindings,
        reports: Reports::default(),
        sources,
    };
    let feeds = Feeds {
        namespaces: feed_namespaces,
        pods: feed_pods,
        services: feed_services,
        policies: feed_policies,
        zero_trust: feed_zero_trust,
        accesses: feed_accesses,
        externals: feed_externals,
        service_cidrs: feed_service_cidrs,
        zero_trust_definition: feed_zero_trust_definition,
        access_definition: feed_access_definition,
        external_definition: feed_external_definition,
        admission: feed_admission,
        admission_bindings: feed_admission_bindings,
        sources: feed_sources,
    };
    (stores, feeds)
}

impl Stores {
    /// Waits until every cache has had its first list. `waiting` is told, whenever it changes, for which one.
    ///
    /// # Errors
    ///
    /// When a cache's feed has ended.
    pub async fn synced(&self, waiting: impl Fn(&str)) -> Result<(), Error> {
        for (kind, ready) in self.readiness() {
            waiting(kind);
            ready.await?;
        }
        Ok(())
    }

    fn readiness(&self) -> Vec<Readiness<'_>> {
        fn ready<K>(store: &Store<K>) -> BoxFuture<'_, Result<(), Error>>
        where
            K: Lookup + Clone + Send + Sync + 'static,
            <K as Lookup>::DynamicType: Eq + std::hash::Hash + Clone + Send + Sync,
        {
            let listed = store.wait_until_ready();
            Box::pin(async { listed.await.map_err(|_| Error::Ended("a watch")) })
        }
        let mut all = vec![
            ("CustomResourceDefinition", ready(&self.zero_trust_definition)),
            ("CustomResourceDefinition", ready(&self.access_definition)),
            ("CustomResourceDefinition", ready(&self.external_definition)),
            ("ValidatingAdmissionPolicy", ready(&self.admission)),
            (
                "ValidatingAdmissionPolicyBinding",
                ready(&self.admission_bindings),
            ),
            ("ZeroTrustNamespace", ready(&self.zero_trust)),
            ("ServiceAccess", ready(&self.accesses)),
            ("ExternalAccess", ready(&self.externals)),
            ("ServiceCIDR", ready(&self.service_cidrs)),
            ("Namespace", ready(&self.namespaces)),
            ("NetworkPolicy", ready(&self.policies)),
            ("Service", ready(&self.services)),
            ("Pod", ready(&self.pods)),
        ];
        all.extend(self.sources.readiness());
        all
    }
}

#[cfg(test)]
impl Feeds {
    pub(crate) fn zero_trust_mut(&mut self) -> &mut Writer<ZeroTrustNamespace> {
        &mut self.zero_trust
    }

    pub(crate) fn services_mut(&mut self) -> &mut Writer<Service> {
        &mut self.services
    }

    pub(crate) fn accesses_mut(&mut self) -> &mut Writer<ServiceAccess> {
        &mut self.accesses
    }

    pub(crate) fn externals_mut(&mut self) -> &mut Writer<ExternalAccess> {
        &mut self.externals
    }
}

impl Feeds {
    /// Watches everything and tells `triggers` of every change, until it is dropped.
    ///
    /// # Errors
    ///
    /// When a watch ends, which none ever does.
    pub async fn run(
        self,
        client: Client,
        triggers: Arc<Triggers>,
        metrics: OperatorMetrics,
    ) -> Result<(), Error> {
        let sink = Sink { triggers, metrics };
        let watch_definition = |name| watcher(Api::<Definition>::all(client.clone()), named(name));
        let mut feeds: Vec<BoxFuture<'_, Result<(), Error>>> = vec![
            Box::pin(sink.feed(
                watch_definition(ZERO_TRUST_DEFINITION),
                self.zero_trust_definition,
                keep,
            )),
            Box::pin(sink.feed(watch_definition(ACCESS_DEFINITION), self.access_definition, keep)),
            Box::pin(sink.feed(
                watch_definition(EXTERNAL_DEFINITION),
                self.external_definition,
                keep,
            )),
            Box::pin(sink.feed(every(&client), self.externals, forget_managers)),
            Box::pin(sink.feed(every(&client), self.service_cidrs, forget_managers)),
            Box::pin(sink.feed(every(&client), self.zero_trust, forget_managers)),
            Box::pin(sink.feed(every(&client), self.accesses, forget_managers)),
            Box::pin(sink.feed(every(&client), self.namespaces, forget_managers)),
            // Ownership is judged by who manages a policy, so here the managers stay.
            Box::pin(sink.feed(every(&client), self.policies, keep)),
            Box::pin(sink.feed(every(&client), self.services, forget_managers)),
            Box::pin(sink.feed(part_of_ringfence(&client), self.admission, forget_managers)),
            Box::pin(sink.feed(
                part_of_ringfence(&client),
                self.admission_bindings,
                forget_managers,
            )),
            Box::pin(sink.feed(every(&client), self.pods, trim_pod)),
        ];
        feeds.extend(self.sources.run(&sink, &client));
        try_join_all(feeds).await.map(|_| ())
    }
}

/// A watch on every object of a kind.
fn every<K>(
    client: &Client,
) -> impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(Api::all(client.clone()), watcher::Config::default())
}

/// A watch on the objects of a kind that carry the label of all of Ringfence's own objects.
fn part_of_ringfence<K>(
    client: &Client,
) -> impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let ours = watcher::Config::default().labels("app.kubernetes.io/part-of=ringfence");
    watcher(Api::all(client.clone()), ours)
}

/// What watches one object only.
pub(crate) fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// Tells and counts that a watch failed and is started again.
pub(crate) fn watch_failed<K: Resource<DynamicType = ()>>(metrics: &OperatorMetrics, error: &watcher::Error) {
    let kind = K::kind(&()).into_owned();
    let cause = watch_message(error);
    tracing::warn!(kind, cause, "a watch failed and is started again");
    metrics.watch_failed(kind_name(&kind));
}

/// Where changes go.
pub(crate) struct Sink {
    triggers: Arc<Triggers>,
    metrics: OperatorMetrics,
}

impl Sink {
    /// Fills a cache from a watch, and tells of every change.
    pub(crate) async fn feed<K>(
        &self,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
        mut writer: Writer<K>,
        trim: fn(&mut K),
    ) -> Result<(), Error>
    where
        K: Lookup + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        <K as Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone,
        Change: From<Versions<K>>,
    {
        let store = writer.as_reader();
        let mut events = pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event.modify(trim),
                Err(error) => {
                    self.failed::<K>(&error);
                    continue;
                }
            };
            let change = self.step(&mut writer, &store, &event);
            if let Some(change) = change {
                self.changed(&change);
            }
        }
        Err(Error::Ended("a watch"))
    }

    /// Tells of a change.
    pub(crate) fn changed(&self, change: &Change) {
        self.triggers.changed(change);
    }

    /// Tells of a watch that failed and is started again.
    pub(crate) fn failed<K: Resource<DynamicType = ()>>(&self, error: &watcher::Error) {
        watch_failed::<K>(&self.metrics, error);
    }

    /// Enters an event into the cache. What it changes there, if that is known object by object.
    pub(crate) fn step<K>(
        &self,
        writer: &mut Writer<K>,
        store: &Store<K>,
        event: &watcher::Event<K>,
    ) -> Option<Change>
    where
        K: Lookup + Clone + 'static,
        <K as Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone,
        Change: From<Versions<K>>,
    {
        let key = match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => ObjectRef::from_obj(object),
            watcher::Event::InitDone => {
                writer.apply_watcher_event(event);
                // What went away while the watch was broken is not told: look at everything again.
                return Some(Change::Relisted);
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {
                writer.apply_watcher_event(event);
                return None;
            }
        };
        let old = store.get(&key);
        writer.apply_watcher_event(event);
        Some(
            Versions {
                old,
                new: store.get(&key),
            }
            .into(),
        )
    }
}

/// An object before and after a change. `None` where there is none.
#[derive(Clone, Debug)]
pub struct Versions<K> {
    /// Before.
    pub old: Option<Arc<K>>,
    /// After.
    pub new: Option<Arc<K>>,
}

/// A kind's name, for labels that live as long as the program.
fn kind_name(kind: &str) -> &'static str {
    const KINDS: [&str; 13] = [
        "CustomResourceDefinition",
        "ExternalAccess",
        "Lease",
        "Namespace",
        "NetworkPolicy",
        "NodeEnforcement",
        "Pod",
        "Service",
        "ServiceAccess",
        "ServiceCIDR",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ZeroTrustNamespace",
    ];
    KINDS
        .into_iter()
        .chain(kind_names())
        .find(|name| *name == kind)
        .unwrap_or("other")
}

fn keep<K>(_: &mut K) {}

pub(crate) fn forget_managers<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Asks the API server itself for the policies of one namespace.
///
/// # Errors
///
/// When it does not answer.
pub fn list_policies(
    client: &Client,
    namespace: &str,
) -> impl Future<Output = Result<Vec<NetworkPolicy>, Error>> + use<> {
    let api = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
    let what = format!("list NetworkPolicies of namespace {namespace}");
    async move {
        let list = api.list(&kube::api::ListParams::default()).await;
        list.map(|list| list.items)
            .map_err(|error| Error::api(what, &error))
    }
}
