//! Asking name servers: a trait, and the resolver that the system's resolv.conf describes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::Instant;

use super::book::Answer;

/// For how long "there is no such name" is taken for true when the server does not say.
const NEGATIVE: Duration = Duration::from_secs(30);

/// Whoever knows the addresses of names.
pub trait Resolve: Send + Sync {
    /// Asks for the addresses of a full name, of both families.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>>;
}

/// Nobody answered a question about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Why, for the log.
    pub cause: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

/// The system's resolver; one that never answers where the system has none, so that everything else goes on.
#[must_use]
pub fn system() -> Arc<dyn Resolve> {
    match SystemResolver::new() {
        Ok(resolver) => Arc::new(resolver),
        Err(none) => {
            tracing::error!(cause = %none, "DNS names in ExternalAccesses stay unresolved");
            Arc::new(Nobody(none))
        }
    }
}

/// A resolver that never answers.
struct Nobody(Unanswered);

impl Resolve for Nobody {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>> {
        Box::pin(async { Err(self.0.clone()) })
    }
}

/// The name servers of `/etc/resolv.conf`.
struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// Reads the system's configuration.
    ///
    /// # Errors
    ///
    /// When there is none that can be used.
    fn new() -> Result<Self, Unanswered> {
        let unusable = |error: NetError| Unanswered {
            cause: format!("the system's resolv.conf can't be used: {error}"),
        };
        let mut builder = TokioResolver::builder_tokio().map_err(unusable)?;
        let options = builder.options_mut();
        // The book remembers; and what this pod's hosts file says is nobody else's answer.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        options.edns0 = true;
        options.try_tcp_on_error = true;
        builder.build().map(Self).map_err(unusable)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, Unanswered> {
        // With its dot at the end a name is full: the search list does not apply to it.
        match self.0.lookup(format!("{name}."), kind).await {
            Ok(lookup) => Ok(Answer {
                addresses: lookup
                    .answers()
                    .iter()
                    .filter_map(|record| address(&record.data))
                    .collect(),
                time_to_live: lookup
                    .valid_until()
                    .saturating_duration_since(Instant::now().into_std()),
            }),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) if says_so(none.response_code) => Ok(Answer {
                addresses: BTreeSet::new(),
                time_to_live: none
                    .negative_ttl
                    .map_or(NEGATIVE, |seconds| Duration::from_secs(seconds.into())),
            }),
            Err(error) => Err(Unanswered {
                cause: error.to_string(),
            }),
        }
    }
}

/// Whether a server says that there is nothing, and not that it could not find out.
fn says_so(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>> {
        Box::pin(async move {
            let (v4, v6) = tokio::join!(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA));
            both(v4, v6)
        })
    }
}

/// One answer out of those for each family. Some servers fail for the family that a name has no addresses of.
fn both(one: Result<Answer, Unanswered>, other: Result<Answer, Unanswered>) -> Result<Answer, Unanswered> {
    match (one, other) {
        (Ok(one), Ok(other)) => {
            // The one without addresses must not keep the other from being followed.
            let lives = [&one, &other].map(|answer| (answer.addresses.is_empty(), answer.time_to_live));
            Ok(Answer {
                time_to_live: lives.into_iter().min().map_or(NEGATIVE, |(_, life)| life),
                addresses: one.addresses.into_iter().chain(other.addresses).collect(),
            })
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) if !answer.addresses.is_empty() => Ok(answer),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(address: Option<&str>, seconds: u64) -> Result<Answer, Unanswered> {
        Ok(Answer {
            addresses: address.map(|text| text.parse().unwrap()).into_iter().collect(),
            time_to_live: Duration::from_secs(seconds),
        })
    }

    fn nobody() -> Result<Answer, Unanswered> {
        Err(Unanswered {
            cause: "nobody".to_owned(),
        })
    }

    #[test]
    fn two_families_make_one_answer_that_lives_as_long_as_the_shorter_one() {
        let (v4, v6) = (answer(Some("203.0.113.1"), 60), answer(Some("2001:db8::1"), 30));
        let one = both(v4, v6).unwrap();
        assert_eq!((one.addresses.len(), one.time_to_live.as_secs()), (2, 30));
        let one = both(answer(Some("203.0.113.1"), 60), answer(None, 5)).unwrap();
        assert_eq!((one.addresses.len(), one.time_to_live.as_secs()), (1, 60));
    }

    #[test]
    fn a_server_that_fails_for_one_family_is_forgiven_where_the_other_has_addresses() {
        assert_eq!(
            both(answer(Some("203.0.113.1"), 60), nobody()),
            answer(Some("203.0.113.1"), 60)
        );
        assert_eq!(both(nobody(), answer(None, 60)), nobody());
        assert_eq!(both(nobody(), nobody()), nobody());
    }
}
