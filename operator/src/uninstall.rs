//! Taking everything back: every namespace is opened in order, and the generated policies are deleted.
//!
//! Deleting Ringfence's own objects does not need this: the garbage collector takes the policies away. It is for opening
//! namespaces *in order* while keeping what users wrote, and for clusters whose operator is gone for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use ringfence_crd::{
    AuditNetworkPolicy, ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace,
};
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{Limits, connect};
use ringfence_telemetry::shutdown;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, Owed};
use crate::args::UninstallArgs;
use crate::controller::{anchor_of, enter};
use crate::error::{Error, Refusal};
use crate::foreign::StagedKubernetesNetworkPolicy;
use crate::form::Kind;
use crate::generate::Generated;
use crate::leader::{Election, Timing};
use crate::metrics::OperatorMetrics;
use crate::stores::{Definition, ZERO_TRUST_DEFINITION};
use crate::transition::{plan, plan_staged, plan_trials};
use crate::view::ClusterView;

/// How often a namespace that changes under our hands is planned anew.
const ATTEMPTS: u32 = 10;

/// Opens every namespace and says on standard output what was done.
///
/// # Errors
///
/// When an operator is running, or the API server refuses something.
pub async fn main(args: &UninstallArgs) -> Result<(), Error> {
    args.log.init()?;
    let token = shutdown::on_signals().map_err(Error::Signals)?;
    let client = connect(&args.api, Limits::default(), &ApiRequests::default()).await?;
    let lease = &args.lease;
    let (namespace, name) = (lease.lease_namespace.as_str(), lease.lease_name.as_str());
    let identity = format!("uninstall_{}", lease.unique_identity());
    let mut election = Election::new(client.clone(), namespace, name, identity, Timing::default());
    let limit = CancellationToken::new();
    let acquired = tokio::select! {
        () = token.cancelled() => return Ok(()),
        () = sleep(args.wait) => false,
        acquired = election.acquire(&limit) => acquired,
    };
    if !acquired {
        return Err(Error::Busy(format!(
            "a running operator holds the Lease {namespace}/{name} and would write everything again: scale it to zero first \
             (kubectl -n {namespace} scale deployment ringfence-operator --replicas=0)"
        )));
    }
    let fence = election.fence();
    let result = tokio::select! {
        result = uninstall(&client, fence) => result,
        lost = election.keep(&token) => match lost {
            Ok(()) => Err(Error::Busy("interrupted: what is left can be opened by running this again".to_owned())),
            Err(error) => Err(error.into()),
        },
    };
    election.release().await;
    for (namespace, policies) in result? {
        println!("namespace {namespace} is open again: {policies} generated policies deleted");
    }
    Ok(())
}

/// Opens every namespace with policies of ours. How many policies were deleted, by namespace.
///
/// # Errors
///
/// When the API server refuses something; namespaces after the first that failed are still opened.
pub async fn uninstall(
    client: &Client,
    fence: crate::leader::Fence,
) -> Result<BTreeMap<String, usize>, Error> {
    let applier = Applier::new(client.clone(), fence, OperatorMetrics::default(), Owed::default());
    let (mut opened, mut failure) = (BTreeMap::new(), None);
    let view = read(client).await?;
    let staged = view.staged.iter().flat_map(|staged| staged.keys());
    let namespaces: BTreeSet<&String> = view
        .policies
        .keys()
        .chain(view.trials.keys())
        .chain(staged)
        .collect();
    for namespace in namespaces {
        match open(client, &applier, &view, namespace).await {
            Ok(0) => {}
            Ok(deleted) => {
                opened.insert(namespace.clone(), deleted);
            }
            Err(error) => {
                tracing::error!(namespace, %error, "could not be opened");
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(opened), Err)
}

/// Opens one namespace, planning anew when something changes meanwhile. How many policies are gone.
async fn open(
    client: &Client,
    applier: &Applier,
    view: &ClusterView,
    namespace: &str,
) -> Result<usize, Error> {
    let mut view = view.clone();
    let mut deleted = 0;
    for (kind, steps) in [
        (
            Kind::Trial,
            plan_trials(&view, namespace, &Generated::default()).last,
        ),
        (
            Kind::Staged,
            plan_staged(&view, namespace, &Generated::default()).last,
        ),
    ] {
        let outcome = applier.execute(kind, namespace, steps).await;
        deleted += outcome.answers.len();
        if let Some(failed) = outcome.failure {
            return Err(failed.error);
        }
    }
    for attempt in 1.. {
        // Without generated policies the plan is the way to an open namespace.
        let steps = plan(&view, namespace, &Generated::default()).steps;
        if steps.is_empty() {
            break;
        }
        let outcome = applier.execute(Kind::Policy, namespace, steps).await;
        deleted += outcome.answers.values().filter(|answer| answer.is_none()).count();
        enter(&mut view.policies, namespace, &outcome.answers);
        match outcome.failure {
            None => {}
            Some(failed) if failed.error.is_conflict() && attempt < ATTEMPTS => {
                sleep(Duration::from_millis(100) * attempt).await;
                let policies = crate::stores::list_policies(client, Kind::Policy, namespace).await?;
                view.policies
                    .insert(namespace.to_owned(), policies.into_iter().map(Arc::new).collect());
            }
            Some(failed) => return Err(failed.error),
        }
    }
    Ok(deleted)
}

/// Reads what plans depend on. Every ZeroTrustNamespace, and the ZeroTrustBaseline, is taken to be on its way out.
async fn read(client: &Client) -> Result<ClusterView, Error> {
    let mut view = ClusterView::default();
    let definitions = Api::<Definition>::all(client.clone());
    let definition = definitions
        .get_opt(ZERO_TRUST_DEFINITION)
        .await
        .map_err(|error| {
            Error::api(
                format!("read CustomResourceDefinition {ZERO_TRUST_DEFINITION}"),
                &error,
            )
        })?;
    view.anchor = definition.as_ref().and_then(anchor_of);
    list::<Namespace>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_namespace(object));
    list::<NetworkPolicy>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_policy(object));
    add_trials(client, &mut view).await?;
    for baseline in list::<ZeroTrustBaseline>(client).await? {
        let mut leaving = baseline.as_ref().clone();
        leaving
            .metadata
            .deletion_timestamp
            .get_or_insert(Time(Timestamp::now()));
        view.insert_baseline(Arc::new(leaving));
    }
    list::<k8s_openapi::api::core::v1::Pod>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_pod(object));
    list::<ServiceAccess>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_access(object));
    list::<ExternalAccess>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_external(object));
    for resource in list::<ZeroTrustNamespace>(client).await? {
        let mut leaving = resource.as_ref().clone();
        leaving
            .metadata
            .deletion_timestamp
            .get_or_insert(Time(Timestamp::now()));
        view.insert_zero_trust(Arc::new(leaving));
    }
    Ok(view)
}

/// Adds policies on trial, of both kinds.
async fn add_trials(client: &Client, view: &mut ClusterView) -> Result<(), Error> {
    list::<AuditNetworkPolicy>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_trial(Arc::new(object.as_policy())));
    list::<StagedKubernetesNetworkPolicy>(client)
        .await?
        .into_iter()
        .for_each(|object| view.insert_staged(Arc::new(object.as_policy())));
    Ok(())
}

/// Every object of a kind; none if the kind itself is not there.
async fn list<K>(client: &Client) -> Result<Vec<Arc<K>>, Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items.into_iter().map(Arc::new).collect()),
        Err(error) if Refusal::of(&error) == Refusal::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::api(format!("list {} objects", K::kind(&())), &error)),
    }
}
