//! The API server refuses a bad spec itself, with a message that names the field, and takes a good one.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use ringfence_tests::source;
use ringfence_tests::testbed::ApiServer;
use serde::Deserialize;
use serde_json::{Value, json};

/// One object, and what the API server must make of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    what: String,
    /// The field that a refusal must name.
    field: Option<String>,
    kind: String,
    name: Option<String>,
    /// So many clients, each another.
    clients: Option<usize>,
    spec: Value,
}

impl Case {
    fn object(&self) -> Value {
        let singletons = ["ZeroTrustNamespace", "ZeroTrustBaseline", "EnforcementProbe"];
        let usual = if singletons.contains(&self.kind.as_str()) {
            "default"
        } else {
            "api"
        };
        let name = self.name.as_deref().unwrap_or(usual);
        let mut spec = self.spec.clone();
        if let Some(number) = self.clients {
            let client = |n: usize| json!({"namespace": format!("n-{n}"), "podSelector": {"matchLabels": {"app": format!("a-{n}")}}});
            spec["clients"] = (0..number).map(client).collect();
        }
        json!({
            "apiVersion": "ringfence.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        })
    }
}

fn cases(text: &str) -> Vec<Case> {
    serde_yaml_ng::from_str(text).unwrap()
}

/// Runs a command with an object as its input; gives whether it went well, and what it said.
fn with_input(mut command: Command, object: &Value) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(object.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// An API server with our definitions, established.
fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    server.define(&source::root().join("config/crd")).unwrap();
    server
}

fn create(server: &ApiServer, case: &Case) -> (bool, String) {
    let command = server.kubectl(["create", "--dry-run=server", "--validate=strict", "-f", "-"]);
    with_input(command, &case.object())
}

#[test]
fn bad_specs_are_refused_with_the_field_and_good_ones_are_taken() {
    let server = server();
    let mut wrong = Vec::new();
    let refused = cases(include_str!("refused.yaml"));
    assert!(refused.len() >= 40);
    for case in &refused {
        let (created, said) = create(&server, case);
        let field = case.field.as_deref().unwrap();
        if created || !said.contains(field) {
            wrong.push(format!("{}: must be refused for {field}, but: {said}", case.what));
        }
    }
    for case in cases(include_str!("accepted.yaml")) {
        let (created, said) = create(&server, &case);
        if !created {
            wrong.push(format!("{}: must be taken, but: {said}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
