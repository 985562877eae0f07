//! What a pod's status says of it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, Pod};

use super::answer::read;
use super::judge::{Caller, Server};

/// What has become of a server; nothing while it may still start.
#[must_use]
pub fn server(pod: &Pod) -> Option<Server> {
    match phase(pod) {
        "Running" => {
            let addresses = addresses(pod);
            (!addresses.is_empty()).then_some(Server::Runs(addresses))
        }
        "Failed" | "Succeeded" => Some(Server::NotStarted(why(pod))),
        _ => None,
    }
}

/// What has become of a caller of so many targets; nothing while it runs or may still start.
#[must_use]
pub fn caller(pod: &Pod, targets: usize) -> Option<Caller> {
    match (phase(pod), terminated(pod)) {
        ("Succeeded", Some(message)) => {
            Some(read(&message, targets).map_or_else(Caller::Silent, Caller::Answered))
        }
        ("Succeeded", None) => Some(Caller::Silent("it left no message".to_owned())),
        // A container that ran and failed had its say in its log; one that never ran is another matter.
        ("Failed", Some(_)) => Some(Caller::Silent(why(pod))),
        ("Failed", None) => Some(Caller::NotStarted(why(pod))),
        _ => None,
    }
}

/// What is to be said of a caller when time is up.
#[must_use]
pub fn overdue_caller(pod: &Pod) -> Caller {
    match phase(pod) {
        "Running" => Caller::Silent("it did not come to an end in time".to_owned()),
        _ => Caller::NotStarted(why(pod)),
    }
}

/// Why a pod does not run, as far as it says.
#[must_use]
pub fn why(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let states = containers.into_iter().filter_map(|container| container.state);
    let said = states.filter_map(said).chain([(status.reason, status.message)]);
    let unscheduled = status.conditions.unwrap_or_default().into_iter();
    let unscheduled = unscheduled
        .filter(|condition| condition.status == "False")
        .map(|condition| (condition.reason, condition.message));
    let parts = said
        .chain(unscheduled)
        .map(|(reason, message)| [reason, message].into_iter().flatten().collect::<Vec<_>>())
        .find(|parts| !parts.is_empty());
    let phase = status.phase.unwrap_or_else(|| "not seen by its node".to_owned());
    match parts {
        Some(parts) => format!("{phase}: {}", parts.join(": ")),
        None => phase,
    }
}

fn said(state: ContainerState) -> Option<(Option<String>, Option<String>)> {
    if let Some(waiting) = state.waiting {
        return Some((waiting.reason, waiting.message));
    }
    let terminated = state.terminated?;
    Some((terminated.reason, terminated.message))
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref());
    all.into_iter()
        .flatten()
        .filter_map(|address| address.ip.parse().ok())
        .collect()
}

/// The message of the container that has ended.
fn terminated(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let state = containers.first()?.state.as_ref()?;
    Some(state.terminated.as_ref()?.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

    use super::*;
    use crate::probe::answer::{Heard, Met};
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "status": status})).unwrap()
    }

    fn ended(phase: &str, message: &str) -> Pod {
        let state = json!({"terminated": {"exitCode": 0, "message": message, "reason": "Ended"}});
        let container = json!({"name": "probe", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        pod(json!({"phase": phase, "containerStatuses": [container]}))
    }

    #[test]
    fn a_server_runs_once_it_has_an_address() {
        assert_eq!(server(&pod(json!({"phase": "Pending"}))), None);
        assert_eq!(server(&pod(json!({"phase": "Running"}))), None);
        let running = pod(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}));
        let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(server(&running), Some(Server::Runs(addresses)));
        let refused = pod(json!({"phase": "Failed", "reason": "OutOfpods", "message": "too many pods"}));
        let why = "Failed: OutOfpods: too many pods".to_owned();
        assert_eq!(server(&refused), Some(Server::NotStarted(why)));
    }

    #[test]
    fn an_answer_is_read_and_anything_else_is_silence() {
        let heard = vec![Heard {
            met: Met::Right,
            way: String::new(),
        }];
        let told = ended("Succeeded", r#"[{"met":"right"}]"#);
        assert_eq!(caller(&told, 1), Some(Caller::Answered(heard)));
        assert!(matches!(caller(&told, 2), Some(Caller::Silent(_))));
        assert!(matches!(
            caller(&ended("Succeeded", "hello"), 1),
            Some(Caller::Silent(_))
        ));
        assert!(matches!(caller(&ended("Failed", ""), 1), Some(Caller::Silent(_))));
        assert!(matches!(
            caller(&pod(json!({"phase": "Failed"})), 1),
            Some(Caller::NotStarted(_))
        ));
        assert_eq!(caller(&pod(json!({"phase": "Running"})), 1), None);
    }

    #[test]
    fn a_pod_that_waits_says_what_for() {
        let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let container = json!({"name": "probe", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let waiting = pod(json!({"phase": "Pending", "containerStatuses": [container]}));
        assert_eq!(why(&waiting), "Pending: ImagePullBackOff: no such image");
        assert_eq!(why(&pod(json!({}))), "not seen by its node");
        let overdue = overdue_caller(&waiting);
        assert!(matches!(overdue, Caller::NotStarted(why) if why.contains("ImagePullBackOff")));
        assert!(matches!(
            overdue_caller(&pod(json!({"phase": "Running"}))),
            Caller::Silent(_)
        ));
    }
}
