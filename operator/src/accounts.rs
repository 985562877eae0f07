//! ServiceAccounts as identity: what stands in a pod's labels, and whether it can be relied on.
//!
//! A NetworkPolicy selects pods by labels, and anybody who may create a pod may write labels. So admission policies
//! (`config/admission`) stamp every pod with its account and refuse a stamp that is wrong. A stamp is relied on only while
//! the refusing ones are in the cluster exactly as shipped, and never where a pod is seen that contradicts it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
    ValidatingAdmissionPolicySpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use ringfence_policy::Labels;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The label of a pod that holds the name of its ServiceAccount, or the first piece of it.
pub const STAMP_LABEL: &str = "ringfence.dev/service-account";

/// The longest name that is a label value as it is.
const WHOLE: usize = 63;
/// The length of the pieces of a longer one, without the capital letters around each.
const PIECE: usize = 61;

/// The admission policies that keep stamps right, as shipped.
const PROTECTION: &str = include_str!("../../config/admission/stamp-protection.yaml");

/// The labels by which the pods of a ServiceAccount are known. `config/admission/stamp.yaml` writes the same.
#[must_use]
pub fn stamp(account: &str) -> BTreeMap<String, String> {
    if account.len() <= WHOLE {
        return BTreeMap::from([(STAMP_LABEL.to_owned(), account.to_owned())]);
    }
    // The API allows no other characters than ASCII in a name, so a byte is a character.
    let pieces: Vec<&[u8]> = account.as_bytes().chunks(PIECE).collect();
    let last = pieces.len() - 1;
    let value = |n: usize, piece: &[u8]| {
        let end = if n == last { 'Z' } else { 'X' };
        format!("X{}{end}", String::from_utf8_lossy(piece))
    };
    let numbered = pieces.iter().enumerate();
    numbered.map(|(n, piece)| (label(n), value(n, piece))).collect()
}

fn label(piece: usize) -> String {
    match piece {
        0 => STAMP_LABEL.to_owned(),
        n => format!("{STAMP_LABEL}-{}", n + 1),
    }
}

/// The name of the ServiceAccount that a pod runs as. None for a mirror pod, which runs as none.
#[must_use]
pub fn account_of(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.service_account_name.as_deref()?;
    Some(name).filter(|name| !name.is_empty())
}

/// Whether a policy that selects the pods of a ServiceAccount by its stamp selects one with these labels.
#[must_use]
pub fn carries(labels: &Labels, account: &str) -> bool {
    bears(labels, &stamp(account))
}

