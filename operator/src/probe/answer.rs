//! What a caller is told and what it answers: arguments, and the termination message of its pod.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest termination message that Kubernetes keeps of one container.
pub const LONGEST: usize = 4096;

/// A server to try: its addresses, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(pub Vec<IpAddr>);

impl Target {
    /// As an argument.
    #[must_use]
    pub fn argument(&self) -> String {
        let addresses: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addresses = text.split(',').map(|address| {
            address
                .parse()
                .map_err(|_| format!("{address} is no address: write 10.0.0.1 or 10.0.0.1,fd00::1"))
        });
        addresses.collect::<Result<_, _>>().map(Self)
    }
}

/// What a caller met at one server, on all ways to it: each of its addresses, by TCP and by UDP. The worst of all ways.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub enum Met {
    /// Allowed traffic arrived and denied traffic did not.
    Right,
    /// Denied traffic arrived at first and then no more.
    OpenAtStart,
    /// Allowed traffic did not arrive, or not all the time: nothing is known about denied traffic.
    Lost,
    /// Denied traffic arrived up to the end.
    Leak,
}

/// What a caller says about one server.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    /// What it met.
    pub met: Met,
    /// On which way, where it was not right: `TCP 10.0.0.1:8471`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub way: String,
}

/// A termination message: an entry for each target, in their order.
///
/// # Errors
/// When it cannot be written as JSON, or is longer than Kubernetes keeps.
pub fn write(heard: &[Heard]) -> Result<String, String> {
    let text = serde_json::to_string(heard).map_err(|error| error.to_string())?;
    if text.len() > LONGEST {
        return Err(format!(
            "{} bytes are more than the {LONGEST} that are kept",
            text.len()
        ));
    }
    Ok(text)
}

/// Reads a termination message.
///
/// # Errors
/// When it is none, or not of so many targets.
pub fn read(text: &str, targets: usize) -> Result<Vec<Heard>, String> {
    let heard: Vec<Heard> = serde_json::from_str(text)
        .map_err(|error| format!("its termination message is no answer of a probe ({error}): does spec.image name the operator's image?"))?;
    if heard.len() != targets {
        return Err(format!(
            "it tells of {} servers and not of {targets}",
            heard.len()
        ));
    }
    Ok(heard)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_longest_answer_fits() {
        let longest = Heard {
            met: Met::OpenAtStart,
            way: "TCP [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".to_owned(),
        };
        let answer = vec![longest; 20];
        let text = write(&answer).unwrap();
        assert_eq!(read(&text, 20).unwrap(), answer);
        assert!(write(&[&answer[..], &answer, &answer].concat()).is_err());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(read("", 1).unwrap_err().contains("spec.image"));
        assert!(read("[]", 1).unwrap_err().contains("0 servers"));
        assert!(read(r#"[{"met":"fine"}]"#, 1).is_err());
    }

    #[test]
    fn a_target_is_what_it_is_written_as() {
        let target = Target(vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(target.argument().parse::<Target>().unwrap(), target);
        assert!("10.0.0.1,".parse::<Target>().is_err());
    }
}
