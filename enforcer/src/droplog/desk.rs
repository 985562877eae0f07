//! Gives what was refused its names and tells of them: a line, a counter, an Event.

use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use ringfence_policy::Direction;
use tokio::sync::mpsc::Receiver;

use super::events::{Events, Limits, Notice};
use super::ledger::Sighting;
use super::packet::Verdict;
use super::story::Story;
use crate::cluster::Cluster;
use crate::metrics::Counters;

/// Lines that wait to be written; more are dropped and counted.
const QUEUE: usize = 1024;

/// Who tells of what was refused.
#[derive(Debug)]
pub struct Desk {
    sightings: Receiver<Sighting>,
    lines: Option<SyncSender<String>>,
    events: Option<Events>,
    limits: Limits,
    counters: Counters,
}

impl Desk {
    /// A desk that hears of packets from a reader. `lines`: one JSON object a line on standard output.
    pub fn new(
        sightings: Receiver<Sighting>,
        lines: bool,
        events: Option<Events>,
        counters: Counters,
    ) -> Self {
        Self {
            sightings,
            lines: lines.then(write_lines),
            events,
            limits: Limits::default(),
            counters,
        }
    }

    /// The next packets to tell of; `None` when the reader has ended.
    pub async fn next(&mut self) -> Option<Sighting> {
        self.sightings.recv().await
    }

    /// Tells of packets, with the names that the cluster has for them now. Waits for nobody. Returns what was
    /// told.
    pub fn tell(&mut self, sighting: &Sighting, cluster: &Cluster) -> Story {
        let packet = sighting.packet;
        let own = match packet.direction {
            Direction::Egress => packet.source,
            Direction::Ingress => packet.destination,
        };
        let pod = cluster.pod_at(own);
        let policies = pod.map(|pod| match packet.verdict {
            Verdict::Dropped | Verdict::Ended => cluster.isolating(&pod.key, packet.direction).to_vec(),
            Verdict::WouldDrop | Verdict::WouldEnd => cluster.auditing(&pod.key, packet.direction),
        });
        let policies = policies.unwrap_or_default();
        self.counters
            .refused(packet.verdict, packet.direction, &policies, sighting.packets);
        let time = Timestamp::now().to_string();
        let story = Story::of(sighting, time, |address| cluster.pod_at(address), &policies);
        // Where nothing isolates the pod, nobody knew it when its packet came: no policy is to be told about.
        if let (Some(events), Some(pod)) = (&self.events, pod)
            && !policies.is_empty()
            && self
                .limits
                .permit(&pod.uid, !packet.verdict.is_on_trial(), Instant::now())
        {
            events.tell(Notice {
                verdict: packet.verdict,
                namespace: pod.key.namespace.clone(),
                name: pod.key.name.clone(),
                uid: pod.uid.clone(),
                other: story.other(packet.direction).clone(),
                note: story.note(packet.verdict, packet.direction),
            });
        }
        let line = serde_json::to_string(&story);
        if let (Some(lines), Ok(line)) = (&self.lines, line)
            && lines.try_send(line).is_err()
        {
            self.counters.drop_log_lost();
        }
        story
    }
}

/// A thread that writes lines: whoever reads them may be slow, and nobody else is to wait for that.
fn write_lines() -> SyncSender<String> {
    let (sender, lines) = sync_channel::<String>(QUEUE);
    thread::spawn(move || {
        for line in lines {
            // Nobody reads any more.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return;
            }
        }
    });
    sender
}
