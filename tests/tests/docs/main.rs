//! What the documentation shows is what a reader can use: its objects are taken by a real API server, and its links lead
//! somewhere.
#![allow(clippy::unwrap_used)]

mod markdown;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringfence_tests::source;
use ringfence_tests::testbed::ApiServer;
use serde_json::{Value, json};

/// Kinds of other programs, which the API server does not know here. Everything else it must take.
const OTHER_GROUPS: [&str; 2] = ["argoproj.io/", "kustomize.config.k8s.io/"];

/// An object of the documentation.
struct Shown {
    /// The file and the line.
    place: String,
    object: Value,
}

impl Shown {
    fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }
}

/// The Markdown files of a folder of the source tree, sorted.
fn markdown_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(source::root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    files.sort();
    files
}

/// A file as the reader knows it.
fn shown_path(file: &Path) -> String {
    let path = file.strip_prefix(source::root()).unwrap_or(file);
    path.display().to_string()
}

/// Every object that a page shows; a part of one has no apiVersion and is left out.
fn objects() -> Vec<Shown> {
    let mut objects = Vec::new();
    for file in [markdown_files("."), markdown_files("docs")].concat() {
        for document in markdown::yaml_documents(&fs::read_to_string(&file).unwrap()) {
            let place = format!("{}:{}", shown_path(&file), document.line);
            let object: Value =
                serde_yaml_ng::from_str(&document.what).unwrap_or_else(|error| panic!("{place}: {error}"));
            let Some(version) = object["apiVersion"].as_str() else {
                continue;
            };
            if !OTHER_GROUPS.iter().any(|group| version.starts_with(group)) {
                objects.push(Shown { place, object });
            }
        }
    }
    objects
}

/// Applies an object; gives what the API server said against it.
fn apply(server: &ApiServer, object: &Value, how: &[&str]) -> Result<(), String> {
    let mut command: Command = server.kubectl(["apply", "--server-side", "--validate=strict", "-f", "-"]);
    let mut child = command
        .args(how)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = object.to_string();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// An API server with our definitions, established.
fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    server.define(&source::root().join("config/crd")).unwrap();
    server
}

#[test]
fn every_object_of_the_documentation_is_taken() {
    let objects = objects();
    assert!(objects.len() >= 20, "only {} objects were found", objects.len());
    let server = server();
    let namespaces: BTreeSet<_> = objects.iter().filter_map(Shown::namespace).collect();
    for name in namespaces {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        apply(&server, &namespace, &[]).unwrap();
    }
    let refused: Vec<_> = objects
        .iter()
        .filter_map(|shown| {
            let said = apply(&server, &shown.object, &["--dry-run=server"]).err()?;
            Some(format!("{}: {said}", shown.place))
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Why a link of a file leads nowhere, if it does.
fn broken(file: &Path, link: &str) -> Option<String> {
    if link.contains("://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        file.parent().unwrap().join(path)
    };
    if !target.exists() {
        return Some(format!("there is no {path}"));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&target).unwrap();
    let known = markdown::anchors(&text).iter().any(|known| known == anchor);
    (!known).then(|| format!("{} has no heading #{anchor}", shown_path(&target)))
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut files = [
        markdown_files("."),
        markdown_files("docs"),
        markdown_files("examples"),
    ]
    .concat();
    for entry in fs::read_dir(source::root().join("examples")).unwrap() {
        files.extend(Some(entry.unwrap().path().join("README.md")).filter(|path| path.exists()));
    }
    let mut wrong = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for link in markdown::links(&text) {
            if let Some(why) = broken(file, link.what) {
                wrong.push(format!("{}:{}: {why}", shown_path(file), link.line));
            }
        }
    }
    assert!(files.len() > 40 && wrong.is_empty(), "{}", wrong.join("\n"));
}
