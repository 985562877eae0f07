//! A name for the policies of a namespace, for those who hold them and those who ask whether they are held.

use serde::Serialize;

use crate::digest::digest;

/// Which version of an object it is: another generation says something else, another UID is another object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Version {
    /// The object's UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// A digest of the policies of one namespace, each by name and version, in any order. Equal for the same policies on
/// every machine: an enforcer reports it of those that its kernel holds, and whoever sees the policies in the API server
/// computes it and compares.
pub fn applied_digest<'a>(policies: impl IntoIterator<Item = (&'a str, &'a Version)>) -> String {
    let mut policies: Vec<_> = policies.into_iter().collect();
    policies.sort_unstable();
    digest(&policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(uid: &str, generation: i64) -> Version {
        Version {
            uid: uid.to_owned(),
            generation,
        }
    }

    #[test]
    fn a_digest_tells_any_other_policy_from_these_and_no_order_from_another() {
        let (one, two) = (version("1", 1), version("2", 1));
        let these = applied_digest([("a", &one), ("b", &two)]);
        assert_eq!(these, applied_digest([("b", &two), ("a", &one)]));
        for other in [
            vec![("a", &one)],
            vec![("a", &one), ("c", &two)],
            vec![("a", &one), ("b", &version("2", 2))],
            vec![("a", &one), ("b", &version("3", 1))],
            vec![],
        ] {
            assert_ne!(these, applied_digest(other));
        }
    }

    #[test]
    fn a_digest_stays_the_same_from_version_to_version() {
        // Enforcers and operators of different versions compare it.
        let digest = applied_digest([("default-deny", &version("6a1f", 2))]);
        assert_eq!(digest, "w27wiin2woy4kyrmmsln");
    }
}
