//! Labels and label selectors.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
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

    /// Fails where the API server would: an unknown operator, `In`/`NotIn` without values, `Exists`/`DoesNotExist` with.
    fn try_from(selector: &LabelSelector) -> Result<Self, InvalidSelector> {
        let mut requirements: BTreeSet<Requirement> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(BTreeSet::from([value.clone()])),
            })
            .collect();
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let invalid = |field: &str, reason: String| InvalidSelector {
                field: format!("matchExpressions[{index}].{field}"),
                reason,
            };
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                (operator @ ("In" | "NotIn"), true) => {
                    return Err(invalid(
                        "values",
                        format!("operator {operator} needs at least one value"),
                    ));
                }
                (operator @ ("Exists" | "DoesNotExist"), false) => {
                    return Err(invalid("values", format!("operator {operator} takes no values")));
                }
                (other, _) => {
                    let reason = format!("`{other}` is none of In, NotIn, Exists, DoesNotExist");
                    return Err(invalid("operator", reason));
                }
            };
            requirements.insert(Requirement {
                key: expression.key.clone(),
                operator,
            });
        }
        Ok(Self { requirements })
    }
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
        ] {
            assert_eq!(selector(yaml).unwrap_err().field, field);
        }
    }
}
