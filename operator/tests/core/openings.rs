//! Who is let in and out, case by case: peers, consent, monitoring and DNS.

use kube::ResourceExt;
use ringfence_operator::generate::{Problem, touched};
use ringfence_operator::names::ARGO_SYNC_ANNOTATION;
use ringfence_policy::ObjectKey;
use serde_json::json;

use crate::cluster::{generated, insert};
use crate::generate::{home, problems, spec};

#[test]
fn peers_mean_what_they_say() {
    let cases = [
        (
            json!({"podSelector": {"matchLabels": {"a": "b"}}}),
            json!({"podSelector": {"matchLabels": {"a": "b"}}}),
        ),
        (json!({"podSelector": {}}), json!({"podSelector": {}})),
        (json!({"namespace": "home"}), json!({"podSelector": {}})),
        (
            json!({"namespace": "away"}),
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "away"}}}),
        ),
        (
            json!({"namespace": "away", "podSelector": {"matchLabels": {"a": "b"}}}),
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "away"}}, "podSelector": {"matchLabels": {"a": "b"}}}),
        ),
        (
            json!({"namespaceSelector": {"matchLabels": {}}}),
            json!({"namespaceSelector": {}}),
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]}),
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}),
        ),
        (json!({"cidr": "::/0"}), json!({"ipBlock": {"cidr": "::/0"}})),
    ];
    for (client, wanted) in cases {
        let mut view = home("");
        insert(
            &mut view,
            json!({
                "kind": "ServiceAccess", "metadata": {"name": "api", "namespace": "home"},
                "spec": {"targetRef": {"name": "api"}, "clients": [client]},
            }),
        );
        let found = spec(&generated(&view, "home").policies, "access-ingress");
        assert_eq!(found[0]["ingress"][0]["from"], json!([wanted]), "{client}");
    }
}

#[test]
fn egress_in_the_clients_namespace_needs_its_consent() {
    let away = |more: &str| {
        home(&format!("
kind: ServiceAccess
metadata: {{name: far, namespace: home}}
spec: {{targetRef: {{name: api}}, ports: [http], clients: [{{namespace: away, podSelector: {{matchLabels: {{app: web}}}}}}]}}
---
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: away}}
spec: {{mode: Enforce, allow: {{dns: {{enabled: false}}}}{more}}}
"))
    };
    let refused = away("");
    assert_eq!(
        problems(&refused, "far"),
        [Problem::PendingConsent {
            namespace: "away".to_owned(),
            grantor: "home".to_owned(),
        }]
    );
    assert!(spec(&generated(&refused, "away").policies, "access-egress").is_empty());

    for consent in [
        "[{namespace: home}]",
        "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: home}}}]",
    ] {
        let granted = away(&format!(", acceptEgressFrom: {consent}"));
        assert_eq!(problems(&granted, "far"), []);
        let found = generated(&granted, "away").policies;
        assert_eq!(
            spec(&found, "access-egress"),
            [json!({
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "home"}},
                        "podSelector": {"matchLabels": {"app": "api"}},
                    }],
                    "ports": [{"port": 8080, "protocol": "TCP"}],
                }],
            })]
        );
        let policy = found
            .iter()
            .find(|policy| policy.name_any().contains("access-egress"))
            .unwrap();
        assert_eq!(
            policy.owner_references()[0].uid,
            "uid-ZeroTrustNamespace-away-default",
            "owned where it is"
        );
        assert_eq!(policy.annotations()[ARGO_SYNC_ANNOTATION], "Prune=false");
    }

    let open_egress = away(", defaultDeny: {ingress: true, egress: false}");
    assert_eq!(problems(&open_egress, "far"), [], "nothing to consent to");
}

#[test]
fn a_client_namespace_that_does_not_exist_is_said() {
    let view = home(
        "
kind: ServiceAccess
metadata: {name: far, namespace: home}
spec: {targetRef: {name: api}, clients: [{namespace: nowhere}]}
",
    );
    assert_eq!(
        problems(&view, "far"),
        [Problem::NamespaceNotFound {
            namespace: "nowhere".to_owned()
        }]
    );
    let found = spec(&generated(&view, "home").policies, "access-ingress");
    assert_eq!(found.len(), 2, "the grant waits for it");
}

