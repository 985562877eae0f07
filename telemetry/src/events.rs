//! What Events have in common, whoever sends them.

/// The longest note that the API server takes is 1 kB.
const LONGEST: usize = 1000;

/// A note that the API server takes.
pub fn shortened(mut note: String) -> String {
    if note.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}
