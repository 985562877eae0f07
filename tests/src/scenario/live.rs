//! The cluster's objects, as the policy engine sees them.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use ringfence_policy::{EndpointSlice, Namespace, Node, Pod, Policy, Service, World};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kube_objects::get;
use crate::testbed::Cluster;

const KINDS: &str = "namespaces,nodes,pods,networkpolicies,services,endpointslices";

/// Reads everything that decides about traffic.
///
/// # Errors
/// When kubectl fails, or lists an object that the engine cannot read.
pub fn read_world(cluster: &Cluster) -> Result<World> {
    let list = get(cluster, &[KINDS, "--all-namespaces"])?;
    let items = list["items"].as_array().context("kubectl printed no list")?;
    let mut world = World::default();
    for item in items {
        let kind = item["kind"].as_str().unwrap_or_default();
        insert(&mut world, kind, item)
            .with_context(|| format!("read {kind} {}", item["metadata"]["name"]))?;
    }
    Ok(world)
}

fn insert(world: &mut World, kind: &str, item: &Value) -> Result<()> {
    match kind {
        "Namespace" => world.insert_namespace(Namespace::from_api(&object::<core::Namespace>(item)?)),
        "Node" => world.insert_node(Node::from_api(&object::<core::Node>(item)?)),
        "Pod" => world.insert_pod(Pod::from_api(&object::<core::Pod>(item)?)),
        "NetworkPolicy" => {
            world.insert_policy(Policy::from_api(&object::<networking::NetworkPolicy>(item)?)?);
        }
        "Service" => world.insert_service(Service::from_api(&object::<core::Service>(item)?)),
        "EndpointSlice" => {
            // A slice that somebody keeps for no Service decides nothing.
            if let Some(slice) = EndpointSlice::from_api(&object::<discovery::EndpointSlice>(item)?) {
                world.insert_endpoint_slice(slice);
            }
        }
        other => anyhow::bail!("kubectl listed a {other}, which nobody asked for"),
    }
    Ok(())
}

fn object<T: DeserializeOwned>(item: &Value) -> Result<T> {
    serde_json::from_value(item.clone()).context("it is not of its kind's form")
}
