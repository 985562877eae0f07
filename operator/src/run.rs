//! Running the operator: caches on every replica, work on the one that leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join;
use kube::Client;
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{self, connect};
use ringfence_telemetry::health::{Check, Health};
use ringfence_telemetry::metrics::{Metrics, Program};
use ringfence_telemetry::{http, shutdown};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;
use crate::controller::{Controller, Parts};
use crate::dns::{self, Limits, Names, Resolve};
use crate::error::Error;
use crate::events::Events;
use crate::generate::GeneratorConfig;
use crate::inventory::Inventory;
use crate::leader::{Election, Fence, LeaderError, Timing};
use crate::metrics::OperatorMetrics;
use crate::probe;
use crate::probe::run::Prober;
use crate::queue::{Backoff, Queue};
use crate::reports::feed::Feed;
use crate::stores::{Stores, stores};
use crate::triggers::Triggers;

/// How long work that is begun may take to end. A request has its own, shorter limit.
const DRAIN: Duration = Duration::from_secs(20);

/// An operator, ready to be run.
pub struct Operator {
    /// The connection.
    pub client: Client,
    /// Counts the connection's requests.
    pub requests: ApiRequests,
    /// What the administrator set.
    pub generator: GeneratorConfig,
    /// Who knows the addresses of DNS names.
    pub resolver: Arc<dyn Resolve>,
    /// For how long these are taken for true.
    pub dns: Limits,
    /// How the EnforcementProbe is run.
    pub probe: probe::Settings,
    /// Where probes and metrics are served.
    pub http_address: SocketAddr,
    /// How many keys are worked on at a time.
    pub workers: usize,
    /// Namespace and name of the Lease.
    pub lease: (String, String),
    /// A name that no other replica has.
    pub identity: String,
    /// How long leadership lasts.
    pub timing: Timing,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it can't start, or can't stop working after it has lost its Lease.
pub async fn main(args: &RunArgs) -> Result<(), Error> {
    args.log.init()?;
    let token = shutdown::on_signals().map_err(Error::Signals)?;
    let requests = ApiRequests::default();
    let client = connect(&args.api, client::Limits::default(), &requests).await?;
    let operator = Operator {
        client,
        requests,
        generator: args.generator(),
        resolver: dns::system(),
        dns: args.dns(),
        probe: args.probe(),
        http_address: args.http_address,
        workers: args.workers,
        lease: (args.lease.lease_namespace.clone(), args.lease.lease_name.clone()),
        identity: args.lease.unique_identity(),
        timing: Timing::default(),
    };
    operator.run(token).await
}

impl Operator {
    /// Runs until `shutdown`. Dropping the future stops everything at once, as a crash would.
    ///
    /// # Errors
    ///
    /// When the address is taken, or work does not end in time after the Lease was lost.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let metrics = OperatorMetrics::default();
        let (stores, feeds) = stores();
        stores.mirror.reserve([self.lease.0.clone()].into());
        let queue = Arc::new(Queue::new(Backoff::default()));
        let names = Arc::new(Names::new(self.resolver.clone(), self.dns));
        let triggers = Arc::new(Triggers::new(
            &stores,
            queue.clone(),
            self.generator.dns_services.clone(),
            names.clone(),
        ));

        let health = Health::new();
        let synced = health.readiness("caches", "nothing is listed yet");
        let server = http::bind(self.http_address, health, self.metrics(&metrics, &stores)).await?;
        let mut election = self.election();
        let events = Events::new(self.client.clone(), self.identity.clone(), metrics.clone());

        let mut background = JoinSet::new();
        background.spawn(feeds.run(
            self.client.clone(),
            stores.mirror.clone(),
            triggers.clone(),
            metrics.clone(),
        ));
        let reports = self.reports(&stores, &triggers, &metrics);
        background.spawn(reports.run(self.client.clone()));
        background.spawn(probe::Feed::new(&stores, &triggers, &metrics).run(self.client.clone()));
        background.spawn(follow(names.clone(), triggers.clone(), metrics.clone()));
        let serving = CancellationToken::new();
        let served = serving.clone();
        background.spawn(async move { server.serve(served).await.map_err(Error::from) });

