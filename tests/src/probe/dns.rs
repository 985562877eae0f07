//! Just enough of DNS (RFC 1035) to ask one question and recognise its answer.

use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, ensure};

const HEADER: usize = 12;

/// A query for the A record of `name`, recursion desired, under an id no other query of this process has now.
pub(super) fn query(name: &str) -> Result<Vec<u8>> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    message.extend(id.to_be_bytes());
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        ensure!(
            (1..=63).contains(&label.len()),
            "{name:?} is no domain name: a label has 1 to 63 bytes"
        );
        message.extend(u8::try_from(label.len()));
        message.extend(label.as_bytes());
    }
    ensure!(
        message.len() - HEADER <= 254,
        "{name:?} is no domain name: it is longer than 253 bytes"
    );
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}

/// Whether `answer` is a response to `query`: the same id and question, and marked as a response.
pub(super) fn answers(query: &[u8], answer: &[u8]) -> bool {
    let same = |range: std::ops::Range<usize>| query.get(range.clone()) == answer.get(range);
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    answer.len() >= query.len() && is_response && same(0..2) && same(HEADER..query.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_written_label_by_label() {
        let message = query("ab.c.").unwrap();
        assert_eq!(message[2..HEADER], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[HEADER..], *b"\x02ab\x01c\x00\x00\x01\x00\x01");
    }

    #[test]
    fn what_is_no_domain_name_is_refused() {
        for name in [
            "",
            "a..b",
            &"x".repeat(64),
            &["y".repeat(60).as_str(); 5].join("."),
        ] {
            assert!(query(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_echo_and_another_ones_answer_are_no_answers() {
        let mine = query("a.b").unwrap();
        let mut answer = mine.clone();
        assert!(!answers(&mine, &answer), "an echo");
        answer[2] |= 0x80;
        assert!(answers(&mine, &answer));
        assert!(!answers(&query("a.b").unwrap(), &answer), "another id");
        assert!(!answers(&mine, &answer[..HEADER]), "cut short");
    }
}
