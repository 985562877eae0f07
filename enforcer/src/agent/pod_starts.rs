//! What the agent does about pods that start, where they wait for their rules.

use super::Agent;
use crate::cni::message::News;
use crate::cni::server::Call;
use crate::cni::service::Service;
use crate::error::Result;
use crate::kernel::cleanup;
use crate::revoke::Revoker;

/// The next call of the CNI plugin; never, where there is none.
pub(super) async fn next_call(plugin: &mut Option<Service>) -> Call {
    match plugin {
        Some(plugin) => plugin.call().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// Removes everything from the node, and first what pods would wait for. What cannot be removed of that must not keep
    /// the rules.
    pub(super) fn uninstall(&self) -> Result<Vec<String>> {
        let plugin = self.plugin.as_ref().map_or(Ok(Vec::new()), Service::remove);
        let rules = cleanup(&self.settings.tools);
        Ok([plugin?, rules?].concat())
    }

    /// Takes in what the CNI plugin tells, and answers when the kernel holds the rules that follow from it.
    pub(super) fn hear(&mut self, call: Call) {
        let changed = match call.news {
            News::Start => self.cluster.start(&call.sandbox),
            News::Stop => self.cluster.stop(&call.sandbox),
        };
        if changed {
            self.schedule();
        }
        if call.news == News::Stop {
            // A plugin that has given up hears nothing.
            let _ = call.done.send(());
        } else if let Some(plugin) = &mut self.plugin {
            plugin.wait(call);
        }
        self.answer();
    }

    /// Lets those pods start whose rules the kernel holds: all that are known, where nothing is left to write. An address may have
    /// been another pod's until just now, and connections of that one's may still stand: a pod that policies isolate waits
    /// until those are ended that are not its own.
    pub(super) fn answer(&mut self) {
        let Some(plugin) = self
            .plugin
            .as_mut()
            .filter(|_| self.settled && self.due.is_none())
        else {
            return;
        };
        let cluster = &self.cluster;
        let progress = self.revoker.as_ref().map(Revoker::progress);
        let waited = plugin.answer(|sandbox, tightening| {
            let mut is_rid = || progress.is_none_or(|it| it.judged >= *tightening.get_or_insert(it.latest));
            cluster.has_started(sandbox) && (!cluster.is_isolated(&sandbox.key()) || is_rid())
        });
        for waited in waited {
            self.settings
                .counters
                .pod_start_wait
                .observe(waited.as_secs_f64());
        }
    }

    /// Sees that the plugin's entry is where it belongs.
    pub(super) fn keep_entry(&mut self) {
        if let Some(error) = self.plugin.as_mut().and_then(Service::keep_entry) {
            self.settings.counters.error(error);
        }
    }
}
