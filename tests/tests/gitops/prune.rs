//! What goes with an app, and what stays.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use ringfence_tests::kube_objects::apply;
use serde_json::Value;

use crate::apps::{APPS, ROOT, ZERO_TRUST};
use crate::lab::Lab;

/// A policy of somebody else.
const FOREIGN: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: somebody-elses, namespace: shop}
spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress]}
"#;

pub(crate) fn policies_of_other_namespaces_are_left_alone(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let origin = "ringfence.dev/origin-kind=ServiceAccess,ringfence.dev/origin-namespace=shop";
    let list = lab.object(&["-n", "checkout", "networkpolicies", "-l", origin])?;
    let across = list["items"].as_array().context("kubectl printed no list")?;
    ensure!(
        !across.is_empty(),
        "the grant opened nothing in its client's namespace"
    );
    for policy in across {
        let meta = &policy["metadata"];
        let marks = [
            &meta["labels"]["app.kubernetes.io/instance"],
            &meta["annotations"]["argocd.argoproj.io/tracking-id"],
        ];
        ensure!(
            marks.iter().all(|mark| mark.is_null()),
            "{} is tracked: {meta}",
            meta["name"]
        );
        let annotations = &meta["annotations"];
        ensure!(
            annotations["argocd.argoproj.io/compare-options"] == "IgnoreExtraneous"
                && annotations["argocd.argoproj.io/sync-options"] == "Prune=false",
            "{} does not say that it is nobody's to prune: {annotations}",
            meta["name"]
        );
    }
    for (name, _) in APPS {
        let app = lab.app(name)?;
        let resources = app["status"]["resources"].as_array().cloned().unwrap_or_default();
        let shown = resources
            .iter()
            .find(|resource| resource["kind"] == "NetworkPolicy");
        ensure!(shown.is_none(), "application {name} takes {shown:?} for its own");
    }
    Ok(())
}

pub(crate) fn what_an_app_brought_goes_with_it(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    apply(&lab.cluster, FOREIGN)?;
    let before = objects(lab)?;
    let generated = lab.object(&[
        "networkpolicies",
        "-A",
        "-l",
        "app.kubernetes.io/managed-by=ringfence-operator",
    ])?;
    let generated = names(&generated)?;
    ensure!(
        generated.len() >= 8,
        "only {generated:?} are generated: the case shows little"
    );

    let repository = lab.argo.repository();
    repository.remove(&format!("apps/{ZERO_TRUST}.yaml"))?;
    repository.commit("No zero trust")?;
    lab.refresh()?;
    lab.until("the application is gone", || {
        let left = lab.kubectl(&["get", "applications", "-A", "-o", "name"])?;
        Ok(left.contains(ZERO_TRUST).then_some(left))
    })?;
    lab.until("what was generated is gone", || {
        let left = lab.object(&["networkpolicies", "-A"])?;
        let left: Vec<String> = names(&left)?.intersection(&generated).cloned().collect();
        Ok((!left.is_empty()).then(|| format!("{left:?} are left")))
    })?;
    lab.until_app_is(ROOT, "Healthy")?;
    let gone: BTreeSet<String> = before.difference(&objects(lab)?).cloned().collect();
    let users: BTreeSet<String> = [
        "ZeroTrustBaseline /default",
        "ZeroTrustNamespace shop/default",
        "ZeroTrustNamespace checkout/default",
        "ServiceAccess shop/api",
        "ExternalAccess shop/bank",
        "EnforcementProbe /default",
        // What the probe tries out.
        "NetworkPolicy ringfence-system/ringfence-probe-callers",
        "NetworkPolicy ringfence-system/ringfence-probe-servers",
    ]
    .map(str::to_owned)
    .into();
    let expected: BTreeSet<String> = users.union(&generated).cloned().collect();
    ensure!(
        gone == expected,
        "gone are not exactly the app's own and what was generated:\nmissing {:?}\nmore {:?}",
        expected.difference(&gone).collect::<Vec<_>>(),
        gone.difference(&expected).collect::<Vec<_>>()
    );
    Ok(())
}

/// Everything that could be lost.
fn objects(lab: &Lab) -> Result<BTreeSet<String>> {
    let kinds = "networkpolicies,ztn,sva,externalaccesses,zerotrustbaselines,enforcementprobes,services,deployments,daemonsets,namespaces,serviceaccounts,customresourcedefinitions";
    names(&lab.object(&[kinds, "-A"])?)
}

fn names(list: &Value) -> Result<BTreeSet<String>> {
    let items = list["items"].as_array().context("kubectl printed no list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |object: &Value| {
        let meta = &object["metadata"];
        format!(
            "{} {}/{}",
            text(&object["kind"]),
            text(&meta["namespace"]),
            text(&meta["name"])
        )
    };
    Ok(items.iter().map(name).collect())
}
