//! The states on which Argo CD's health scripts are tried are those that the operator writes: each is brought about here and
//! compared with the committed one. Whether Argo CD judges them as listed, the suite `gitops` asks Argo CD itself.

use std::path::PathBuf;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::DeleteParams;
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustBaseline, ZeroTrustNamespace};
use ringfence_tests::source;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, until};
use crate::probe;

/// Set to `1` to write the files instead of comparing them.
const UPDATE: &str = "RINGFENCE_UPDATE_GENERATED";
/// In place of every time and every UID, which are others in each run.
const TIME: &str = "2026-01-01T00:00:00Z";
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// An object of the API server, as arguments of kubectl.
type Place<'a> = &'a [&'a str];

/// What Argo CD is to show of a state.
#[derive(Clone, Copy)]
pub(crate) enum Shown {
    /// The health, with the message of a condition that must be True.
    Of(&'static str, &'static str),
    /// The health, with a message of the script's own.
    Says(&'static str, &'static str),
}

pub(crate) const NEW: Shown = Shown::Says("Progressing", "Waiting for the operator to look at it");
/// These words are Argo CD's own: it says so before it asks any script.
pub(crate) const LEAVING: Shown = Shown::Says("Progressing", "Pending deletion");
pub(crate) const WELL: Shown = Shown::Of("Healthy", "Ready");
pub(crate) const WAITING: Shown = Shown::Of("Progressing", "Reconciling");
pub(crate) const STUCK: Shown = Shown::Of("Degraded", "Stalled");

/// The test data of one kind, as it comes about.
pub(crate) struct TestData {
    kind: &'static str,
    tests: Vec<Value>,
}

impl TestData {
    pub(crate) fn of(kind: &'static str) -> Self {
        Self {
            kind,
            tests: Vec::new(),
        }
    }

    fn folder(&self) -> PathBuf {
        let all = source::path("config/argocd/resource_customizations/ringfence.dev");
        PathBuf::from(all).join(self.kind)
    }

    /// Takes the state in which an object is now.
    pub(crate) async fn take(&mut self, lab: &Lab, state: &str, place: Place<'_>, shown: Shown) {
        let path = format!("testdata/{state}.yaml");
        let object = settled(lab, &self.folder().join(&path), place).await;
        let (health, message) = match shown {
            Shown::Says(health, message) => (health, message.to_owned()),
            Shown::Of(health, kind) => (health, message_of(&object, kind)),
        };
        let wanted = json!({"status": health, "message": message});
        self.tests
            .push(json!({"healthStatus": wanted, "inputPath": path}));
    }

    /// Writes or compares the list of what was taken.
    pub(crate) fn end(self) {
        let path = self.folder().join("health_test.yaml");
        let list = serde_yaml_ng::to_string(&json!({"tests": self.tests})).unwrap();
        if updating() {
            std::fs::write(&path, &list).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == list, "{} is not:\n{list}", path.display());
    }
}

fn updating() -> bool {
    std::env::var(UPDATE).as_deref() == Ok("1")
}

/// An object once it is as committed: statuses come about in steps, and conditions that do not decide may come last.
async fn settled(lab: &Lab, path: &std::path::Path, place: Place<'_>) -> Value {
    if updating() {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, serde_yaml_ng::to_string(&now(lab, place)).unwrap()).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let committed: Value = serde_yaml_ng::from_str(&text).unwrap();
    until(
        &format!("{place:?} to be as in {}", path.display()),
        LIMIT,
        async || {
            let object = now(lab, place);
            if object == committed {
                Ok(object)
            } else {
                let yaml = serde_yaml_ng::to_string(&object).unwrap();
                Err(format!("with {UPDATE}=1 it is written; now it is\n{yaml}"))
            }
        },
    )
    .await
}

/// An object as it is now, without what is another in each run.
fn now(lab: &Lab, place: Place<'_>) -> Value {
    let got = kubectl(lab, &[&["get", "-o", "json"], place].concat());
    let mut object: Value = serde_json::from_str(&got).unwrap();
    let meta = object["metadata"].as_object_mut().unwrap();
    meta.remove("managedFields");
    meta.remove("resourceVersion");
    same_every_time(&mut object);
    object
}

fn same_every_time(value: &mut Value) {
    let fields: Vec<(&str, &mut Value)> = match value {
        Value::Array(items) => return items.iter_mut().for_each(same_every_time),
        Value::Object(fields) => fields
            .iter_mut()
            .map(|(key, value)| (key.as_str(), value))
            .collect(),
        _ => return,
    };
    for (key, field) in fields {
        match key {
            "uid" => *field = json!(UID),
            _ if key.ends_with("Time") || key.ends_with("Timestamp") => *field = json!(TIME),
            _ => same_every_time(field),
        }
    }
}

/// The message of a condition that is True.
fn message_of(object: &Value, kind: &str) -> String {
    let mut conditions = object["status"]["conditions"].as_array().unwrap().iter();
    let found = conditions.find(|condition| condition["type"] == kind && condition["status"] == "True");
    let found = found.unwrap_or_else(|| panic!("it is not {kind}: {object}"));
    found["message"].as_str().unwrap().to_owned()
}

fn kubectl(lab: &Lab, args: &[&str]) -> String {
    let done = lab.server.kubectl(args).output().unwrap();
    assert!(
        done.status.success(),
        "kubectl {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

fn patch(lab: &Lab, place: Place<'_>, patch: &Value) {
    let patch = patch.to_string();
    kubectl(lab, &[&["patch", "--type=merge", "-p", &patch], place].concat());
}

/// Takes the states of an object that the operator, which is away, has not seen: another spec, and its end.
pub(crate) async fn unseen(lab: &Lab, data: &mut TestData, place: Place<'_>, spec: Value) {
    patch(lab, place, &json!({"spec": spec}));
    data.take(lab, "progressing_changed", place, NEW).await;
    patch(
        lab,
        place,
        &json!({"metadata": {"finalizers": ["example.com/held"]}}),
    );
    kubectl(lab, &[&["delete", "--wait=false"], place].concat());
    data.take(lab, "progressing_leaving", place, LEAVING).await;
}

const BASELINE: Place<'_> = &["ztb", "default"];

async fn in_namespaces(lab: &Lab, name: &str, allow: Value) {
    let spec = json!({"mode": "Enforce", "allow": allow});
    let resource = json!({"metadata": {"name": "default"}, "spec": spec});
    lab.create::<ZeroTrustNamespace>(Some(name), resource).await;
    lab.access(
        name,
        "api",
        json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
    )
    .await;
}

async fn external(lab: &Lab, namespace: &str, to: Value) {
    let rule = json!([{"to": [to], "ports": [{"port": 443}]}]);
    let spec = json!({"podSelector": {"matchLabels": {"app": "api"}}, "egress": rule});
    let resource = json!({"metadata": {"name": "bank"}, "spec": spec});
    lab.create::<ExternalAccess>(Some(namespace), resource).await;
}

async fn covered(lab: &Lab, name: &str) {
    let meta = json!({"name": name, "labels": {"covered": "by-baseline"}});
    lab.create::<k8s_openapi::api::core::v1::Namespace>(None, json!({"metadata": meta}))
        .await;
}

/// Somebody else's policy under a name that is needed.
async fn squat(lab: &Lab, namespace: &str, name: &str) {
    let foreign =
        json!({"metadata": {"name": name}, "spec": {"podSelector": {"matchLabels": {"app": "nobody"}}}});
    lab.create::<NetworkPolicy>(Some(namespace), foreign).await;
}

/// An ExternalAccess whose policy somebody else made: its name is known once it was there.
async fn squatted_external(lab: &Lab, namespace: &str) {
    const POLICY: &str = "ringfence-external-egress";
    external(lab, namespace, network()).await;
    lab.says::<ExternalAccess>(namespace, "bank", "Ready", "True")
        .await;
    let name = lab.policy(namespace, POLICY).await.name_any();
    let api = lab.api::<ExternalAccess>(namespace);
    api.delete("bank", &DeleteParams::default()).await.unwrap();
    lab.policies_are(namespace, "without it", |names| !names.contains(&name))
        .await;
    squat(lab, namespace, &name).await;
    external(lab, namespace, network()).await;
}

fn network() -> Value {
    json!({"cidr": "203.0.113.0/24"})
}

fn missing_dns() -> Value {
    json!({"dns": {"services": [{"namespace": "kube-system", "name": "none"}]}})
}

/// What is taken of the kinds that the operator's controller looks after.
struct All {
    namespaces: TestData,
    accesses: TestData,
    externals: TestData,
    baseline: TestData,
}

impl All {
    async fn nobody_has_looked(&mut self, lab: &Lab) {
        lab.namespace("shop").await;
        lab.http_service("shop", "api").await;
        in_namespaces(lab, "shop", json!({})).await;
        external(lab, "shop", network()).await;
        let spec =
            json!({"mode": "Enforce", "namespaceSelector": {"matchLabels": {"covered": "by-baseline"}}});
        lab.create::<ZeroTrustBaseline>(None, json!({"metadata": {"name": "default"}, "spec": spec}))
            .await;
        self.take(lab, "progressing_new", "shop", NEW).await;
        self.baseline.take(lab, "progressing_new", BASELINE, NEW).await;
    }

    async fn take(&mut self, lab: &Lab, state: &str, namespace: &str, shown: Shown) {
        let places = [["ztn", "default"], ["sva", "api"], ["exa", "bank"]];
        let kinds = [&mut self.namespaces, &mut self.accesses, &mut self.externals];
        for (data, [kind, name]) in kinds.into_iter().zip(places) {
            data.take(lab, state, &["-n", namespace, kind, name], shown).await;
        }
    }

    async fn in_force(&mut self, lab: &Lab) {
        covered(lab, "covered").await;
        lab.says::<ServiceAccess>("shop", "api", "Ready", "True").await;
        self.take(lab, "healthy", "shop", WELL).await;
        self.baseline.take(lab, "healthy", BASELINE, WELL).await;
    }

    /// What they need is not there yet: a DNS Service, a Service, an answer.
    async fn waiting(&mut self, lab: &Lab) {
        lab.namespace("waiting").await;
        in_namespaces(lab, "waiting", missing_dns()).await;
        external(lab, "waiting", json!({"dnsName": "silent.example.com"})).await;
        patch(lab, BASELINE, &json!({"spec": {"allow": missing_dns()}}));
        self.take(lab, "progressing_waiting", "waiting", WAITING).await;
        self.baseline
            .take(lab, "progressing_waiting", BASELINE, WAITING)
            .await;
    }

    /// Names are taken, and no policy can be about an alias.
    async fn stuck(&mut self, lab: &Lab) {
        lab.namespace("stuck").await;
        squat(lab, "stuck", "ringfence-deny-ingress").await;
        let alias = json!({"type": "ExternalName", "externalName": "api.example.com"});
        lab.service("stuck", "api", alias).await;
        in_namespaces(lab, "stuck", json!({})).await;
        squatted_external(lab, "stuck").await;
        patch(
            lab,
            BASELINE,
            &json!({"spec": {"allow": {"dns": {"services": null}}}}),
        );
        lab.namespace("covered-badly").await;
        squat(lab, "covered-badly", "ringfence-deny-ingress").await;
        kubectl(
            lab,
            &["label", "namespace", "covered-badly", "covered=by-baseline"],
        );
        self.take(lab, "degraded", "stuck", STUCK).await;
        self.baseline.take(lab, "degraded", BASELINE, STUCK).await;
    }
}

#[test]
fn test_data_of_argo_cd_is_what_the_operator_writes() {
    let lab = Lab::start();
    let mut all = All {
        namespaces: TestData::of("ZeroTrustNamespace"),
        accesses: TestData::of("ServiceAccess"),
        externals: TestData::of("ExternalAccess"),
        baseline: TestData::of("ZeroTrustBaseline"),
    };
    block_on(all.nobody_has_looked(&lab));
    let operator = lab.operator("argocd");
    block_on(async {
        all.in_force(&lab).await;
        all.waiting(&lab).await;
        all.stuck(&lab).await;
        operator.stop().await;
        let audit = json!({"mode": "Audit"});
        let nobody = json!({"clients": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]});
        unseen(
            &lab,
            &mut all.namespaces,
            &["-n", "shop", "ztn", "default"],
            audit.clone(),
        )
        .await;
        unseen(&lab, &mut all.accesses, &["-n", "shop", "sva", "api"], nobody).await;
        let other = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        unseen(&lab, &mut all.externals, &["-n", "shop", "exa", "bank"], other).await;
        unseen(&lab, &mut all.baseline, BASELINE, audit).await;
    });
    for data in [all.namespaces, all.accesses, all.externals, all.baseline] {
        data.end();
    }
}

#[test]
fn test_data_of_argo_cd_about_the_probe_is_what_the_operator_writes() {
    let lab = probe::lab();
    let mut data = TestData::of("EnforcementProbe");
    let place: Place<'_> = &["eprobe", "default"];
    block_on(async {
        probe::switch_on(&lab, json!({})).await;
        data.take(&lab, "progressing_new", place, NEW).await;
    });
    let operator = lab.operator("argocd");
    block_on(async {
        data.take(&lab, "degraded", place, STUCK).await;
        // Nobody runs its pods.
        patch(
            &lab,
            place,
            &json!({"spec": {"image": "none", "intervalSeconds": 5}}),
        );
        probe::says(&lab, "Ready", "False/ProbeIncomplete").await;
        data.take(&lab, "progressing_waiting", place, WAITING).await;
        let story = async {
            probe::says(&lab, "Ready", "True/AsExpected").await;
            data.take(&lab, "healthy", place, WELL).await;
        };
        let leaks = std::sync::atomic::AtomicBool::new(false);
        tokio::select! {
            () = story => {}
            () = probe::kubelet(&lab, &leaks) => {}
        }
        operator.stop().await;
        unseen(&lab, &mut data, place, json!({"intervalSeconds": 60})).await;
    });
    data.end();
}
