//! The EnforcementProbe's rounds. There is no kubelet here: the tests say what becomes of pods.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use ringfence_crd::{EnforcementProbe, ProbeFailureKind, ZeroTrustNamespace};
use ringfence_operator::names::STATUS_MANAGER;
use ringfence_operator::probe::Settings;
use ringfence_operator::probe::objects::{PodImage, Pods};
use ringfence_operator::probe::plan::Round;
use ringfence_tests::source;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, condition, until};

/// As operators of these tests run the probe: nobody waits long for pods that never start.
pub(crate) static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    start: Duration::from_secs(3),
    settle: Duration::from_secs(1),
    ..Settings::default()
});

const OURS: &str = "ringfence-system";
const NODE: &str = "worker-1";

/// A lab with a node that is ready, where pods may be created.
pub(crate) fn lab() -> Lab {
    let lab = Lab::start();
    block_on(async {
        for namespace in [OURS, "default"] {
            let account = json!({"metadata": {"name": "default"}});
            lab.create::<ServiceAccount>(Some(namespace), account).await;
        }
        node(&lab, NODE).await;
    });
    lab
}

async fn node(lab: &Lab, name: &str) {
    lab.create::<Node>(None, json!({"metadata": {"name": name}}))
        .await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let nodes = Api::<Node>::all(lab.client.clone());
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&ready))
        .await
        .unwrap();
}

pub(crate) async fn switch_on(lab: &Lab, spec: Value) {
    let probe = json!({"metadata": {"name": "default"}, "spec": spec});
    lab.create::<EnforcementProbe>(None, probe).await;
}

async fn probe(lab: &Lab) -> EnforcementProbe {
    Api::all(lab.client.clone()).get("default").await.unwrap()
}

/// Waits until a condition of the probe is as wanted; gives the probe.
pub(crate) async fn says(lab: &Lab, kind: &str, wanted: &str) -> EnforcementProbe {
    until(
        &format!("{kind} of the probe to be {wanted}"),
        LIMIT,
        async || {
            let probe = probe(lab).await;
            let conditions = serde_json::to_value(&probe.status).unwrap()["conditions"].clone();
            match condition(&conditions, kind) == wanted {
                true => Ok(probe),
                false => Err(conditions.to_string()),
            }
        },
    )
    .await
}

/// The pods of Ringfence's namespace that nobody has deleted yet, by name.
async fn pods(lab: &Lab) -> Vec<Pod> {
    let pods = lab.api::<Pod>(OURS).list(&ListParams::default()).await.unwrap();
    let living = pods.items.into_iter();
    living
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect()
}

/// Plays the kubelet of every node: servers run, callers have met this at each server.
pub(crate) async fn kubelet(lab: &Lab, leaks: &AtomicBool) {
    loop {
        for pod in pods(lab).await {
            let caller = pod.labels()["ringfence.dev/probe"] != "server";
            let arguments = pod.spec.as_ref().unwrap().containers[0].args.clone().unwrap();
            let targets = arguments
                .iter()
                .filter(|argument| argument.starts_with("--target="));
            let met = match leaks.load(Ordering::SeqCst) {
                true => r#"{"met":"leak","way":"TCP 10.0.0.1:8471"}"#,
                false => r#"{"met":"right"}"#,
            };
            let answer = vec![met; targets.count()].join(",");
            let ended = json!({"name": "probe", "image": "x", "imageID": "x", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "message": format!("[{answer}]")}}});
            let status = match caller {
                true => json!({"phase": "Succeeded", "containerStatuses": [ended]}),
                false => json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
            };
            // A pod that went meanwhile needs no status.
            let _ = lab
                .api::<Pod>(OURS)
                .patch_status(
                    &pod.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(&json!({"status": status})),
                )
                .await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pod_of(name: &str, owner: Option<&str>) -> Value {
    let owners = owner.map(|kind| {
        json!([{"apiVersion": "ringfence.dev/v1alpha1", "kind": kind, "name": "default", "uid": "of-another-time"}])
    });
    json!({
        "metadata": {"name": name, "labels": {"ringfence.dev/probe": "server"}, "ownerReferences": owners},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]},
    })
}

