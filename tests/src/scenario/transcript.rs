//! The transcript of a scenario: commands, and who reaches whom after them.
//!
//! ```text
//!   # a comment
//!   $ kubectl apply -f policies.yaml
//!   client -> server:8080            open        a pod of the scenario's namespace, TCP
//!   s2-5-other/client -> server:53/UDP  closed   a pod of another namespace
//!   client -> svc/api:80             open        a Service's port
//!   203.0.113.7 -> nodeport/api:80   open        its node port, at the nodes that run its pods
//!   203.0.113.7 -> othernode/api:80  open        the same at the nodes that do not
//!   203.0.113.7 -> server:8080       closed      somebody outside the cluster
//!   client -> server:9090            told ingress deny,allow-*   a packet was dropped, by these policies, and told of
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use ringfence_policy::{ObjectKey, Protocol};

use super::told::Told;

/// Commands, and what must be seen after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// The arguments of kubectl, command by command.
    pub commands: Vec<Vec<String>>,
    /// Who reaches whom then.
    pub expectations: Vec<Expectation>,
    /// Which dropped packets enforcers have told of then.
    pub told: Vec<Told>,
}

/// A connection, and whether it must be possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The line in the transcript, counted from 1.
    pub line: usize,
    /// Who calls.
    pub from: Place,
    /// Who is called.
    pub to: Target,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether it must be possible.
    pub open: bool,
}

/// Where a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a pod.
    Pod(ObjectKey),
    /// Outside the cluster.
    Outside(IpAddr),
}

/// What is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pod's port, at each of its addresses.
    Pod(ObjectKey, u16),
    /// A Service's port, at its cluster addresses.
    Service(ObjectKey, u16),
    /// A Service's port, at its node port on the nodes that run its pods.
    NodePort(ObjectKey, u16),
    /// The same on the nodes that do not.
    OtherNode(ObjectKey, u16),
    /// Somebody outside the cluster.
    Outside(SocketAddr),
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Place::Pod(pod) => write!(f, "{pod} -> ")?,
            Place::Outside(address) => write!(f, "{address} -> ")?,
        }
        match &self.to {
            Target::Pod(pod, port) => write!(f, "{pod}:{port}")?,
            Target::Service(service, port) => write!(f, "svc/{service}:{port}")?,
            Target::NodePort(service, port) => write!(f, "nodeport/{service}:{port}")?,
            Target::OtherNode(service, port) => write!(f, "othernode/{service}:{port}")?,
            Target::Outside(address) => write!(f, "{address}")?,
        }
        write!(f, "/{}", self.protocol)
    }
}

/// Reads a transcript. Names without a namespace are of `namespace`.
///
/// # Errors
/// When a line is none of those; the message says which and what is wrong.
pub fn parse(text: &str, namespace: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let at = || format!("line {}: {line}", index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(command) = line.strip_prefix("$ ") {
            let command = kubectl(command).with_context(at)?;
            // Commands after an expectation begin a new step.
            match steps.last_mut() {
                Some(step) if step.expectations.is_empty() && step.told.is_empty() => {
                    step.commands.push(command);
                }
                _ => steps.push(Step {
                    commands: vec![command],
                    ..Step::default()
                }),
            }
        } else {
            let step = steps.last_mut().context("an expectation before any command");
            let step = step.with_context(at)?;
            seen(step, line, index + 1, namespace).with_context(at)?;
        }
    }
    let last = steps.last().context("no command at all")?;
    ensure!(
        !last.expectations.is_empty() || !last.told.is_empty(),
        "nothing is expected after the last command"
    );
    Ok(steps)
}

fn kubectl(command: &str) -> Result<Vec<String>> {
    let mut words = command.split_whitespace();
    ensure!(
        words.next() == Some("kubectl"),
        "only kubectl can be run, as `$ kubectl ARGUMENTS`"
    );
    ensure!(
        !command.contains(['"', '\'', '|', '>', '<', ';', '$', '`']),
        "no shell reads the command: leave out quotes, pipes and redirections"
    );
    Ok(words.map(str::to_owned).collect())
}

/// Reads what must be seen.
fn seen(step: &mut Step, line: &str, number: usize, namespace: &str) -> Result<()> {
    let (from, rest) = line
        .split_once(" -> ")
        .context("neither a command nor `FROM -> TO open`")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [to, word, more @ ..] = &words[..] else {
        bail!("after the arrow come two words: `TO open` or `TO closed`");
    };
    let (to, protocol) = split_protocol(to);
    let (from, to) = (place(from.trim(), namespace)?, target(to, namespace)?);
    let open = match (*word, more) {
        ("told", more) => {
            let told = Told::new(number, (from, to, protocol), more, namespace)?;
            step.told.push(told);
            return Ok(());
        }
        ("open", []) => true,
        ("closed", []) => false,
        (other, []) => bail!("`{other}` is neither open nor closed"),
        _ => bail!("after the arrow come two words: `TO open` or `TO closed`"),
    };
    step.expectations.push(Expectation {
        line: number,
        from,
        to,
        protocol,
        open,
    });
    Ok(())
}

