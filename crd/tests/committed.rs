//! The files that users install are the ones that the types say.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::Value;

/// Set to `1` to write the files instead of comparing them.
const UPDATE: &str = "RINGFENCE_UPDATE_GENERATED";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn check(path: &str, wanted: &str) {
    let path = root().join(path);
    if std::env::var(UPDATE).as_deref() == Ok("1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == wanted,
        "{} is out of date: run `cargo xtask crdgen`",
        path.display()
    );
}

#[test]
fn committed_definitions_are_what_the_types_say() {
    for (name, text) in ringfence_crd::generate() {
        check(&format!("config/crd/{name}"), &text);
    }
}

#[test]
fn what_argo_cd_is_told_is_generated_from_one_script() {
    for (name, text) in ringfence_crd::argocd() {
        check(&format!("config/argocd/{name}"), &text);
    }
}

#[test]
fn the_api_reference_is_what_the_types_say() {
    check("docs/api.md", &ringfence_crd::reference());
}

#[test]
fn every_field_has_a_word_for_those_who_ask_kubectl_explain() {
    for (name, text) in ringfence_crd::generate() {
        let definition: Value = serde_yaml_ng::from_str(&text).unwrap();
        let mut silent = Vec::new();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            undescribed(&schema["properties"][part], part, &mut silent);
        }
        assert!(silent.is_empty(), "{name}: no description of {silent:?}");
    }
}

#[test]
fn no_list_holds_more_than_what_was_written() {
    for (name, text) in ringfence_crd::generate() {
        let definition: Value = serde_yaml_ng::from_str(&text).unwrap();
        let mut found = Vec::new();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        defaults_of_items(&schema["properties"]["spec"], "spec", false, &mut found);
        assert!(
            found.is_empty(),
            "{name}: {found:?} are entered into items of lists"
        );
    }
}

fn defaults_of_items(schema: &Value, path: &str, inside: bool, found: &mut Vec<String>) {
    if inside && schema.get("default").is_some() {
        found.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        defaults_of_items(property, &format!("{path}.{name}"), inside, found);
    }
    if let Some(items) = schema.get("items") {
        defaults_of_items(items, &format!("{path}[]"), true, found);
    }
}

fn undescribed(schema: &Value, path: &str, silent: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(str::is_empty) {
            silent.push(path.clone());
        }
        undescribed(property, &path, silent);
        undescribed(&property["items"], &path, silent);
    }
}

#[test]
fn no_definition_is_left_over_from_a_kind_that_is_gone() {
    let wanted: Vec<String> = ringfence_crd::generate()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for entry in std::fs::read_dir(root().join("config/crd")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            wanted.contains(&name),
            "config/crd/{name} is not generated: delete it"
        );
    }
}