#[test]
fn pods_that_never_run_leave_enforcement_unknown_and_nothing_behind() {
    let lab = lab();
    block_on(async {
        lab.create::<Pod>(Some(OURS), pod_of("left-behind", Some("EnforcementProbe")))
            .await;
        lab.create::<Pod>(Some(OURS), pod_of("somebody-elses", None))
            .await;
    });
    let operator = lab.operator("probe");
    block_on(async {
        switch_on(&lab, json!({"image": "none"})).await;
        let probe = says(&lab, "EnforcementVerified", "Unknown/ProbeIncomplete").await;
        says(&lab, "Ready", "False/ProbeIncomplete").await;
        let status = probe.status.unwrap();
        assert_eq!(status.pairs.as_deref(), Some("0/1"));
        let failure = &status.failures[0];
        assert_eq!(
            (failure.what, failure.node.as_str()),
            (ProbeFailureKind::PodNotStarted, NODE)
        );
        let names: Vec<String> = pods(&lab).await.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["somebody-elses"]);
        let wanted = r#"ringfence_probe_pairs{result="PodNotStarted"} 1"#;
        // It is counted once the status and its Event are written.
        until("the pairs to be counted", LIMIT, async || {
            let metrics = operator.metrics().await;
            let counted = metrics.iter().any(|line| line == wanted);
            counted.then_some(()).ok_or_else(|| format!("{metrics:?}"))
        })
        .await;
    });
}

#[test]
fn what_callers_tell_becomes_the_verdict_and_namespaces_repeat_it() {
    let lab = lab();
    let _operator = lab.operator("probe");
    let leaks = AtomicBool::new(false);
    block_on(async {
        lab.namespace("probed").await;
        lab.zero_trust("probed").await;
        let story = async {
            lab.says::<ZeroTrustNamespace>("probed", "default", "Ready", "True/AsExpected")
                .await;
            switch_on(&lab, json!({"image": "none", "intervalSeconds": 5})).await;
            let verified = says(&lab, "EnforcementVerified", "True/Verified").await;
            assert_eq!(verified.status.unwrap().pairs.as_deref(), Some("1/1"));
            says(&lab, "Ready", "True/AsExpected").await;
            lab.says::<ZeroTrustNamespace>("probed", "default", "EnforcementVerified", "True/Verified")
                .await;
            let policies = lab.names(OURS).await;
            assert_eq!(policies, ["ringfence-probe-callers", "ringfence-probe-servers"]);

            a_new_node_has_its_turn(&lab).await;
            a_leak_is_told(&lab, &leaks).await;
            leaks.store(false, Ordering::SeqCst);
            an_opened_policy_is_put_back(&lab).await;
            its_end_is_followed(&lab).await;
        };
        tokio::select! {
            () = story => {}
            () = kubelet(&lab, &leaks) => {}
        }
    });
}

