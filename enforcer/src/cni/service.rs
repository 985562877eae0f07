//! What the agent has of the plugin: the pods that wait for their rules, and the entry on disk.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::conflist::Entry;
use super::install;
use super::message::Sandbox;
use super::server::Call;
use crate::error::Result;

/// Where the plugin is on the node's disk.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of network configurations.
    pub conf_dir: PathBuf,
    /// The folder of plugins.
    pub bin_dir: PathBuf,
}

/// What is put there.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The file that the plugin's binary is copied from.
    pub source: PathBuf,
    /// The entry that names it.
    pub entry: Entry,
}

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    call: Call,
    /// The latest tightening of policies when the kernel held the pod's rules.
    tightening: Option<u64>,
}

/// The plugin, as the agent serves it.
#[derive(Debug)]
pub struct Service {
    calls: mpsc::Receiver<Call>,
    place: Place,
    plugin: Plugin,
    /// Calls to be answered when their pods may start.
    waiting: Vec<Waiting>,
    /// What was last said about the entry: once is enough.
    said: Option<String>,
}

impl Service {
    /// Serves these calls. The entry is not written yet.
    pub fn new(calls: mpsc::Receiver<Call>, place: Place, plugin: Plugin) -> Self {
        Self {
            calls,
            place,
            plugin,
            waiting: Vec::new(),
            said: None,
        }
    }

    /// The next call; never, if nobody can call any more.
    pub async fn call(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }

    /// Keeps a call until its pod may start.
    pub fn wait(&mut self, call: Call) {
        self.waiting.retain(|waiting| !waiting.call.done.is_closed());
        self.waiting.push(Waiting {
            call,
            tightening: None,
        });
    }

    /// Answers the calls about the pods that may start, and returns how long each has waited. `may` is told what it has
    /// noted for the pod before.
    pub fn answer(&mut self, mut may: impl FnMut(&Sandbox, &mut Option<u64>) -> bool) -> Vec<Duration> {
        let mut waited = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if may(&waiting.call.sandbox, &mut waiting.tightening) {
                // A plugin that has given up hears nothing.
                let _ = waiting.call.done.send(());
                waited.push(waiting.call.since.elapsed());
            } else if !waiting.call.done.is_closed() {
                self.waiting.push(waiting);
            }
        }
        waited
    }

    /// Sees that the binary is there and the entry in the configuration that the runtime uses, and says what it did, or why it could not, once.
    /// Returns the name of an error that is new.
    pub fn keep_entry(&mut self) -> Option<&'static str> {
        let (place, plugin) = (&self.place, &self.plugin);
        match install::keep(&plugin.source, &place.bin_dir, &place.conf_dir, &plugin.entry) {
            Ok(changed) => {
                if !changed.is_empty() {
                    tracing::info!(?changed, "put the CNI plugin and its entry where they belong");
                }
                self.said = None;
                None
            }
            Err(error) => {
                let text = error.to_string();
                let new = self.said.as_ref() != Some(&text);
                if new {
                    tracing::warn!(error = text, "pods start without waiting for their rules");
                    self.said = Some(text);
                }
                new.then_some(error.name())
            }
        }
    }

    /// Takes the entry and the binary away. Returns what was removed, in words.
    ///
    /// # Errors
    /// A file cannot be written or removed.
    pub fn remove(&self) -> Result<Vec<String>> {
        install::remove(&self.place.conf_dir, &self.place.bin_dir)
    }
}
