//! The plugin: what the runtime asks in, what it is told out. Whom to ask is a function, so that everything else is pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::message::{News, Request, Sandbox, VERSION};
use super::protocol::{Code, Command, Config, Failure, Fallback, PodArgs, VERSIONS};

/// How long a sandbox that goes waits for the enforcer: its rules go with the pod's object anyway.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the runtime's environment says.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
}

/// What to print, and whether to succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub output: String,
    /// For standard error, which runtimes log.
    pub warning: Option<String>,
    /// Whether the runtime is told that all is well.
    pub success: bool,
}

/// Does what the runtime asks. `ask` puts a request to the enforcer that listens at a socket and waits for the answer, no
/// longer than it is told; its error says why there is none.
pub fn run(
    environment: &Environment,
    input: &str,
    ask: impl FnOnce(&str, &Request, Duration) -> Result<(), String>,
) -> Outcome {
    let result = Command::parse(environment.command.as_deref()).and_then(|command| match command {
        Command::Version => Ok((versions(), None)),
        // A runtime that hears that the network cannot serve makes the whole node NotReady, and its pods are evicted
        // after a while, though all of them are enforced. Nor does anything of ours need to be collected.
        Command::Status | Command::Gc => Config::parse(input).map(|_| (String::new(), None)),
        Command::Add => start(environment, input, ask),
        // Asking again is harmless, and the answer says that the kernel holds the pod's rules.
        Command::Check => start(environment, input, ask).map(|(_, warning)| (String::new(), warning)),
        Command::Del => stop(environment, input, ask),
    });
    match result {
        Ok((output, warning)) => Outcome {
            output,
            warning,
            success: true,
        },
        Err(failure) => Outcome {
            output: failure.to_json(&version_of(input)),
            warning: None,
            success: false,
        },
    }
}

fn versions() -> String {
    json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS}).to_string()
}

/// The version to fail in: the runtime's, if it said one.
fn version_of(input: &str) -> String {
    let said = serde_json::from_str::<Value>(input).ok();
    let version = said.as_ref().and_then(|said| said["cniVersion"].as_str());
    version.unwrap_or(VERSIONS[VERSIONS.len() - 1]).to_owned()
}

type Printed = (String, Option<String>);

fn start(
    environment: &Environment,
    input: &str,
    ask: impl FnOnce(&str, &Request, Duration) -> Result<(), String>,
) -> Result<Printed, Failure> {
    let config = Config::parse(input)?;
    let passed_on = config.prev_result.as_ref().map(Value::to_string);
    let Some(pod) = PodArgs::parse(environment.args.as_deref().unwrap_or_default())? else {
        return Ok((passed_on.unwrap_or_default(), None));
    };
    let sandbox = sandbox(environment, pod, config.addresses()?)?;
    let name = format!("{}/{}", sandbox.namespace, sandbox.name);
    let wait = Duration::from_secs(config.timeout_seconds);
    let answer = ask(&config.socket, &request(News::Start, sandbox, wait), wait);
    match (answer, config.without_enforcer) {
        (Ok(()), _) => Ok((passed_on.unwrap_or_default(), None)),
        (Err(why), Fallback::Open) => {
            let warning = format!("ringfence: pod {name} starts without its rules: {why}");
            Ok((passed_on.unwrap_or_default(), Some(warning)))
        }
        (Err(why), Fallback::Closed) => Err(Failure::new(
            Code::TryAgainLater,
            format!("no network policy rules for pod {name} yet"),
            format!(
                "{why}; see that ringfence-enforcer runs on this node. Where it was taken away for good, run its cleanup; \
                 where pods are to start without it, set CNI_WITHOUT_ENFORCER=open"
            ),
        )),
    }
}

/// Always succeeds for a pod: a sandbox that cannot be unmade would block its pod's deletion.
fn stop(
    environment: &Environment,
    input: &str,
    ask: impl FnOnce(&str, &Request, Duration) -> Result<(), String>,
) -> Result<Printed, Failure> {
    let config = Config::parse(input)?;
    let pod = PodArgs::parse(environment.args.as_deref().unwrap_or_default());
    let sandbox = pod.map(|pod| pod.map(|pod| sandbox(environment, pod, Vec::new())));
    let Ok(Some(Ok(sandbox))) = sandbox else {
        return Ok((String::new(), None));
    };
    let told = ask(&config.socket, &request(News::Stop, sandbox, FAREWELL), FAREWELL);
    Ok((String::new(), told.err()))
}

