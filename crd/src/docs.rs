//! The API reference, from the same schemas as the CustomResourceDefinitions.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::crds::definitions;

const INTRODUCTION: &str = "<!-- Generated from the types of the ringfence-crd crate by `cargo xtask crdgen`. Do not edit. -->

# API reference

Every field of every kind, as the API server knows it; `kubectl explain ztn.spec` says the same. A spec that can mean
nothing is refused by the API server itself; the rules are listed with the field they are about.
";

/// The text of `docs/api.md`: every field of every kind, with its type, default, limits and meaning.
#[must_use]
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for definition in definitions() {
        kind(&mut text, &definition);
    }
    text
}

fn kind(text: &mut String, definition: &Value) {
    let (spec, names) = (&definition["spec"], &definition["spec"]["names"]);
    let version = &spec["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    line(text, &format!("\n## {}\n", word(&names["kind"])));
    line(
        text,
        &format!(
            "`{}/{}`, short name `{}`.\n\n{}",
            word(&spec["group"]),
            word(&version["name"]),
            word(&names["shortNames"][0]),
            word(&schema["description"])
        ),
    );
    rules(text, schema, "");
    for part in ["spec", "status"] {
        let properties = &schema["properties"][part]["properties"];
        if properties.as_object().is_none_or(Map::is_empty) {
            continue;
        }
        line(text, &format!("\n### {}.{part}\n", word(&names["kind"])));
        line(text, "| field | type | meaning |\n| --- | --- | --- |");
        fields(text, &schema["properties"][part], "");
    }
}

/// A row for every property, depth first.
fn fields(text: &mut String, schema: &Value, path: &str) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let needed = if required.contains(&name.as_str()) {
            ", required"
        } else {
            ""
        };
        let mut meaning = String::new();
        rules(&mut meaning, property, " ");
        rules(&mut meaning, &property["items"], " ");
        line(
            text,
            &format!(
                "| `{path}` | {}{needed} | {} |",
                type_of(property),
                cell(&(description(property) + &meaning))
            ),
        );
        fields(text, property, &path);
        fields(text, &property["items"], &format!("{path}[]"));
    }
}

fn description(property: &Value) -> String {
    let mut text = property["description"].as_str().unwrap_or_default().to_owned();
    if let Some(default) = property.get("default") {
        let _ = write!(text, " Default: `{default}`.");
    }
    text
}

/// The messages of the rules of a schema.
fn rules(text: &mut String, schema: &Value, separator: &str) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let message = rule["message"].as_str().unwrap_or_default();
        let _ = write!(
            text,
            "{}*{message}.*",
            if separator.is_empty() { "\n" } else { separator }
        );
    }
    if separator.is_empty() {
        text.push('\n');
    }
}

fn type_of(property: &Value) -> String {
    let limits = limits(property);
    if let Some(values) = property["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect();
        return values.join(" or ");
    }
    if property["x-kubernetes-int-or-string"] == true {
        return "number or name".to_owned();
    }
    match property["type"].as_str() {
        Some("array") => format!("list of {}{limits}", type_of(&property["items"])),
        Some("object") if property.get("additionalProperties").is_some() => "map".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

fn limits(property: &Value) -> String {
    match (property["minItems"].as_u64(), property["maxItems"].as_u64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (None, Some(most)) => format!(", {most} at most"),
        (Some(least), None) => format!(", {least} at least"),
        (None, None) => String::new(),
    }
}

/// Text that stays within one cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
