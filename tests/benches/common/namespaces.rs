//! Many namespaces that deny everything, with their pods and Services, and grants between them.

use std::time::Instant;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use serde_json::{Value, json};

use super::api::{create, each};

/// Pods of a namespace.
pub(crate) const PODS: usize = 10;
/// Services of a namespace, and grants.
pub(crate) const SERVICES: usize = 5;

/// Pods of a node that does not exist.
const PODS_PER_NODE: usize = 100;

/// Policies that are generated for a namespace: two denials, DNS, and for each grant ingress and egress.
pub(crate) const POLICIES: usize = 3 + 2 * SERVICES;

/// The name of a namespace.
pub(crate) fn name(number: usize) -> String {
    format!("load-{number}")
}

/// So many namespaces with everything in them.
pub(crate) async fn fill(client: &Client, namespaces: usize) -> Result<()> {
    let all: Api<Namespace> = Api::all(client.clone());
    create(namespaces, |number| {
        (all.clone(), json!({"metadata": {"name": name(number)}}))
    })
    .await?;
    // Where pods are admitted with their ServiceAccounts, these have to be there.
    let accounts = |number: usize| Api::<ServiceAccount>::namespaced(client.clone(), &name(number));
    create(namespaces, |number| {
        (accounts(number), json!({"metadata": {"name": "app"}}))
    })
    .await?;
    let dns = json!({"selector": {"k8s-app": "kube-dns"}, "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 1053},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 1053},
    ]});
    let system: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    create(1, |_| {
        (
            system.clone(),
            json!({"metadata": {"name": "kube-dns"}, "spec": dns}),
        )
    })
    .await?;
    create(namespaces * SERVICES, |number| {
        let (namespace, service) = (number / SERVICES, number % SERVICES);
        (
            Api::<Service>::namespaced(client.clone(), &name(namespace)),
            self::service(service),
        )
    })
    .await?;
    pods(client, namespaces).await?;
    create(namespaces * SERVICES, |number| {
        let (namespace, service) = (number / SERVICES, number % SERVICES);
        let api = Api::<ServiceAccess>::namespaced(client.clone(), &name(namespace));
        (api, access(namespace, service, namespaces))
    })
    .await?;
    create(namespaces, |number| {
        let api = Api::<ZeroTrustNamespace>::namespaced(client.clone(), &name(number));
        (api, zero_trust(number, namespaces))
    })
    .await
}

/// Their pods, which run as far as anybody can tell.
async fn pods(client: &Client, namespaces: usize) -> Result<()> {
    let pods = |number: usize| Api::<Pod>::namespaced(client.clone(), &name(number / PODS));
    create(namespaces * PODS, |number| (pods(number), pod(number))).await?;
    each(namespaces * PODS, |number| {
        let api = pods(number);
        async move {
            let ip = format!(
                "10.{}.{}.{}",
                100 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            );
            let running = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
            let patch = Patch::Merge(running);
            let pod = format!("pod-{}", number % PODS);
            api.patch_status(&pod, &PatchParams::default(), &patch).await?;
            Ok(())
        }
    })
    .await
}

/// The nodes of their pods, which nobody schedules to, so that no controller takes the pods for orphans.
pub(crate) async fn nodes(client: &Client, namespaces: usize) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    create((namespaces * PODS).div_ceil(PODS_PER_NODE), |number| {
        let spec = json!({"unschedulable": true});
        (
            nodes.clone(),
            json!({"metadata": {"name": format!("load-{number}")}, "spec": spec}),
        )
    })
    .await
}

/// How many NetworkPolicies the API server writes in a second when nobody thinks about them.
pub(crate) async fn pace(client: &Client, namespaces: usize) -> Result<f64> {
    let count = (namespaces * 2).clamp(100, 2000);
    let api = |number: usize| Api::<NetworkPolicy>::namespaced(client.clone(), &name(number % namespaces));
    let started = Instant::now();
    create(count, |number| {
        let spec =
            json!({"podSelector": {"matchLabels": {"pace": number.to_string()}}, "policyTypes": ["Ingress"]});
        (
            api(number),
            json!({"metadata": {"name": format!("pace-{number}")}, "spec": spec}),
        )
    })
    .await?;
    let took = started.elapsed().as_secs_f64();
    each(namespaces.min(count), |number| {
        let api = api(number);
        async move {
            let all = (DeleteParams::default(), ListParams::default());
            api.delete_collection(&all.0, &all.1)
                .await
                .context("delete what was written")?;
            Ok(())
        }
    })
    .await?;
    Ok(f64::from(u32::try_from(count)?) / took)
}

fn service(number: usize) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    json!({
        "metadata": {"name": format!("app-{number}")},
        "spec": {"selector": {"app": format!("app-{number}")}, "ports": ports},
    })
}

fn pod(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("pod-{}", number % PODS), "labels": {"app": format!("app-{}", number % SERVICES)}},
        "spec": {
            "nodeName": format!("load-{}", number / PODS_PER_NODE),
            // Its node never says that it lives.
            "tolerations": [{"operator": "Exists"}],
            "serviceAccountName": "app",
            "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    })
}

fn zero_trust(number: usize, namespaces: usize) -> Value {
    // The next one's grant names this one as a client.
    let next = name((number + 1) % namespaces);
    json!({
        "metadata": {"name": "default"},
        "spec": {"mode": "Enforce", "acceptEgressFrom": [{"namespace": next}]},
    })
}

/// The grants of a namespace: to its own pods, to those of a ServiceAccount, and one to another namespace.
fn access(namespace: usize, service: usize, namespaces: usize) -> Value {
    let own = json!({"podSelector": {"matchLabels": {"app": format!("app-{}", (service + 1) % SERVICES)}}});
    let client = match service {
        0 => {
            json!({"namespace": name((namespace + namespaces - 1) % namespaces), "podSelector": {"matchLabels": {"app": "app-1"}}})
        }
        1 => json!({"serviceAccount": "app"}),
        _ => own,
    };
    let target = format!("app-{service}");
    json!({"metadata": {"name": target}, "spec": {"targetRef": {"name": target}, "clients": [client]}})
}