fn place(text: &str, namespace: &str) -> Result<Place> {
    Ok(match text.parse() {
        Ok(address) => Place::Outside(address),
        Err(_) => Place::Pod(object(text, namespace)?),
    })
}

fn split_protocol(to: &str) -> (&str, Protocol) {
    for (suffix, protocol) in [
        ("/UDP", Protocol::Udp),
        ("/SCTP", Protocol::Sctp),
        ("/TCP", Protocol::Tcp),
    ] {
        if let Some(rest) = to.strip_suffix(suffix) {
            return (rest, protocol);
        }
    }
    (to, Protocol::Tcp)
}

fn target(text: &str, namespace: &str) -> Result<Target> {
    if let Ok(address) = text.parse() {
        return Ok(Target::Outside(address));
    }
    let (name, port) = text
        .rsplit_once(':')
        .with_context(|| format!("`{text}` has no port"))?;
    let port = port.parse().with_context(|| format!("`{port}` is no port"))?;
    let (kind, rest) = name.split_once('/').unwrap_or_default();
    match kind {
        "svc" => Ok(Target::Service(object(rest, namespace)?, port)),
        "nodeport" => Ok(Target::NodePort(object(rest, namespace)?, port)),
        "othernode" => Ok(Target::OtherNode(object(rest, namespace)?, port)),
        _ => Ok(Target::Pod(object(name, namespace)?, port)),
    }
}

fn object(text: &str, namespace: &str) -> Result<ObjectKey> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [name] if !name.is_empty() => Ok(ObjectKey::new(namespace, *name)),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectKey::new(*namespace, *name))
        }
        _ => bail!("`{text}` is neither NAME nor NAMESPACE/NAME"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_and_what_follows_them_are_one_step() {
        let steps = parse(
            "# first\n$ kubectl apply -f pods.yaml\n$ kubectl get pods\n\na -> b:80 open\n$ kubectl -n x delete pod a\nn/a -> svc/b:53/UDP  closed\n",
            "x",
        )
        .unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].commands[1], ["get", "pods"]);
        assert_eq!(steps[0].expectations[0].to_string(), "x/a -> x/b:80/TCP");
        assert!(steps[0].expectations[0].open);
        assert_eq!(steps[1].expectations[0].to_string(), "n/a -> svc/x/b:53/UDP");
        assert_eq!(steps[1].expectations[0].line, 7);
    }

    #[test]
    fn a_service_has_a_name_and_node_ports() {
        let steps = parse(
            "$ kubectl apply\na -> nodeport/b:80 open\na -> othernode/n/b:80 closed",
            "x",
        )
        .unwrap();
        let [first, second] = steps[0].expectations.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(first.to, Target::NodePort(ObjectKey::new("x", "b"), 80));
        assert_eq!(second.to_string(), "x/a -> othernode/n/b:80/TCP");
    }

    #[test]
    fn addresses_are_outside_the_cluster() {
        let steps = parse(
            "$ kubectl apply\n203.0.113.7 -> a:1/SCTP open\na -> [2001:db8::1]:8080 closed",
            "x",
        )
        .unwrap();
        let [first, second] = steps[0].expectations.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(first.from, Place::Outside("203.0.113.7".parse().unwrap()));
        assert_eq!(first.protocol, Protocol::Sctp);
        assert_eq!(second.to, Target::Outside("[2001:db8::1]:8080".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, line, reason) in [
            ("a -> b:80 open", "line 1", "before any command"),
            (
                "$ kubectl apply\na -> b:80 shut",
                "line 2",
                "neither open nor closed",
            ),
            ("$ kubectl apply\na -> b open", "line 2", "no port"),
            ("$ rm -rf x", "line 1", "only kubectl"),
            ("$ kubectl get pods | tee x", "line 1", "no shell"),
            ("$ kubectl apply\na b", "line 2", "neither a command"),
            ("$ kubectl apply\na/b/c -> d:1 open", "line 2", "NAMESPACE/NAME"),
        ] {
            let error = format!("{:#}", parse(text, "x").unwrap_err());
            assert!(error.contains(line) && error.contains(reason), "{text}: {error}");
        }
        assert!(parse("$ kubectl apply\n", "x").is_err());
    }
}
