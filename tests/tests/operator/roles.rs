//! What people may do with Ringfence's resources, as the API server decides it.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::lab::{LIMIT, Lab, apply, block_on, until};

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// Who may write a kind.
#[derive(Clone, Copy, PartialEq)]
enum Writers {
    /// Editors and administrators of its namespace.
    Editors,
    /// Administrators of its namespace.
    Administrators,
    /// Nobody but who may do everything: it belongs to the cluster.
    ClusterAdministrators,
}

const KINDS: [(&str, Writers); 7] = [
    ("zerotrustnamespaces", Writers::Administrators),
    ("auditnetworkpolicies", Writers::Administrators),
    ("serviceaccesses", Writers::Editors),
    ("externalaccesses", Writers::Editors),
    ("zerotrustbaselines", Writers::ClusterAdministrators),
    ("nodeenforcements", Writers::ClusterAdministrators),
    ("enforcementprobes", Writers::ClusterAdministrators),
];

/// The roles whose rules make up the cluster's own role of this name. A controller puts them together in a cluster; here is
/// none.
async fn parts(lab: &Lab, role: &str) -> BTreeSet<String> {
    let roles: Api<ClusterRole> = Api::all(lab.client.clone());
    let (mut found, mut open) = (BTreeSet::new(), vec![role.to_owned()]);
    while let Some(name) = open.pop() {
        let aggregation = roles.get(&name).await.unwrap().aggregation_rule;
        found.insert(name);
        for selector in aggregation
            .and_then(|it| it.cluster_role_selectors)
            .unwrap_or_default()
        {
            let labels = selector.match_labels.unwrap().into_iter();
            let text: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
            let selected = roles.list(&ListParams::default().labels(&text.join(","))).await;
            let names = selected.unwrap().into_iter().map(|part| part.name_any());
            open.extend(names.filter(|name| !found.contains(name)));
        }
    }
    found
}

/// Lets a user have a role of the cluster in a namespace.
async fn bind(lab: &Lab, role: &str, user: &str, namespace: &str) {
    for part in parts(lab, role).await {
        let binding = json!({
            "metadata": {"name": format!("{user}-{}", part.replace(':', "-"))},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": part},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        lab.create::<RoleBinding>(Some(namespace), binding).await;
    }
}

/// Whether the API server would let a user do this; without a namespace in the whole cluster.
async fn may(lab: &Lab, user: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": {"user": user,
        "resourceAttributes": {"group": "ringfence.dev", "resource": resource, "subresource": subresource, "verb": verb,
            "namespace": namespace}}});
    let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
    let reviews: Api<SubjectAccessReview> = Api::all(lab.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

/// The verbs of these that a user may do with a resource in a namespace.
async fn verbs(lab: &Lab, user: &str, resource: &str, namespace: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    for verb in READ.into_iter().chain(WRITE) {
        if may(lab, user, verb, resource, namespace).await {
            found.push(verb);
        }
    }
    found
}

/// A lab with one user for each role in namespace `team`, and one who sees the whole cluster.
async fn users(lab: &Lab) {
    for namespace in ["team", "others"] {
        lab.namespace(namespace).await;
    }
    for role in ["view", "edit", "admin"] {
        bind(lab, role, role, "team").await;
    }
    let binding = json!({
        "metadata": {"name": "viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ringfence-viewer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}],
    });
    lab.create::<ClusterRoleBinding>(None, binding).await;
    for (user, verb, resource, namespace) in [
        ("view", "get", "serviceaccesses", "team"),
        ("edit", "create", "serviceaccesses", "team"),
        ("admin", "create", "zerotrustnamespaces", "team"),
        ("viewer", "list", "nodeenforcements", ""),
    ] {
        until(&format!("{user} to be bound"), LIMIT, async || {
            let bound = may(lab, user, verb, resource, namespace).await;
            bound.then_some(()).ok_or_else(String::new)
        })
        .await;
    }
}

#[test]
fn people_may_do_with_each_kind_what_their_role_says() {
    let lab = Lab::start();
    apply(&lab.server, "config/rbac/users");
    block_on(async {
        users(&lab).await;
        let all: Vec<_> = READ.into_iter().chain(WRITE).collect();
        for (resource, writers) in KINDS {
            let allowed = |writes: bool| if writes { all.clone() } else { READ.to_vec() };
            let of_namespace = [
                ("view", allowed(false)),
                ("edit", allowed(writers == Writers::Editors)),
                ("admin", allowed(writers != Writers::ClusterAdministrators)),
                ("viewer", allowed(false)),
            ];
            for (user, wanted) in of_namespace {
                assert_eq!(
                    verbs(&lab, user, resource, "team").await,
                    wanted,
                    "{user} {resource}"
                );
                // What a resource says about itself is for Ringfence to write.
                for verb in WRITE {
                    let status = format!("{resource}/status");
                    assert!(
                        !may(&lab, user, verb, &status, "team").await,
                        "{user} {verb} {status}"
                    );
                }
            }
            for user in ["view", "edit", "admin"] {
                for namespace in ["others", ""] {
                    let found = verbs(&lab, user, resource, namespace).await;
                    assert!(found.is_empty(), "{user} {resource} in '{namespace}': {found:?}");
                }
            }
            assert_eq!(verbs(&lab, "viewer", resource, "").await, READ, "{resource}");
        }
    });
}

#[test]
fn every_kind_has_its_readers_and_writers() {
    let kinds: Vec<String> = ringfence_crd::generate()
        .into_iter()
        .filter_map(|(_, text)| serde_yaml_ng::from_str::<CustomResourceDefinition>(&text).ok())
        .map(|definition| definition.spec.names.plural)
        .collect();
    assert!(kinds.len() >= 5, "{kinds:?}");
    for kind in kinds {
        let known = KINDS.iter().any(|(name, _)| *name == kind);
        assert!(
            known,
            "{kind}: say here and in config/rbac/users who reads and writes it"
        );
    }
}
