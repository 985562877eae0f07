//! What is watched: the caches every decision is made from.

mod mirror;
mod sink;
mod trim;

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, Store, store::Writer};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::{
    AuditNetworkPolicy, ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::foreign::StagedKubernetesNetworkPolicy;
use crate::form::{Form, Kind};
use crate::metrics::OperatorMetrics;
use crate::probe;
use crate::reports::Reports;
use crate::sources::{Readiness, SourceFeeds, Sources, sources};
use crate::triggers::Triggers;
use trim::trim_pod;

pub use mirror::{Mirror, Mirrored};
pub use sink::Versions;
pub(crate) use sink::{Sink, watch_failed};

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
    /// NetworkPolicies of any origin, whole but for what each of their managers manages.
    pub policies: Store<NetworkPolicy>,
    /// AuditNetworkPolicies of any origin, the same.
    pub trials: Store<AuditNetworkPolicy>,
    /// ZeroTrustNamespaces.
    pub zero_trust: Store<ZeroTrustNamespace>,
    /// ZeroTrustBaselines: one counts.
    pub baselines: Store<ZeroTrustBaseline>,
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
    /// The EnforcementProbe.
    pub probe: probe::Known,
    /// What openings are derived from.
    pub sources: Sources,
    /// What all of them hold together.
    pub mirror: Arc<Mirror>,
}

/// The writing ends of [`Stores`], to be run by [`Feeds::run`].
pub struct Feeds {
    namespaces: Writer<Namespace>,
    pods: Writer<Pod>,
    services: Writer<Service>,
    policies: Writer<NetworkPolicy>,
    trials: Writer<AuditNetworkPolicy>,
    zero_trust: Writer<ZeroTrustNamespace>,
    baselines: Writer<ZeroTrustBaseline>,
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
    let (trials, feed_trials) = reflector::store();
    let (zero_trust, feed_zero_trust) = reflector::store();
    let (baselines, feed_baselines) = reflector::store();
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
        trials,
        zero_trust,
        baselines,
        accesses,
        externals,
        service_cidrs,
        zero_trust_definition,
        access_definition,
        external_definition,
        admission,
        admission_bindings,
        reports: Reports::default(),
        probe: probe::Known::default(),
        sources,
        mirror: Arc::default(),
    };
    let feeds = Feeds {
        namespaces: feed_namespaces,
        pods: feed_pods,
        services: feed_services,
        policies: feed_policies,
        trials: feed_trials,
        zero_trust: feed_zero_trust,
        baselines: feed_baselines,
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
            ("ZeroTrustBaseline", ready(&self.baselines)),
            ("AuditNetworkPolicy", ready(&self.trials)),
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

impl Feeds {
    /// Watches everything and tells `triggers` of every change, until it is dropped.
    ///
    /// # Errors
    ///
    /// When a watch ends, which none ever does.
    pub async fn run(
        self,
        client: Client,
        mirror: Arc<Mirror>,
        triggers: Arc<Triggers>,
        metrics: OperatorMetrics,
    ) -> Result<(), Error> {
        let sink = Sink::new(mirror, triggers, metrics);
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
            Box::pin(sink.feed(every(&client), self.policies, keep_managers)),
            Box::pin(sink.feed(every(&client), self.trials, keep_managers)),
            Box::pin(sink.feed(every(&client), self.baselines, forget_managers)),
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

pub(crate) fn keep<K>(_: &mut K) {}

/// Leaves of the managers who they are. What each of them manages is most of what a policy takes in memory.
pub(crate) fn keep_managers<K: Resource>(object: &mut K) {
    for entry in object.managed_fields_mut() {
        entry.fields_v1 = None;
    }
}

pub(crate) fn forget_managers<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Asks the API server itself for the policies of one namespace that are written as this kind.
///
/// # Errors
///
/// When it does not answer.
pub async fn list_policies(
    client: &Client,
    kind: Kind,
    namespace: &str,
) -> Result<Vec<NetworkPolicy>, Error> {
    match kind {
        Kind::Policy => list_in::<NetworkPolicy>(client, namespace).await,
        Kind::Trial => list_in::<AuditNetworkPolicy>(client, namespace).await,
        Kind::Staged => list_in::<StagedKubernetesNetworkPolicy>(client, namespace).await,
    }
}

async fn list_in<K: Form>(client: &Client, namespace: &str) -> Result<Vec<NetworkPolicy>, Error> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let list = api.list(&kube::api::ListParams::default()).await;
    let what = format!("list {} objects of namespace {namespace}", K::kind(&()));
    let list = list.map_err(|error| Error::api(what, &error))?;
    Ok(list.items.into_iter().map(K::into_policy).collect())
}