        let prober = self.prober(&stores, election.fence(), &events, &metrics);
        let controller = Controller::new(Parts {
            client: self.client,
            stores: stores.clone(),
            queue,
            generator: self.generator,
            names,
            fence: election.fence(),
            events,
            metrics: metrics.clone(),
        });
        let term = Term {
            stores,
            synced,
            triggers,
            controller,
            prober,
            workers: self.workers,
            metrics,
        };
        tokio::select! {
            result = term.serve(&mut election, &shutdown) => result,
            Some(ended) = background.join_next() => match ended {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => Err(Error::Ended("the watches or the HTTP server")),
            },
        }
    }

    fn reports(&self, stores: &Stores, triggers: &Arc<Triggers>, metrics: &OperatorMetrics) -> Feed {
        Feed {
            reports: stores.reports.clone(),
            triggers: triggers.clone(),
            metrics: metrics.clone(),
            namespace: self.lease.0.clone(),
        }
    }

    fn election(&self) -> Election {
        let (namespace, name) = &self.lease;
        Election::new(
            self.client.clone(),
            namespace,
            name,
            self.identity.clone(),
            self.timing,
        )
    }

    fn prober(
        &self,
        stores: &Stores,
        fence: Fence,
        events: &Events,
        metrics: &OperatorMetrics,
    ) -> Arc<Prober> {
        Prober::new(probe::run::Parts {
            client: self.client.clone(),
            namespace: self.lease.0.clone(),
            stores: stores.clone(),
            settings: self.probe.clone(),
            fence,
            events: events.clone(),
            metrics: metrics.clone(),
        })
    }

    fn metrics(&self, operator: &OperatorMetrics, stores: &Stores) -> Metrics {
        let program = Program {
            name: "ringfence-operator",
            version: env!("CARGO_PKG_VERSION"),
        };
        Metrics::build(&program, |registry| {
            self.requests.register(registry);
            operator.register(registry);
            registry.register_collector(Box::new(Inventory::new(stores.clone())));
        })
    }
}

/// Follows DNS names on every replica, so that one that begins to lead knows them.
async fn follow(names: Arc<Names>, triggers: Arc<Triggers>, metrics: OperatorMetrics) -> Result<(), Error> {
    names
        .follow(&metrics, |changed| triggers.names_changed(changed))
        .await;
    Err(Error::Ended("the following of DNS names"))
}

/// One replica's term of office.
struct Term {
    stores: Stores,
    synced: Check,
    triggers: Arc<Triggers>,
    controller: Arc<Controller>,
    prober: Arc<Prober>,
    workers: usize,
    metrics: OperatorMetrics,
}

impl Term {
    /// Waits for the caches, then works whenever it has the Lease.
    async fn serve(self, election: &mut Election, shutdown: &CancellationToken) -> Result<(), Error> {
        let waiting = |kind: &str| {
            self.synced.failed(format!(
                "{kind} objects are not listed yet; the log says why if this lasts"
            ));
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            synced = self.stores.synced(waiting) => synced?,
        }
        // A replica that stands by is ready too: its caches are warm.
        self.synced.ok();
        while election.acquire(shutdown).await {
            self.metrics.leading(true);
            self.triggers.everything(Duration::ZERO);
            let lost = self.lead(election, shutdown).await?;
            match lost {
                // Nothing is in flight any more, so another replica may start at once.
                None => {
                    election.release().await;
                    return Ok(());
                }
                // The caches are still good, so this replica is a good one to stand by.
                Some(reason) => tracing::warn!(%reason, "no longer leading"),
            }
        }
        Ok(())
    }

    /// Works until the Lease is lost, and says how, or until `shutdown`. No work is under way afterwards.
    async fn lead(
        &self,
        election: &mut Election,
        shutdown: &CancellationToken,
    ) -> Result<Option<LeaderError>, Error> {
        let stop = CancellationToken::new();
        let working = try_join(
            self.controller.clone().run(self.workers, stop.clone()),
            self.prober.clone().run(stop.clone()),
        );
        let mut working = AbortOnDrop(tokio::spawn(working));
        let kept = tokio::select! {
            kept = election.keep(shutdown) => kept,
            _ = &mut working.0 => return Err(Error::Ended("the workers")),
        };
        self.metrics.leading(false);
        stop.cancel();
        // Without the Lease no further write is begun; one that was sent is waited for, as long as a request may take.
        match timeout(DRAIN, &mut working.0).await {
            Ok(Ok(Ok(_))) => Ok(kept.err()),
            Ok(_) => Err(Error::Ended("the workers")),
            Err(_) => Err(Error::Stuck(DRAIN)),
        }
    }
}

/// A task that does not outlive whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
