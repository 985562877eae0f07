//! All the admission policies that an administrator may choose, on at once: nothing that Ringfence or Kubernetes itself does is
//! held up by them.

use anyhow::{Result, ensure};
use ringfence_tests::kube_objects::apply;
use ringfence_tests::source;
use serde_json::json;

use crate::lab::Lab;
use crate::report;

const FOLDERS: [&str; 5] = [
    "require-zero-trust",
    "forbid-foreign-policies",
    "forbid-allow-all",
    "protect-generated",
    "node-enforcement",
];

fn folder(name: &str) -> String {
    source::path(&format!("config/admission/{name}"))
}

pub(crate) fn admission_policies_hold_up_nothing(lab: &Lab) -> Result<()> {
    for name in FOLDERS {
        lab.kubectl(&["apply", "-k", &folder(name)])?;
    }
    let result = with_all_on(lab);
    for name in FOLDERS {
        lab.kubectl(&["delete", "--ignore-not-found", "-k", &folder(name)])?;
    }
    result.and_then(|()| lab.install())
}

fn with_all_on(lab: &Lab) -> Result<()> {
    // In force once an administrator may not write a report any more.
    let node = lab.cluster.nodes().swap_remove(0).name;
    let forged = r#"{"metadata":{"labels":{"forged":"yes"}}}"#;
    lab.until("reports are protected", || {
        let patch = [
            "patch",
            "nodeenforcement",
            &node,
            "--type=merge",
            "--dry-run=server",
            "-p",
            forged,
        ];
        Ok(lab
            .kubectl(&patch)
            .is_err_and(|error| error.to_string().contains("only the enforcer")))
    })?;
    // The operator writes, the enforcers of both nodes report, and their Leases are renewed.
    lab.close_shop()?;
    lab.until("every node reports the policies that are in the API", || {
        report::agree(lab)
    })?;
    report::owned_and_alive(lab)?;

    // A namespace that goes takes its generated policies along.
    lab.kubectl(&["create", "namespace", "leaving"])?;
    let wish = json!({
        "apiVersion": "ringfence.dev/v1alpha1",
        "kind": "ZeroTrustNamespace",
        "metadata": {"name": "default", "namespace": "leaving"},
        "spec": {"mode": "Enforce"},
    });
    apply(&lab.cluster, &wish.to_string())?;
    lab.kubectl(&[
        "-n",
        "leaving",
        "wait",
        "--for=condition=Ready",
        "ztn/default",
        "--timeout=60s",
    ])?;
    lab.kubectl(&["delete", "namespace", "leaving", "--timeout=60s"])?;

    opened_in_order(lab)?;
    // Everything at once: the garbage collector takes the shop's policies, and nothing is stuck.
    ensure!(
        !lab.policies()?.is_empty(),
        "the shop has no policies: the case shows nothing"
    );
    lab.kubectl(&["delete", "-k", &source::path("config/default"), "--timeout=120s"])?;
    lab.until("no NetworkPolicy is left", || Ok(lab.policies()?.is_empty()))
}

/// `uninstall` runs as a Job, as the documentation has it, and the operator closes the shop again.
fn opened_in_order(lab: &Lab) -> Result<()> {
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        lab.kubectl(&[
            "-n",
            "ringfence-system",
            "scale",
            "deployment",
            "ringfence-operator",
            &replicas,
        ])
    };
    scale("0")?;
    lab.kubectl(&["apply", "-k", &source::path("config/uninstall")])?;
    let job = "job/ringfence-uninstall";
    let complete = [
        "-n",
        "ringfence-system",
        "wait",
        "--for=condition=Complete",
        job,
        "--timeout=120s",
    ];
    lab.kubectl(&complete)?;
    ensure!(lab.policies()?.is_empty(), "uninstalling left policies");
    lab.kubectl(&["delete", "-k", &source::path("config/uninstall")])?;
    scale("2")?;
    // What users wrote stayed, and its status with it: only the policies tell that an operator works again.
    lab.until("the operator closes the shop again", || {
        Ok(!lab.policies()?.is_empty())
    })?;
    lab.close_shop()
}