fn sandbox(
    environment: &Environment,
    pod: PodArgs,
    addresses: Vec<std::net::IpAddr>,
) -> Result<Sandbox, Failure> {
    let container = environment.container.clone().filter(|name| !name.is_empty());
    let container = container.ok_or_else(|| {
        Failure::new(
            Code::InvalidEnvironment,
            "CNI_CONTAINERID is missing",
            "the runtime must name the sandbox",
        )
    })?;
    Ok(Sandbox {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        container,
        addresses,
    })
}

fn request(news: News, sandbox: Sandbox, wait: Duration) -> Request {
    Request {
        version: VERSION,
        news,
        sandbox,
        wait_milliseconds: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u";

    fn environment(command: &str) -> Environment {
        Environment {
            command: Some(command.to_owned()),
            container: Some("c".to_owned()),
            args: Some(ARGS.to_owned()),
        }
    }

    fn input(fallback: &str) -> String {
        json!({
            "cniVersion": "1.0.0", "name": "n", "type": "ringfence-cni", "socket": "/s", "timeoutSeconds": 3,
            "withoutEnforcer": fallback, "prevResult": result(),
        })
        .to_string()
    }

    fn result() -> Value {
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mtu": 1500}], "unknown": {"kept": [1]},
               "ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1"}]})
    }

    fn nobody(_: &str, _: &Request, _: Duration) -> Result<(), String> {
        Err("nobody listens".to_owned())
    }

    #[test]
    fn the_result_is_passed_on_as_it_is_when_the_enforcer_has_the_pod() {
        let mut asked = None;
        let outcome = run(&environment("ADD"), &input("closed"), |socket, request, wait| {
            asked = Some((socket.to_owned(), request.clone(), wait));
            Ok(())
        });
        assert!(outcome.success);
        assert_eq!(serde_json::from_str::<Value>(&outcome.output).unwrap(), result());
        let (socket, request, wait) = asked.unwrap();
        assert_eq!((socket.as_str(), wait), ("/s", Duration::from_secs(3)));
        assert_eq!(request.news, News::Start);
        assert_eq!(
            request.sandbox.addresses,
            [std::net::IpAddr::from([10, 244, 1, 7])]
        );
        assert_eq!(request.wait_milliseconds, 3000);
    }

    #[test]
    fn without_an_answer_a_pod_starts_or_not_as_it_is_set() {
        let closed = run(&environment("ADD"), &input("closed"), nobody);
        assert!(!closed.success);
        let said: Value = serde_json::from_str(&closed.output).unwrap();
        assert_eq!(said["code"], 11);
        assert!(said["details"].as_str().unwrap().contains("nobody listens"));
        let open = run(&environment("ADD"), &input("open"), nobody);
        assert!(open.success && open.warning.unwrap().contains("shop/web"));
        assert_eq!(serde_json::from_str::<Value>(&open.output).unwrap(), result());
    }

    #[test]
    fn a_sandbox_always_goes() {
        let gone = run(&environment("DEL"), &input("closed"), nobody);
        assert!(gone.success && gone.output.is_empty());
        let half = Environment {
            args: Some("K8S_POD_NAME=web".to_owned()),
            ..environment("DEL")
        };
        assert!(run(&half, &input("closed"), |_, _, _| panic!("nobody to ask about")).success);
    }

    #[test]
    fn a_container_that_is_no_pod_is_none_of_our_business() {
        let other = Environment {
            args: None,
            ..environment("ADD")
        };
        let outcome = run(&other, &input("closed"), |_, _, _| panic!("nobody to ask about"));
        assert!(outcome.success);
        assert_eq!(serde_json::from_str::<Value>(&outcome.output).unwrap(), result());
    }

    #[test]
    fn the_node_stays_ready_when_the_enforcer_is_away() {
        for command in ["STATUS", "GC"] {
            let outcome = run(&environment(command), &input("closed"), nobody);
            assert!(outcome.success && outcome.output.is_empty(), "{command}");
        }
        assert!(!run(&environment("STATUS"), "{}", nobody).success);
        assert!(!run(&environment("CHECK"), &input("closed"), nobody).success);
    }

    #[test]
    fn it_says_which_versions_it_speaks() {
        let outcome = run(&environment("VERSION"), r#"{"cniVersion": "0.1.0"}"#, nobody);
        let said: Value = serde_json::from_str(&outcome.output).unwrap();
        assert_eq!(said["supportedVersions"], json!(VERSIONS));
        assert!(!run(&environment("NOPE"), "", nobody).success);
    }
}
