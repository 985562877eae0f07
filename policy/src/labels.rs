//! Labels and label selectors.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Serialize;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector in one canonical form: requirements that all must hold. None at all selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must be true of the label's value.
    pub operator: Operator,
}

/// What a [`Requirement`] asks of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Operator {
    /// The label is there and its value is one of these.
    In(BTreeSet<String>),
    /// The label is absent, or its value is none of these.
    NotIn(BTreeSet<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A selector that the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidSelector {
    /// The field below the selector, such as `matchExpressions[0].values`.
    pub field: String,
    /// What is wrong and what is expected.
    pub reason: String,
}

impl Selector {
    /// The selector that selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// A selector from requirements that all must hold.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self {
            requirements: requirements.into_iter().collect(),
        }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }

    /// Whether this selector selects every object, whatever its labels.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// A label that every selected object has, with the values that it can have there, as few as the selector says.
    /// `None` where the selector names no values.
    pub(crate) fn one_of(&self) -> Option<(&String, &BTreeSet<String>)> {
        let listing = self
            .requirements
            .iter()
            .filter_map(|requirement| match &requirement.operator {
                Operator::In(values) => Some((&requirement.key, values)),
                _ => None,
            });
        listing.min_by_key(|(_, values)| values.len())
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.requirements.iter()
    }
}

impl Requirement {
    /// Whether these labels satisfy the requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl Requirement {
    /// Whether every object that meets this requirement meets `other`, as far as the two alone tell.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        self.key == other.key
            && match (&self.operator, &other.operator) {
                (Operator::In(narrow), Operator::In(wide)) => narrow.is_subset(wide),
                (Operator::In(values), Operator::NotIn(not)) => values.is_disjoint(not),
                (Operator::NotIn(more), Operator::NotIn(fewer)) => fewer.is_subset(more),
                (Operator::In(_) | Operator::Exists, Operator::Exists) => true,
                (Operator::DoesNotExist, Operator::DoesNotExist | Operator::NotIn(_)) => true,
                _ => false,
            }
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = InvalidSelector;

    /// Fails where the API server would: a key or a value that no label can have, an unknown operator, `In`/`NotIn`
    /// without values, `Exists`/`DoesNotExist` with. Values of expressions are not looked at: the API server keeps
    /// objects that have had strange ones there since before it looked, and such a value matches nothing.
    fn try_from(selector: &LabelSelector) -> Result<Self, InvalidSelector> {
        let mut requirements = BTreeSet::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            if let Some(reason) = why_no_key(key).or_else(|| why_no_value(value)) {
                return Err(InvalidSelector {
                    field: "matchLabels".to_owned(),
                    reason,
                });
            }
            requirements.insert(Requirement {
                key: key.clone(),
                operator: Operator::In(BTreeSet::from([value.clone()])),
            });
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let requirement = requirement(expression).map_err(|(field, reason)| InvalidSelector {
                field: format!("matchExpressions[{index}].{field}"),
                reason,
            })?;
            requirements.insert(requirement);
        }
        Ok(Self { requirements })
    }
}

/// One expression; or the field that is wrong, and how.
fn requirement(expression: &LabelSelectorRequirement) -> Result<Requirement, (&'static str, String)> {
    if let Some(reason) = why_no_key(&expression.key) {
        return Err(("key", reason));
    }
    let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
    let operator = match (expression.operator.as_str(), values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        (operator @ ("In" | "NotIn"), true) => {
            return Err(("values", format!("operator {operator} needs at least one value")));
        }
        (operator @ ("Exists" | "DoesNotExist"), false) => {
            return Err(("values", format!("operator {operator} takes no values")));
        }
        (other, _) => {
            let reason = format!("`{other}` is none of In, NotIn, Exists, DoesNotExist");
            return Err(("operator", reason));
        }
    };
    Ok(Requirement {
        key: expression.key.clone(),
        operator,
    })
}

/// Why no label can have this key, if so: a name, optionally after a DNS name and a slash.
fn why_no_key(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let valid = is_name(name) && prefix.is_none_or(is_dns_name);
    let expected = "1 to 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'";
    (!valid).then(|| format!("`{key}` is no key of a label: {expected}"))
}

/// Why no label can have this value, if so.
fn why_no_value(value: &str) -> Option<String> {
    let valid = value.is_empty() || is_name(value);
    let expected = "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
    (!valid).then(|| format!("`{value}` is no value of a label: {expected}"))
}

fn is_name(name: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && ends(name.bytes().next())
        && ends(name.bytes().next_back())
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Lower case labels of letters, digits and inner dashes, joined by dots (RFC 1123).
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn selector(yaml: &str) -> Result<Selector, InvalidSelector> {
        Selector::try_from(&serde_yaml_ng::from_str::<LabelSelector>(yaml).unwrap())
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(selector("{}").unwrap().matches(&labels(&[])));
        assert!(
            selector("{matchLabels: {}, matchExpressions: []}")
                .unwrap()
                .matches(&labels(&[("a", "b")]))
        );
    }

    #[test]
    fn each_operator_treats_an_absent_label_as_the_api_does() {
        let absent = labels(&[]);
        for (operator, expected) in [
            ("In, values: [x]", false),
            ("NotIn, values: [x]", true),
            ("Exists", false),
            ("DoesNotExist", true),
        ] {
            let selector = selector(&format!(
                "{{matchExpressions: [{{key: app, operator: {operator}}}]}}"
            ))
            .unwrap();
            assert_eq!(selector.matches(&absent), expected, "{operator}");
        }
    }

    #[test]
    fn match_labels_and_match_expressions_must_both_hold() {
        let selector = selector(
            "{matchLabels: {app: web}, matchExpressions: [{key: v, operator: NotIn, values: [old]}]}",
        )
        .unwrap();
        assert!(selector.matches(&labels(&[("app", "web"), ("v", "new")])));
        assert!(selector.matches(&labels(&[("app", "web")])));
        assert!(!selector.matches(&labels(&[("app", "web"), ("v", "old")])));
        assert!(!selector.matches(&labels(&[("v", "new")])));
    }

    #[test]
    fn what_the_api_server_refuses_is_an_error_that_names_the_field() {
        for (yaml, field) in [
            (
                "{matchExpressions: [{key: a, operator: In}]}",
                "matchExpressions[0].values",
            ),
            (
                "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
                "matchExpressions[0].values",
            ),
            (
                "{matchExpressions: [{key: a, operator: Exists}, {key: a, operator: Gt}]}",
                "matchExpressions[1].operator",
            ),
            ("{matchLabels: {'a b': x}}", "matchLabels"),
            ("{matchLabels: {a: 'x y'}}", "matchLabels"),
            ("{matchLabels: {'A.example/app': x}}", "matchLabels"),
            (
                "{matchExpressions: [{key: '', operator: Exists}]}",
                "matchExpressions[0].key",
            ),
            (
                "{matchExpressions: [{key: a/b/c, operator: Exists}]}",
                "matchExpressions[0].key",
            ),
        ] {
            assert_eq!(selector(yaml).unwrap_err().field, field);
        }
    }

    #[test]
    fn keys_may_have_a_dns_name_before_a_slash_and_values_may_be_empty() {
        for yaml in [
            "{matchLabels: {app.kubernetes.io/name: web}}",
            "{matchLabels: {a_B.c-d: ''}}",
            "{matchExpressions: [{key: a, operator: In, values: ['not a value']}]}",
        ] {
            assert!(selector(yaml).is_ok(), "{yaml}");
        }
    }
}
