//! What the ZeroTrustBaseline makes of namespaces, case by case.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use ringfence_crd::{Mode, SameNamespace};
use ringfence_operator::status::{
    BaselineInput, NamespaceInput, Summary, baseline_status, namespace_status, namespace_summary,
};
use ringfence_operator::view::ClusterView;

use crate::cluster::{ApiServer, generated, insert, planned, view};
use crate::status::at;

/// A cluster with a baseline of this spec, given as the rest of a flow mapping.
fn cluster(spec: &str, more: &str) -> ClusterView {
    let mut documents = format!(
        "kind: ZeroTrustBaseline
metadata: {{name: default, generation: 4}}
spec: {{mode: Enforce, allow: {{dns: {{enabled: false}}}}{spec}}}
"
    );
    for namespace in ["kube-system", "ringfence-system", "legacy", "shop"] {
        documents.push_str(&format!(
            "---
kind: Namespace
metadata: {{name: {namespace}, labels: {{tier: {namespace}}}}}
---
kind: Pod
metadata: {{name: p, namespace: {namespace}}}
spec: {{nodeName: n, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.1}}]}}
"
        ));
    }
    let mut view = view(&format!("{documents}---\n{more}"));
    view.reserved = Arc::new(["ringfence-system".to_owned()].into());
    view.govern();
    view
}

fn own(spec: &str) -> String {
    format!(
        "kind: ZeroTrustNamespace
metadata: {{name: default, namespace: shop, generation: 1}}
spec: {{{spec}}}
"
    )
}

/// The namespaces that policies are generated for.
fn covered(view: &ClusterView) -> Vec<&str> {
    let names = view.namespaces.keys().map(String::as_str);
    names
        .filter(|name| !generated(view, name).policies.is_empty())
        .collect()
}

#[test]
fn every_namespace_is_denied_but_those_that_never_are() {
    assert_eq!(covered(&cluster("", "")), ["legacy", "shop"]);
}

#[test]
fn chosen_namespaces_are_left_alone() {
    assert_eq!(covered(&cluster(", exemptNamespaces: [legacy]", "")), ["shop"]);
    let by_label = ", namespaceSelector: {matchLabels: {tier: legacy}}";
    assert_eq!(covered(&cluster(by_label, "")), ["legacy"]);
    let all_but = ", namespaceSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [shop]}]}";
    assert_eq!(covered(&cluster(all_but, "")), ["legacy"]);
}

#[test]
fn a_selector_that_cannot_be_read_leaves_nothing_open() {
    let unreadable = ", namespaceSelector: {matchExpressions: [{key: tier, operator: Resembles}]}";
    assert_eq!(covered(&cluster(unreadable, "")), ["legacy", "shop"]);
}

#[test]
fn what_the_baseline_generates_says_so_and_is_owned_by_it() {
    let view = cluster("", "");
    let policies = generated(&view, "shop").policies;
    assert!(!policies.is_empty());
    for policy in policies {
        assert_eq!(policy.labels()["ringfence.dev/origin-kind"], "ZeroTrustBaseline");
        let owner = &policy.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str()),
            ("ZeroTrustBaseline", "uid-ZeroTrustBaseline--default")
        );
    }
}

#[test]
fn a_baseline_that_goes_opens_what_it_closed_and_nothing_else() {
    let mut view = cluster("", "");
    let mut server = ApiServer::new();
    server.settle(&mut view, "shop");
    assert_eq!(view.policies["shop"].len(), 2);
    view.baseline = None;
    view.by_baseline.clear();
    view.zero_trust = view.written.clone();
    assert!(
        !planned(&view, "legacy")
            .steps
            .iter()
            .any(|step| format!("{step:?}").contains("shop"))
    );
    server.settle(&mut view, "shop");
    assert!(view.policies["shop"].is_empty());
}

#[test]
fn a_namespace_of_its_own_mind_takes_over_without_opening() {
    let mut view = cluster("", "");
    let mut server = ApiServer::new();
    server.settle(&mut view, "shop");
    let resource = own("mode: Enforce, allow: {dns: {enabled: false}}");
    insert(&mut view, serde_yaml_ng::from_str(&resource).unwrap());
    view.govern();
    let plan = server.settle(&mut view, "shop");
    let deletes = plan
        .steps
        .iter()
        .filter(|step| format!("{step:?}").starts_with("Delete"));
    assert_eq!(deletes.count(), 0, "{plan:?}");
    for policy in &view.policies["shop"] {
        assert_eq!(policy.owner_references()[0].kind, "ZeroTrustNamespace");
    }
}

#[test]
fn what_a_namespace_may_not_loosen_counts_as_the_baseline_says() {
    let loose = "mode: Audit, defaultDeny: {egress: false}, exempt: [{key: app, operator: Exists}], \
                 allow: {sameNamespace: All, dns: {enabled: false}}";
    let view = cluster("", &own(loose));
    let spec = &view.effective("shop").unwrap().spec;
    assert_eq!(spec.mode, Mode::Enforce);
    assert!(spec.default_deny.ingress && spec.default_deny.egress);
    assert!(spec.exempt.is_empty());
    assert_eq!(spec.allow.same_namespace, SameNamespace::None);
    let generated = generated(&view, "shop");
    let status = namespace_status(&NamespaceInput {
        view: &view,
        resource: &view.zero_trust["shop"],
        generated: &generated,
        failures: &[],
        now: at(0),
    });
    let accepted = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Accepted")
        .unwrap();
    assert_eq!(
        (accepted.status.as_str(), accepted.reason.as_str()),
        ("False", "NotPermitted")
    );
    for word in ["spec.mode", "spec.exempt", "mayLoosen", "SameNamespace"] {
        assert!(accepted.message.contains(word), "{}", accepted.message);
    }
    assert!(
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Stalled")
    );
}

