//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler: their flags, and starting them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::paths::text;
use super::pki::{Identity, TokenKey};
use super::plan::{Plan, joined};

/// DNS names of the API server inside a cluster.
pub(crate) const API_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// What kube-apiserver needs to know.
pub(crate) struct ApiServerConfig {
    pub(crate) etcd: String,
    pub(crate) bind: IpAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) port: u16,
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) ca: PathBuf,
    pub(crate) serving: Identity,
    /// How it logs in to kubelets, where there are any.
    pub(crate) kubelet_client: Option<Identity>,
    pub(crate) token_key: TokenKey,
}

/// etcd on loopback. Nothing here needs to survive a power cut, so it does not wait for the disk.
pub(crate) fn etcd_args(data: &Path, client_port: u16, peer_port: u16) -> Vec<String> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client_port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    vec![
        format!("--data-dir={}", text(data)),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--quota-backend-bytes=4294967296".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// kube-apiserver. Node authorization and restriction are on, as in every real cluster.
pub(crate) fn apiserver_args(config: &ApiServerConfig) -> Vec<String> {
    let ca = text(&config.ca);
    let mut args = vec![
        format!("--etcd-servers={}", config.etcd),
        format!("--bind-address={}", config.bind),
        format!("--advertise-address={}", config.advertise),
        format!("--secure-port={}", config.port),
        format!("--service-cluster-ip-range={}", joined(&config.service_cidrs)),
        format!("--client-ca-file={ca}"),
        format!("--tls-cert-file={}", text(&config.serving.cert)),
        format!("--tls-private-key-file={}", text(&config.serving.key)),
        format!("--service-account-key-file={}", text(&config.token_key.public)),
        format!(
            "--service-account-signing-key-file={}",
            text(&config.token_key.private)
        ),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        // The control plane has no kube-proxy: webhooks and API services are reached by their pods' addresses.
        "--enable-aggregator-routing=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    if let Some(client) = &config.kubelet_client {
        args.extend([
            format!("--kubelet-certificate-authority={ca}"),
            format!("--kubelet-client-certificate={}", text(&client.cert)),
            format!("--kubelet-client-key={}", text(&client.key)),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]);
    }
    args
}

/// kube-controller-manager, every controller under its own ServiceAccount.
pub(crate) fn controller_manager_args(
    plan: &Plan,
    kubeconfig: &Path,
    ca: &Path,
    token_key: &Path,
) -> Vec<String> {
    let kubeconfig = text(kubeconfig);
    let mut args = vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--service-account-private-key-file={}", text(token_key)),
        format!("--root-ca-file={}", text(ca)),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", joined(&plan.cluster_cidrs)),
        format!("--service-cluster-ip-range={}", joined(&plan.service_cidrs)),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--profiling=false".to_owned(),
    ];
    args.extend(mask_sizes(plan));
    args
}

/// The pod CIDRs' prefix lengths, one flag per family in use.
fn mask_sizes(plan: &Plan) -> Vec<String> {
    let Some(node) = plan.nodes.first() else {
        return Vec::new();
    };
    let flag = |cidr: &IpNet| match cidr {
        IpNet::V4(net) => format!("--node-cidr-mask-size-ipv4={}", net.prefix_len()),
        IpNet::V6(net) => format!("--node-cidr-mask-size-ipv6={}", net.prefix_len()),
    };
    match &node.pod_cidrs[..] {
        // With one family the controller manager wants the flag without a suffix.
        [one] => vec![format!("--node-cidr-mask-size={}", one.prefix_len())],
        all => all.iter().map(flag).collect(),
    }
}

/// kube-scheduler.
pub(crate) fn scheduler_args(kubeconfig: &Path) -> Vec<String> {
    let kubeconfig = text(kubeconfig);
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// `https://ADDRESS:PORT`, with brackets where IPv6 wants them.
pub(crate) fn https(ip: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::super::options::{ClusterOptions, IpFamily};
    use super::*;

    fn masks(ip_family: IpFamily) -> Vec<String> {
        mask_sizes(&Plan::of(&ClusterOptions {
            ip_family,
            ..ClusterOptions::default()
        }))
    }

    #[test]
    fn each_family_gets_the_flags_it_takes() {
        assert_eq!(masks(IpFamily::Ipv6), ["--node-cidr-mask-size=64"]);
        assert_eq!(
            masks(IpFamily::Dual),
            ["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"]
        );
    }

    #[test]
    fn ipv6_addresses_are_bracketed_in_urls() {
        assert_eq!(
            https("fd00::2".parse().unwrap_or(IpAddr::from([0; 16])), 6443),
            "https://[fd00::2]:6443"
        );
    }
}
