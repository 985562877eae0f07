//! Leader election by a Lease: of all replicas, one writes.
//!
//! Expiry is judged by this machine's own monotonic clock, from the moment a version of the Lease was first seen here,
//! never by comparing time stamps of two machines: clocks that disagree elect nobody twice. The leader counts its own
//! time from *before* each renewal was sent and stops writing at [`Timing::deadline`], well before others may take over
//! at [`Timing::duration`]: that is the [`Fence`], asked before every write.

mod decision;
mod fence;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::decision::{Move, holder, next_move, released};
pub use self::fence::Fence;
use crate::error::{Refusal, message};

/// How long leadership lasts.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others take over when the Lease has not changed for this long.
    pub duration: Duration,
    /// The leader stops writing when it could not renew for this long.
    pub deadline: Duration,
    /// The pause between renewals.
    pub renew: Duration,
    /// The pause between looks at somebody else's Lease, and the limit for one request about it.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(4),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Somebody else holds the Lease.
    #[error("{holder} took the Lease {lease}: standing by")]
    Taken {
        /// Namespace and name.
        lease: String,
        /// Who holds it.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error(
        "the Lease {lease} could not be renewed for {for_seconds} s ({cause}): writing nothing before another replica does"
    )]
    NotRenewed {
        /// Namespace and name.
        lease: String,
        /// How long it was tried.
        for_seconds: u64,
        /// What went wrong last.
        cause: String,
    },
}

/// One candidate.
pub struct Election {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    timing: Timing,
    fence: Fence,
    seen: Option<Seen>,
}

/// The version of the Lease that was last seen, and since when.
#[derive(Clone, Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Election {
    /// A candidate for the Lease `namespace`/`name`. `identity` must be unlike that of any other candidate, a
    /// predecessor of the same name included.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, timing: Timing) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            timing,
            fence: Fence::closed(),
            seen: None,
        }
    }

    /// Open while this candidate is the leader.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Waits to become the leader; false when `shutdown` came first.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let mut told = None;
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return false,
                outcome = self.attempt() => outcome,
            };
            match outcome {
                Ok(None) => {
                    tracing::info!(lease = %self.lease(), identity = self.identity, "leading");
                    return true;
                }
                // What stays as it is is told once, not at every look.
                same if told.as_ref() == Some(&same) => {}
                other => {
                    match &other {
                        Err(cause) => tracing::warn!(lease = %self.lease(), cause, "can't take the Lease"),
                        Ok(holder) => tracing::info!(lease = %self.lease(), holder, "standing by"),
                    }
                    told = Some(other);
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = sleep(self.timing.retry) => {}
            }
        }
    }

    /// Renews until `shutdown`.
    ///
    /// # Errors
    ///
    /// When the Lease was taken or could not be renewed in time. The fence is closed then.
    pub async fn keep(&mut self, shutdown: &CancellationToken) -> Result<(), LeaderError> {
        let mut renewed = Instant::now();
        let mut pause = self.timing.renew;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
            let started = Instant::now();
            match self.attempt().await {
                Ok(None) => (renewed, pause) = (started, self.timing.renew),
                Ok(Some(holder)) => {
                    self.fence.set(None);
                    return Err(LeaderError::Taken {
                        lease: self.lease(),
                        holder,
                    });
                }
                Err(cause) if renewed.elapsed() >= self.timing.deadline => {
                    self.fence.set(None);
                    let for_seconds = renewed.elapsed().as_secs();
                    return Err(LeaderError::NotRenewed {
                        lease: self.lease(),
                        for_seconds,
                        cause,
                    });
                }
                Err(cause) => {
                    tracing::warn!(lease = %self.lease(), cause, "the Lease could not be renewed, trying again");
                    pause = self.timing.retry / 4;
                }
            }
        }
    }

    /// Gives leadership up, so that another replica need not wait for the Lease to expire. All writing must have
    /// ended. A failure is not worth more than a line in the log: the Lease expires by itself.
    pub async fn release(&mut self) {
        self.fence.set(None);
        let outcome = timeout(self.timing.retry, async {
            let lease = self.leases.get(&self.name).await?;
            if holder(&lease) == Some(&self.identity) {
                self.leases
                    .replace(&self.name, &PostParams::default(), &released(lease))
                    .await?;
            }
            Ok::<(), kube::Error>(())
        });
        match outcome.await {
            Ok(Ok(())) => tracing::info!(lease = %self.lease(), "gave leadership up"),
            Ok(Err(error)) => {
                tracing::info!(lease = %self.lease(), error = message(&error), "leadership was left to expire");
            }
            Err(_) => tracing::info!(lease = %self.lease(), "leadership was left to expire: no answer"),
        }
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// One attempt to take or renew the Lease: `None` when it is ours now, else who holds it.
    async fn attempt(&mut self) -> Result<Option<String>, String> {
        let started = Instant::now();
        match timeout(self.timing.retry, self.request()).await {
            Ok(Ok(None)) => {
                self.fence.set(Some(started + self.timing.deadline));
                Ok(None)
            }
            Ok(Ok(Some(holder))) => Ok(Some(holder)),
            Ok(Err(error)) => Err(message(&error)),
            Err(_) => Err(format!("no answer within {:?}", self.timing.retry)),
        }
    }

    async fn request(&mut self) -> kube::Result<Option<String>> {
        let current = self.leases.get_opt(&self.name).await?;
        let since = self.observe(current.as_ref());
        let written = match next_move(current, since.elapsed(), &self.identity, self.timing.duration) {
            Move::Wait(holder) => return Ok(Some(holder)),
            Move::Create(mut lease) => {
                lease.metadata.name = Some(self.name.clone());
                self.leases.create(&PostParams::default(), &lease).await
            }
            Move::Write(lease) => {
                self.leases
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
            }
        };
        match written {
            Ok(lease) => {
                self.observe(Some(&lease));
                Ok(None)
            }
            // Somebody was quicker.
            Err(error) if Refusal::of(&error) == Refusal::Conflict => Ok(Some("another replica".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Since when the Lease has been as it is now.
    fn observe(&mut self, lease: Option<&Lease>) -> Instant {
        let version = lease.and_then(ResourceExt::resource_version);
        match &self.seen {
            Some(seen) if seen.version == version => seen.since,
            _ => {
                let since = Instant::now();
                self.seen = Some(Seen { version, since });
                since
            }
        }
    }
}
