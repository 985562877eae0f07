//! An API server with the Ringfence kinds, and operators to run against it.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use ringfence_operator::generate::GeneratorConfig;
use ringfence_operator::leader::Timing;
use ringfence_operator::run::Operator;
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{Limits, client};
use ringfence_tests::source;
use ringfence_tests::testbed::ApiServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::names::Script;
use crate::running::Running;

/// How long anything may take that has no limit of its own. A loaded machine must not fail a test.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Long enough for a watch that failed again and again to be tried again, which it is within a minute.
pub(crate) const AGAIN: Duration = Duration::from_secs(90);

/// One runtime for all tests of this program: connections and operators live in it across tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// The lab that tests share which only need an operator at work: each has a namespace of its own.
static SHARED: LazyLock<(Lab, Running)> = LazyLock::new(|| {
    let lab = Lab::start();
    let running = lab.operator("shared");
    (lab, running)
});

/// Runs a test on the common runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// The shared lab, with its operator at work.
pub(crate) fn shared() -> &'static Lab {
    &SHARED.0
}

/// An API server that knows the Ringfence kinds and has a cluster DNS Service.
pub(crate) struct Lab {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) config: Config,
}

impl Lab {
    pub(crate) fn start() -> Self {
        let server = ApiServer::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in ringfence_crd::generate() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        server.define(folder.path()).unwrap();
        apply(&server, "config/admission");
        let config = block_on(config(&server));
        let client =
            block_on(async { client(config.clone(), Limits::default(), &ApiRequests::default()).unwrap() });
        let lab = Self {
            server,
            client,
            config,
        };
        block_on(async {
            lab.namespace("ringfence-system").await;
            let dns = json!({"selector": {"k8s-app": "kube-dns"}, "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 1053},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 1053},
            ]});
            lab.service("kube-system", "kube-dns", dns).await;
        });
        lab
    }

    /// An operator at work or standing by. It stops at once, as in a crash, when it is dropped.
    pub(crate) fn operator(&self, identity: &str) -> Running {
        self.operator_with(identity, Timing::default())
    }

    pub(crate) fn operator_with(&self, identity: &str, timing: Timing) -> Running {
        self.operator_by(identity, timing, "ringfence-operator")
    }

    /// An operator that is elected by a Lease of this name.
    pub(crate) fn operator_by(&self, identity: &str, timing: Timing, lease: &str) -> Running {
        Self::operator_through(self.config.clone(), identity, timing, lease)
    }

    /// An operator that talks to the API server as this configuration says.
    pub(crate) fn operator_through(config: Config, identity: &str, timing: Timing, lease: &str) -> Running {
        let requests = ApiRequests::default();
        // A client has a task of its own.
        let _runtime = RUNTIME.enter();
        let client = client(config, Limits::default(), &requests).unwrap();
        Self::operator_of((client, requests), identity, timing, lease)
    }

    /// An operator with this client, whose requests are counted there.
    pub(crate) fn operator_of(
        (client, requests): (Client, ApiRequests),
        identity: &str,
        timing: Timing,
        lease: &str,
    ) -> Running {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (shutdown, identity) = (CancellationToken::new(), identity.to_owned());
        let (stop, lease) = (shutdown.clone(), lease.to_owned());
        let task = RUNTIME.spawn(async move {
            let operator = Operator {
                client,
                requests,
                generator: GeneratorConfig::default(),
                resolver: Arc::new(Script),
                dns: crate::names::LIMITS,
                probe: crate::probe::SETTINGS.clone(),
                http_address: address,
                workers: 4,
                lease: ("ringfence-system".to_owned(), lease),
                identity,
                timing,
            };
            operator.run(stop).await
        });
        Running {
            address,
            shutdown,
            task,
        }
    }

    pub(crate) async fn namespace(&self, name: &str) {
        self.create::<k8s_openapi::api::core::v1::Namespace>(None, json!({"metadata": {"name": name}}))
            .await;
    }

    pub(crate) async fn service(&self, namespace: &str, name: &str, spec: Value) {
        let service = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        self.create::<k8s_openapi::api::core::v1::Service>(Some(namespace), service)
            .await;
    }

    pub(crate) async fn zero_trust(&self, namespace: &str) -> ZeroTrustNamespace {
        let resource = json!({"metadata": {"name": "default"}, "spec": {"mode": "Enforce"}});
        self.create(Some(namespace), resource).await
    }

    pub(crate) async fn access(&self, namespace: &str, service: &str, clients: Value) -> ServiceAccess {
        let spec = json!({"targetRef": {"name": service}, "clients": clients});
        self.create(
            Some(namespace),
            json!({"metadata": {"name": service}, "spec": spec}),
        )
        .await
    }

    /// A Service of the `api` pods, port 80 on 8080.
    pub(crate) async fn http_service(&self, namespace: &str, name: &str) {
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        let spec = json!({"selector": {"app": "api"}, "ports": ports});
        self.service(namespace, name, spec).await;
    }

    /// A namespace whose `api` Service, port 80 on 8080, the `web` pods may call.
    pub(crate) async fn shop(&self, namespace: &str) {
        self.namespace(namespace).await;
        self.http_service(namespace, "api").await;
        self.zero_trust(namespace).await;
        self.access(
            namespace,
            "api",
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
        )
        .await;
    }

    /// Waits for a shop's good statuses; the names of its policies.
    pub(crate) async fn shop_is_ready(&self, namespace: &str) -> Vec<String> {
        self.says::<ZeroTrustNamespace>(namespace, "default", "Ready", "True/AsExpected")
            .await;
        self.says::<ServiceAccess>(namespace, "api", "Ready", "True/AsExpected")
            .await;
        self.names(namespace).await
    }

    /// Waits until an object's condition is as wanted: `status/reason`, or the beginning of that.
    pub(crate) async fn says<K>(&self, namespace: &str, name: &str, kind: &str, wanted: &str)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        let api = self.api::<K>(namespace);
        until(
            &format!("{kind} of {} {namespace}/{name} to be {wanted}", K::kind(&())),
            LIMIT,
            async || {
                let object = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
                let conditions = &object["status"]["conditions"];
                if condition(conditions, kind).starts_with(wanted) {
                    Ok(())
                } else {
                    Err(conditions.to_string())
                }
            },
        )
        .await;
    }

    /// Waits until the names of a namespace's policies are as wanted.
    pub(crate) async fn policies_are(&self, namespace: &str, what: &str, wanted: impl Fn(&[String]) -> bool) {
        until(
            &format!("the policies of {namespace} to be {what}"),
            LIMIT,
            async || {
                let names = self.names(namespace).await;
                if wanted(&names) {
                    Ok(())
                } else {
                    Err(format!("{names:?}"))
                }
            },
        )
        .await;
    }

    /// The names of a namespace's policies, in their order.
    pub(crate) async fn names(&self, namespace: &str) -> Vec<String> {
        self.policies(namespace)
            .await
            .iter()
            .map(ResourceExt::name_any)
            .collect()
    }

    pub(crate) async fn policies(&self, namespace: &str) -> Vec<NetworkPolicy> {
        self.api::<NetworkPolicy>(namespace)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    /// The one policy whose name begins so.
    pub(crate) async fn policy(&self, namespace: &str, beginning: &str) -> NetworkPolicy {
        let policies = self.policies(namespace).await;
        let found: Vec<_> = policies
            .into_iter()
            .filter(|policy| policy.name_any().starts_with(beginning))
            .collect();
        assert_eq!(
            found.len(),
            1,
            "policies of {namespace} that begin with {beginning}: {found:?}"
        );
        found.into_iter().next().unwrap()
    }

    /// Edits an object as a user with kubectl would.
    pub(crate) async fn patch<K>(&self, namespace: &str, name: &str, patch: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        self.api::<K>(namespace)
            .patch(name, &params, &Patch::Merge(&patch))
            .await
            .unwrap()
    }

    /// Notes of the Events with this reason about objects of a namespace.
    pub(crate) async fn events(&self, namespace: &str, reason: &str) -> Vec<String> {
        let events = self
            .api::<Event>(namespace)
            .list(&ListParams::default())
            .await
            .unwrap();
        let fitting = events
            .items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason));
        fitting.filter_map(|event| event.note).collect()
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn create<K>(&self, namespace: Option<&str>, object: Value) -> K
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let mut object = object;
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        let params = PostParams {
            field_manager: Some("kubectl-create".to_owned()),
            ..PostParams::default()
        };
        let body = serde_json::to_vec(&object).unwrap();
        let request = kube::core::Request::new(K::url_path(&(), namespace))
            .create(&params, body)
            .unwrap();
        self.client.request(request).await.unwrap()
    }
}

/// Asks until there is an answer; what was wrong last is in the panic.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if start.elapsed() > limit => panic!("waited {limit:?} for {what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `status/reason` of a condition.
pub(crate) fn condition(conditions: &Value, kind: &str) -> String {
    let found = conditions
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    found.map_or("absent".to_owned(), |found| {
        format!("{}/{}", text(found, "status"), text(found, "reason"))
    })
}

/// Applies a folder of the source tree.
pub(crate) fn apply(server: &ApiServer, folder: &str) {
    let applied = server
        .kubectl(["apply", "-k", &source::path(folder)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&applied.stderr);
    assert!(applied.status.success(), "{folder}: {said}");
}

async fn config(server: &ApiServer) -> Config {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
