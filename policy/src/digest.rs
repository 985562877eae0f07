//! Short stable names for definitions.

use serde::Serialize;
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Twenty base32 characters (100 bits) that name `definition`: equal for equal definitions, on every machine and in
/// every version that keeps the definition's shape. Long enough that nobody can craft two definitions with one name,
/// short enough for the names of chains and sets.
pub fn digest(definition: &impl Serialize) -> String {
    // JSON of plain structs and strings cannot fail; should that ever change, the empty text still names something.
    let text = serde_json::to_vec(definition).unwrap_or_default();
    let hash = Sha256::digest(text);
    hash.chunks_exact(5)
        .take(4)
        .map(|chunk| chunk.iter().copied().chain([0; 3]).collect::<Vec<u8>>())
        .filter_map(|bytes| bytes.first_chunk::<8>().copied())
        .map(u64::from_be_bytes)
        .flat_map(|bits| (0..5).map(move |i| ALPHABET[(bits >> (59 - 5 * i)) as usize & 31] as char))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_has_twenty_base32_characters_and_depends_on_every_part() {
        let one = digest(&("prod1", "db"));
        assert_eq!(one.len(), 20);
        assert!(
            one.chars()
                .all(|c| c.is_ascii_lowercase() || ('2'..='7').contains(&c))
        );
        assert_ne!(one, digest(&("prod", "1db")));
        assert_eq!(one, digest(&("prod1", "db")));
    }
}
