//! DNS as tests write it: what each name stands for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use ringfence_operator::dns::{Answer, Limits, Resolve, Unanswered};

/// Short times, for tests that wait.
pub(crate) const LIMITS: Limits = Limits {
    floor: Duration::from_millis(100),
    ceiling: Duration::from_secs(5),
    grace: Duration::from_secs(10),
    answer: 64,
    kept: 256,
};

static ANSWERS: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());

/// A resolver that answers as [`stands_for`] says, and not at all for a name that nothing is said of.
pub(crate) struct Script;

/// From now on a name has these addresses, each answer for a moment only.
pub(crate) fn stands_for(name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    ANSWERS.lock().unwrap().insert(name.to_owned(), addresses);
}

/// From now on nobody answers for a name.
pub(crate) fn is_silent(name: &str) {
    ANSWERS.lock().unwrap().remove(name);
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>> {
        Box::pin(async move {
            let answers = ANSWERS.lock().unwrap();
            let addresses = answers.get(name).ok_or_else(|| Unanswered {
                cause: "silence".to_owned(),
            })?;
            Ok(Answer {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                time_to_live: Duration::from_millis(100),
            })
        })
    }
}