#[test]
fn an_old_proof_is_none_any_more_for_an_operator_that_comes_back() {
    let lab = lab();
    block_on(async {
        switch_on(&lab, json!({"image": "none", "intervalSeconds": 60})).await;
        let verified = json!({"type": "EnforcementVerified", "status": "True", "reason": "Verified", "message": "",
            "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1});
        let status = json!({"observedGeneration": 1, "conditions": [verified], "lastRunTime": "2020-01-01T00:00:00Z",
            "lastProofTime": "2020-01-01T00:00:00Z", "nodes": [NODE], "pairs": "1/1"});
        let probes = Api::<EnforcementProbe>::all(lab.client.clone());
        let patch =
            json!({"apiVersion": "ringfence.dev/v1alpha1", "kind": "EnforcementProbe", "status": status});
        // As the operator wrote it, long ago.
        probes
            .patch_status(
                "default",
                &PatchParams::apply(STATUS_MANAGER),
                &Patch::Apply(patch),
            )
            .await
            .unwrap();
        says(&lab, "EnforcementVerified", "True/Verified").await;
    });
    let _operator = lab.operator("probe");
    block_on(async {
        let stale = says(&lab, "EnforcementVerified", "Unknown/NotVerifiedYet").await;
        let status = stale.status.unwrap();
        assert!(
            status.last_proof_time.is_some() && status.pairs.is_none(),
            "{status:?}"
        );
    });
}

#[test]
fn what_keeps_rounds_from_being_made_is_said() {
    let lab = lab();
    let _operator = lab.operator("probe");
    block_on(async {
        // There is no pod of the operator here whose image it could take.
        switch_on(&lab, json!({})).await;
        let blocked = says(&lab, "Stalled", "True/Invalid").await;
        let status = serde_json::to_string(&blocked.status).unwrap();
        assert!(status.contains("spec.image"), "{status}");
        says(&lab, "EnforcementVerified", "Unknown/NotVerifiedYet").await;

        let foreign = json!({"metadata": {"name": "ringfence-probe-callers"}, "spec": {"podSelector": {}}});
        let foreign: NetworkPolicy = lab.create(Some(OURS), foreign).await;
        let probes = Api::<EnforcementProbe>::all(lab.client.clone());
        let image = json!({"spec": {"image": "none"}});
        probes
            .patch("default", &PatchParams::default(), &Patch::Merge(&image))
            .await
            .unwrap();
        says(&lab, "Stalled", "True/NameConflict").await;
        let left = lab.policy(OURS, "ringfence-probe-callers").await;
        assert_eq!(left.metadata.generation, foreign.metadata.generation);
    });
}

async fn a_new_node_has_its_turn(lab: &Lab) {
    // A new node has its turn at once, and is tried with the old one in all four ways.
    node(lab, "worker-2").await;
    until("four pairs", LIMIT, async || {
        match probe(lab).await.status.unwrap().pairs.as_deref() {
            Some("4/4") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn a_leak_is_told(lab: &Lab, leaks: &AtomicBool) {
    leaks.store(true, Ordering::SeqCst);
    let failed = says(lab, "EnforcementVerified", "False/DeniedTrafficPassed").await;
    let status = failed.status.unwrap();
    assert_eq!(status.failures[0].what, ProbeFailureKind::DeniedArrived);
    assert!(status.last_proof_time < status.last_run_time);
    let told = until("an Event", LIMIT, async || {
        let told = lab.events("default", "DeniedTrafficPassed").await;
        if told.is_empty() {
            Err("none".to_owned())
        } else {
            Ok(told)
        }
    })
    .await;
    assert!(told[0].contains(NODE), "{told:?}");
}

async fn an_opened_policy_is_put_back(lab: &Lab) {
    // Somebody opens the probe's own policy: it is put back, for else it would accuse the network plugin.
    let open = json!({"spec": {"ingress": [{}]}});
    lab.patch::<NetworkPolicy>(OURS, "ringfence-probe-servers", open)
        .await;
    until("the policy to be as it was", LIMIT, async || {
        let policy = lab.policy(OURS, "ringfence-probe-servers").await;
        match policy.spec.unwrap().ingress.unwrap().len() {
            2 => Ok(()),
            other => Err(format!("{other} rules")),
        }
    })
    .await;
    says(lab, "EnforcementVerified", "True/Verified").await;
}

async fn its_end_is_followed(lab: &Lab) {
    let probes = Api::<EnforcementProbe>::all(lab.client.clone());
    probes.delete("default", &DeleteParams::default()).await.unwrap();
    until("the namespace to say nothing of it", LIMIT, async || {
        let namespace = lab
            .api::<ZeroTrustNamespace>("probed")
            .get("default")
            .await
            .unwrap();
        let conditions = serde_json::to_value(namespace.status).unwrap()["conditions"].clone();
        match condition(&conditions, "EnforcementVerified").as_str() {
            "absent" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    until("no pod to be left", LIMIT, async || match pods(lab).await.len() {
        0 => Ok(()),
        left => Err(format!("{left} pods")),
    })
    .await;
}

/// Whether the API server would let the operator create this pod, and what it says.
fn would_create(lab: &Lab, pod: &Value) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pod.to_string()).unwrap();
    let operator = "--as=system:serviceaccount:ringfence-system:ringfence-operator";
    let path = file.path().to_str().unwrap();
    let create = [
        "-n",
        OURS,
        operator,
        "create",
        "--dry-run=server",
        "--validate=false",
        "-f",
        path,
    ];
    let output = lab.server.kubectl(create).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// A pod as the operator makes it.
fn real_pod() -> Value {
    let probe = json!({"metadata": {"name": "default", "uid": "u"}, "spec": {}});
    let probe: EnforcementProbe = serde_json::from_value(probe).unwrap();
    let nodes = [(NODE.to_owned(), true)].into();
    let pods = Pods {
        probe: &probe,
        namespace: OURS,
        image: &PodImage {
            image: "none".to_owned(),
            secrets: Vec::new(),
        },
        round: &Round::new("abcdef".to_owned(), &nodes, &probe.spec),
        deadline: Duration::from_secs(90),
        settle: Duration::from_secs(15),
    };
    serde_json::to_value(pods.server(0)).unwrap()
}

/// Pods that would be worth something to whoever got hold of the operator's account, and the field that says so.
fn harmful_pods() -> Vec<(Value, &'static str)> {
    let privileges = "containers[].securityContext";
    let changes = [
        (
            "/spec/serviceAccountName",
            json!("ringfence-enforcer"),
            "serviceAccountName",
        ),
        (
            "/spec/automountServiceAccountToken",
            json!(true),
            "serviceAccountName",
        ),
        (
            "/spec/volumes",
            json!([{"name": "host", "hostPath": {"path": "/"}}]),
            "spec.volumes",
        ),
        (
            "/spec/initContainers",
            json!([{"name": "first", "image": "none"}]),
            "spec.volumes",
        ),
        ("/spec/hostNetwork", json!(true), "spec.hostNetwork"),
        ("/spec/hostPID", json!(true), "spec.hostNetwork"),
        ("/spec/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        (
            "/spec/containers/0/securityContext/runAsUser",
            json!(0),
            privileges,
        ),
        (
            "/spec/containers/0/securityContext/capabilities/add",
            json!(["NET_ADMIN"]),
            privileges,
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({}),
            privileges,
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"privileged": true}),
            privileges,
        ),
    ];
    let changed = changes.into_iter().map(|(path, value, field)| {
        let mut pod = real_pod();
        let (parent, name) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name] = value;
        (pod, field)
    });
    changed.collect()
}

#[test]
fn the_operator_may_create_the_probes_pods_and_no_pod_with_any_privilege() {
    let lab = lab();
    let rbac = source::path("config/rbac/operator");
    let applied = lab.server.kubectl(["apply", "-k", &rbac]).output().unwrap();
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    let account = json!({"metadata": {"name": "ringfence-enforcer"}});
    block_on(lab.create::<ServiceAccount>(Some(OURS), account));
    for (pod, field) in harmful_pods() {
        // The admission policy takes effect a moment after it is written; a refusal that it makes names the field.
        block_on(until(
            &format!("a refusal of {field}"),
            LIMIT,
            async || match would_create(&lab, &pod) {
                (false, said) if said.contains(field) => Ok(()),
                (_, said) => Err(said),
            },
        ));
    }
    block_on(until(
        "the probe's own pod to be taken",
        LIMIT,
        async || match would_create(&lab, &real_pod()) {
            (true, _) => Ok(()),
            (false, said) => Err(said),
        },
    ));
}
