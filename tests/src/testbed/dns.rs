//! The cluster's DNS: CoreDNS as everybody runs it.

use std::net::IpAddr;

use super::images::COREDNS_IMAGE;

const MANIFEST: &str = include_str!("../../testbed/coredns.yaml");

/// The manifests of CoreDNS for a cluster whose DNS Service has address `dns_ip`. `api` is the API server's own
/// address where no kube-proxy makes its Service reachable.
pub(crate) fn manifest(dns_ip: IpAddr, api: Option<IpAddr>) -> String {
    let env = match api {
        None => "[]".to_owned(),
        Some(ip) => format!(
            r#"[{{name: KUBERNETES_SERVICE_HOST, value: "{ip}"}}, {{name: KUBERNETES_SERVICE_PORT, value: "6443"}}]"#
        ),
    };
    MANIFEST
        .replace("@IMAGE@", COREDNS_IMAGE)
        .replace("@DNS_IP@", &dns_ip.to_string())
        .replace("@ENV@", &env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left() {
        for api in [None, Some(IpAddr::from([172, 30, 0, 2]))] {
            assert!(!manifest(IpAddr::from([10, 96, 0, 10]), api).contains('@'));
        }
    }
}