#[test]
fn what_a_namespace_may_loosen_counts_as_it_says() {
    let loose = "mode: Audit, defaultDeny: {egress: false}, exempt: [{key: app, operator: Exists}], \
                 allow: {sameNamespace: All, dns: {enabled: false}}";
    let may = ", mayLoosen: [Mode, DefaultDeny, Exempt, SameNamespace]";
    let view = cluster(may, &own(loose));
    let spec = &view.effective("shop").unwrap().spec;
    assert_eq!(spec.mode, Mode::Audit);
    assert!(spec.default_deny.ingress && !spec.default_deny.egress);
    assert_eq!(spec.exempt.len(), 1);
    assert_eq!(spec.allow.same_namespace, SameNamespace::All);
    assert!(view.overruled.is_empty());
}

#[test]
fn a_namespace_may_always_be_stricter_and_inherits_what_it_does_not_say() {
    let mut view = cluster(
        "",
        &own("mode: Enforce, allow: {dns: {enabled: false}}, acceptEgressFrom: [{namespace: kube-system}]"),
    );
    let baseline = Arc::make_mut(view.baseline.as_mut().unwrap());
    baseline.spec.default_deny.egress = false;
    baseline.spec.allow.same_namespace = SameNamespace::All;
    baseline.spec.allow.monitoring =
        Some(serde_json::from_value(serde_json::json!({"from": [{"namespace": "monitoring"}]})).unwrap());
    baseline.spec.accept_egress_from =
        vec![serde_json::from_value(serde_json::json!({"namespace": "legacy"})).unwrap()];
    view.govern();
    let spec = &view.effective("shop").unwrap().spec;
    assert!(spec.default_deny.egress, "stricter");
    assert_eq!(spec.allow.same_namespace, SameNamespace::None, "stricter");
    assert!(spec.allow.monitoring.is_some(), "inherited");
    assert_eq!(spec.accept_egress_from.len(), 2, "added");
    assert!(view.overruled.is_empty());
}

#[test]
fn the_baseline_sums_up_its_namespaces_and_names_those_in_trouble() {
    let mut view = cluster("", &own("mode: Enforce, allow: {dns: {enabled: false}}"));
    let summary = |view: &ClusterView| -> BTreeMap<String, Summary> {
        let generated = generated(view, "legacy");
        let input = NamespaceInput {
            view,
            resource: &view.zero_trust["legacy"],
            generated: &generated,
            failures: &[],
            now: at(0),
        };
        [("legacy".to_owned(), namespace_summary(&input))].into()
    };
    let status = |view: &ClusterView, summaries: &BTreeMap<String, Summary>| {
        baseline_status(&BaselineInput {
            view,
            resource: view.baseline.as_ref().unwrap(),
            summaries,
            now: at(0),
        })
    };
    let ready = |status: &ringfence_crd::ZeroTrustBaselineStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.reason.clone())
    };
    let early = status(&view, &BTreeMap::new());
    assert_eq!(ready(&early), ("Unknown".to_owned(), "Programming".to_owned()));
    let namespaces = early.namespaces.clone().unwrap();
    assert_eq!(
        (namespaces.selected, namespaces.own, namespaces.left_alone),
        (2, 1, 2)
    );
    ApiServer::new().settle(&mut view, "legacy");
    let done = status(&view, &summary(&view));
    assert_eq!(ready(&done), ("True".to_owned(), "AsExpected".to_owned()));
    assert_eq!(done.covered.as_deref(), Some("1/1"));
    assert!(done.troubled.is_empty());
    let foreign = serde_json::json!({"kind": "NetworkPolicy", "metadata": {"name": "open", "namespace": "legacy"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}});
    insert(&mut view, foreign);
    let opened = status(&view, &summary(&view));
    assert_eq!(opened.troubled.len(), 1);
    assert_eq!(
        (
            opened.troubled[0].name.as_str(),
            opened.troubled[0].reason.as_str()
        ),
        ("legacy", "Overridden")
    );
    assert_eq!(ready(&opened).0, "True", "Covered does not change it");
}

#[test]
fn a_namespace_that_goes_by_the_baseline_is_named_where_consent_is_missing() {
    let mut view = cluster("", "");
    let baseline = Arc::make_mut(view.baseline.as_mut().unwrap());
    baseline.spec.allow.monitoring =
        Some(serde_json::from_value(serde_json::json!({"from": [{"namespace": "legacy"}]})).unwrap());
    view.govern();
    let generated = generated(&view, "shop");
    let status = namespace_status(&NamespaceInput {
        view: &view,
        resource: view.effective("shop").unwrap(),
        generated: &generated,
        failures: &[],
        now: at(0),
    });
    let mut conditions = status.conditions.iter();
    let unmet = conditions
        .find(|condition| condition.reason == "PendingConsent")
        .unwrap();
    for words in [
        "Namespace legacy denies egress",
        "add shop to spec.acceptEgressFrom",
    ] {
        assert!(unmet.message.contains(words), "{}", unmet.message);
    }
}