#[test]
fn where_nothing_is_denied_nothing_is_generated() {
    let mut view = home("");
    view.zero_trust.clear();
    view.written.clear();
    assert_eq!(problems(&view, "api"), [Problem::NotNeeded]);
    assert_eq!(generated(&view, "home").policies, vec![]);
    assert_eq!(
        touched(&view, &view.accesses[&ObjectKey::new("home", "api")]).len(),
        0
    );
}

#[test]
fn only_denied_directions_have_policies() {
    for (denied, types) in [
        ("{ingress: true, egress: false}", "Ingress"),
        ("{ingress: false, egress: true}", "Egress"),
    ] {
        let mut cluster = home("");
        let object = format!(
            "
kind: ZeroTrustNamespace
metadata: {{name: default, namespace: home}}
spec:
  mode: Enforce
  defaultDeny: {denied}
  allow: {{sameNamespace: All, dns: {{enabled: false}}, monitoring: {{from: [{{podSelector: {{}}}}]}}}}
"
        );
        insert(&mut cluster, serde_yaml_ng::from_str(&object).unwrap());
        let policies = generated(&cluster, "home").policies;
        assert_eq!(
            policies.len(),
            4,
            "deny, same namespace, monitoring and the grant"
        );
        for policy in policies {
            let spec = policy.spec.unwrap();
            assert_eq!(spec.policy_types.as_deref().unwrap(), [types]);
        }
    }
}

#[test]
fn scrapers_get_egress_where_they_are_when_their_namespace_consents() {
    let view = home("
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce, allow: {monitoring: {from: [{namespace: away, podSelector: {matchLabels: {app: prometheus}}}], ports: [{port: metrics}]}}}
---
kind: ZeroTrustNamespace
metadata: {name: default, namespace: away}
spec: {mode: Enforce, acceptEgressFrom: [{namespace: home}]}
");
    assert_eq!(
        spec(&generated(&view, "away").policies, "monitoring-egress"),
        [json!({
            "podSelector": {"matchLabels": {"app": "prometheus"}},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "home"}}}],
                "ports": [{"port": "metrics", "protocol": "TCP"}],
            }],
        })]
    );
    let found = generated(&view, "home");
    let wanted = [json!({"port": "metrics", "protocol": "TCP"})];
    assert_eq!(
        spec(&found.policies, "monitoring-ingress")[0]["ingress"][0]["ports"],
        json!(wanted)
    );
}

#[test]
fn dns_is_the_first_configured_service_that_exists_and_closed_when_none_does() {
    let zero_trust = "
kind: ZeroTrustNamespace
metadata: {name: default, namespace: home}
spec: {mode: Enforce}
";
    let closed = home(zero_trust);
    let found = generated(&closed, "home");
    assert!(spec(&found.policies, "dns").is_empty());
    assert!(matches!(found.findings[0].problem, Problem::DnsNotFound { .. }));

    let openshift = home(&format!(
        "{zero_trust}
---
kind: Service
metadata: {{name: dns-default, namespace: openshift-dns}}
spec:
  selector: {{dns: default}}
  ports: [{{port: 53, protocol: UDP, targetPort: dns}}, {{port: 53, targetPort: dns-tcp}}, {{port: 9154}}]
---
kind: Service
metadata: {{name: kube-dns, namespace: home, labels: {{k8s-app: kube-dns}}}}
spec: {{selector: {{app: trap}}, ports: [{{port: 53}}]}}
"
    ));
    let found = generated(&openshift, "home");
    assert_eq!(found.findings, vec![]);
    assert_eq!(
        spec(&found.policies, "dns")[0]["egress"],
        json!([{
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}},
                "podSelector": {"matchLabels": {"dns": "default"}},
            }],
            "ports": [{"port": "dns-tcp", "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}],
        }])
    );
}

#[test]
fn resources_on_their_way_out_have_no_effect() {
    let mut view = home("");
    insert(
        &mut view,
        json!({
            "kind": "ServiceAccess",
            "metadata": {"name": "api", "namespace": "home", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]},
            "spec": {"targetRef": {"name": "api"}, "clients": [{"podSelector": {}}]},
        }),
    );
    assert!(spec(&generated(&view, "home").policies, "access-ingress").is_empty());
}