/// The same for a stamp that is at hand, for whoever asks about many pods.
pub(crate) fn bears(labels: &Labels, stamp: &BTreeMap<String, String>) -> bool {
    stamp.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a pod runs as a ServiceAccount, or says that it does.
#[must_use]
pub fn is_about(pod: &Pod, account: &str) -> bool {
    account_of(pod) == Some(account) || carries(pod.labels(), account)
}

/// What keeps stamps right: the specs, by name.
struct Protection {
    policies: BTreeMap<String, ValidatingAdmissionPolicySpec>,
    bindings: BTreeMap<String, ValidatingAdmissionPolicyBindingSpec>,
}

static SHIPPED: LazyLock<Protection> = LazyLock::new(|| Protection {
    policies: shipped("ValidatingAdmissionPolicy"),
    bindings: shipped("ValidatingAdmissionPolicyBinding"),
});

/// The specs of a kind among what is shipped. A test shows that all of them can be read.
fn shipped<T: DeserializeOwned>(kind: &str) -> BTreeMap<String, T> {
    serde_yaml_ng::Deserializer::from_str(PROTECTION)
        .filter_map(|document| Value::deserialize(document).ok())
        .filter(|object| object["kind"] == kind)
        .filter_map(|object| {
            let name = object["metadata"]["name"].as_str()?.to_owned();
            Some((name, serde_json::from_value(object["spec"].clone()).ok()?))
        })
        .collect()
}

/// Whether the cluster refuses wrong stamps: every admission policy and binding that does so is there, as shipped.
#[must_use]
pub fn protected<'a>(
    policies: impl IntoIterator<Item = &'a Arc<ValidatingAdmissionPolicy>>,
    bindings: impl IntoIterator<Item = &'a Arc<ValidatingAdmissionPolicyBinding>>,
) -> bool {
    let policies: Vec<_> = policies.into_iter().collect();
    let bindings: Vec<_> = bindings.into_iter().collect();
    let wanted = &*SHIPPED;
    let enacted = |name: &String, spec: &ValidatingAdmissionPolicySpec| {
        policies
            .iter()
            .any(|policy| policy.name_any() == *name && policy.spec.as_ref() == Some(spec))
    };
    let bound = |name: &String, spec: &ValidatingAdmissionPolicyBindingSpec| {
        bindings.iter().any(|binding| {
            let kept = binding.metadata.deletion_timestamp.is_none();
            kept && binding.name_any() == *name && binding.spec == *spec
        })
    };
    !wanted.policies.is_empty()
        && wanted.policies.iter().all(|(name, spec)| enacted(name, spec))
        && wanted.bindings.iter().all(|(name, spec)| bound(name, spec))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// How many labels the admission policies know.
    const PIECES: usize = 5;

    fn objects<T: DeserializeOwned>(kind: &str) -> Vec<Arc<T>> {
        let documents = serde_yaml_ng::Deserializer::from_str(PROTECTION);
        documents
            .map(|document| Value::deserialize(document).unwrap())
            .filter(|object| object["kind"] == kind)
            .map(|object| Arc::new(serde_json::from_value(object).unwrap()))
            .collect()
    }

    #[test]
    fn names_that_differ_have_stamps_none_of_which_contains_another() {
        let names = [
            "a".to_owned(),
            "x".repeat(63),
            "x".repeat(61),
            "x".repeat(64),
            "x".repeat(122),
            "x".repeat(123),
            "x".repeat(183),
            "x".repeat(253),
            format!("{}-y", "x".repeat(120)),
            "default".to_owned(),
        ];
        for one in &names {
            assert!(stamp(one).len() <= PIECES && carries(&stamp(one), one), "{one}");
            for value in stamp(one).values() {
                assert!(value.len() <= 63, "{one}");
                assert!(value.starts_with(|c: char| c.is_ascii_alphanumeric()), "{one}");
                assert!(value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{one}");
            }
            for other in names.iter().filter(|other| *other != one) {
                assert!(!carries(&stamp(one), other), "{one} is taken for {other}");
            }
        }
    }

    #[test]
    fn stamps_are_protected_by_all_of_the_policies_as_shipped_and_by_nothing_less() {
        let policies: Vec<Arc<ValidatingAdmissionPolicy>> = objects("ValidatingAdmissionPolicy");
        let bindings: Vec<Arc<ValidatingAdmissionPolicyBinding>> =
            objects("ValidatingAdmissionPolicyBinding");
        assert_eq!((policies.len(), bindings.len()), (2, 2));
        assert!(protected(&policies, &bindings));
        for left_out in 0..2 {
            let without = |n: usize| n != left_out;
            let some: Vec<_> = (0..2)
                .filter(|n| without(*n))
                .map(|n| policies[n].clone())
                .collect();
            assert!(!protected(&some, &bindings));
            let some: Vec<_> = (0..2)
                .filter(|n| without(*n))
                .map(|n| bindings[n].clone())
                .collect();
            assert!(!protected(&policies, &some));
        }
        let mut weakened = (*bindings[0]).clone();
        weakened.spec.validation_actions = vec!["Audit".to_owned()];
        assert!(!protected(&policies, &[Arc::new(weakened), bindings[1].clone()]));
        let mut narrowed = (*policies[0]).clone();
        narrowed.spec.as_mut().unwrap().match_conditions = Some(vec![
            serde_json::from_value(serde_json::json!({"name": "x", "expression": "false"})).unwrap(),
        ]);
        assert!(!protected(&[Arc::new(narrowed), policies[1].clone()], &bindings));
    }
}
