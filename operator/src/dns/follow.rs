//! Following names: asks when an answer has had its time, and tells whoever depends on what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ringfence_crd::ExternalAccess;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::book::{Answer, Book, Limits, Resolution, Room, State};
use super::resolver::{Resolve, Unanswered};
use crate::metrics::OperatorMetrics;

/// How many names are asked for at a time.
const AT_ONCE: Room = Room {
    reliable: 64,
    others: 64,
};
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The names that anybody wants, and what they stand for.
pub struct Names {
    book: Mutex<Book>,
    resolver: Arc<dyn Resolve>,
    changed: Notify,
}

impl Names {
    /// Nothing is wanted yet.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolve>, limits: Limits) -> Self {
        Self {
            book: Mutex::new(Book::new(limits)),
            resolver,
            changed: Notify::new(),
        }
    }

    /// Follows exactly the names of these resources from now on.
    pub fn want<'a>(&self, resources: impl Iterator<Item = &'a ExternalAccess>) {
        let mut names: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for resource in resources {
            for name in names_of(resource) {
                names
                    .entry(name.to_owned())
                    .or_default()
                    .extend(remembered(resource, name));
            }
        }
        self.book().want(&names, Instant::now());
        self.changed.notify_one();
    }

    /// What a name of a resource stands for. One that is not followed yet has what its status remembers.
    #[must_use]
    pub fn resolution(&self, resource: &ExternalAccess, name: &str) -> Resolution {
        let known = self.book().resolution(name);
        known.unwrap_or_else(|| Resolution {
            addresses: remembered(resource, name).collect(),
            state: State::Pending,
            left_out: 0,
        })
    }

    /// The names that stand for any of these addresses.
    #[must_use]
    pub fn standing_for(&self, addresses: &[IpAddr]) -> BTreeSet<String> {
        let book = self.book();
        let names = addresses.iter().flat_map(|address| book.names_of(*address));
        names.map(str::to_owned).collect()
    }

    /// Asks for what is due, for ever. `tell` hears of every name that stands for something else than before. A question that
    /// takes long holds up no other.
    pub async fn follow(&self, metrics: &OperatorMetrics, tell: impl Fn(&BTreeSet<String>)) {
        let (mut asking, mut room) = (FuturesUnordered::new(), AT_ONCE);
        loop {
            let now = Instant::now();
            tell_of(&tell, &self.book().expire(now));
            let due = self.book().due(now, room);
            for (name, reliable) in due {
                *share(&mut room, reliable) -= 1;
                asking.push(async move {
                    let answer = self.ask(&name).await;
                    (name, reliable, answer)
                });
            }
            let next = self.book().next(room);
            tokio::select! {
                Some((name, reliable, answer)) = asking.next() => {
                    *share(&mut room, reliable) += 1;
                    metrics.asked(answer.is_ok());
                    if self.enter(&name, &answer) {
                        tell_of(&tell, &BTreeSet::from([name]));
                    }
                }
                () = at(next) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn ask(&self, name: &str) -> Result<Answer, Unanswered> {
        let late = |_| Unanswered {
            cause: format!("no answer within {PATIENCE:?}"),
        };
        timeout(PATIENCE, self.resolver.resolve(name))
            .await
            .map_err(late)?
    }

    fn enter(&self, name: &str, answer: &Result<Answer, Unanswered>) -> bool {
        let now = Instant::now();
        match answer {
            Ok(answer) => self.book().answered(name, answer, now),
            Err(unanswered) => {
                let changed = self.book().failed(name, now);
                if changed {
                    tracing::warn!(name, cause = %unanswered, "a DNS name is not answered for; what it stood for stays open");
                }
                changed
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // The book is consistent after every method, so a panic elsewhere does no harm.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(room: &mut Room, reliable: bool) -> &mut usize {
    if reliable {
        &mut room.reliable
    } else {
        &mut room.others
    }
}

/// Waits until a moment; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn tell_of(tell: &impl Fn(&BTreeSet<String>), names: &BTreeSet<String>) {
    if !names.is_empty() {
        tell(names);
    }
}

/// The names that a resource wants.
pub(crate) fn names_of(resource: &ExternalAccess) -> BTreeSet<&str> {
    let peers = resource.spec.egress.iter().flat_map(|rule| &rule.to);
    peers.filter_map(|peer| peer.dns_name.as_deref()).collect()
}

/// The addresses that a resource's status says a name stood for.
fn remembered<'a>(resource: &'a ExternalAccess, name: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let known = resource.status.iter().flat_map(|status| &status.names);
    known
        .filter(move |known| known.name == name)
        .flat_map(|known| known.addresses.iter().filter_map(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::future::BoxFuture;
    use serde_json::json;

    use super::*;

    /// Never answers for names that begin with `slow`, and at once for all others.
    struct Uneven;

    impl Resolve for Uneven {
        fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>> {
            Box::pin(async move {
                if name.starts_with("slow") {
                    std::future::pending::<()>().await;
                }
                Ok(Answer {
                    addresses: BTreeSet::from([IpAddr::from([203, 0, 113, 1])]),
                    time_to_live: Duration::from_secs(30),
                })
            })
        }
    }

    fn resource(names: &[String]) -> ExternalAccess {
        let to: Vec<_> = names.iter().map(|name| json!({"dnsName": name})).collect();
        let spec = json!({"podSelector": {}, "egress": [{"to": to}]});
        serde_json::from_value(json!({"metadata": {"name": "out", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_answers_for_hold_up_none_that_was_answered_for() {
        let names = Names::new(Arc::new(Uneven), Limits::default());
        let quick = resource(&["z-quick.example.com".to_owned()]);
        let slow = resource(
            &(0..1000)
                .map(|n| format!("slow-{n:03}.example.com"))
                .collect::<Vec<_>>(),
        );
        let asked = |metrics: &OperatorMetrics| metrics.questions_answered();
        names.want([&quick].into_iter());
        let metrics = OperatorMetrics::default();
        let following = async {
            let _ = timeout(Duration::from_secs(305), names.follow(&metrics, |_| {})).await;
        };
        let crowd = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(asked(&metrics), 1);
            names.want([&quick, &slow].into_iter());
        };
        tokio::join!(following, crowd);
        // Every thirty seconds, as its time to live says, whatever the others do.
        assert_eq!(asked(&metrics), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_answered_for_in_time_is_failing() {
        let names = Names::new(Arc::new(Uneven), Limits::default());
        let resource = resource(&["slow.example.com".to_owned()]);
        names.want([&resource].into_iter());
        let metrics = OperatorMetrics::default();
        let _ = timeout(PATIENCE * 2, names.follow(&metrics, |_| {})).await;
        assert_eq!(
            names.resolution(&resource, "slow.example.com").state,
            State::Failing
        );
    }
}
