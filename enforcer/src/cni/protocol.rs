//! What a container runtime and a CNI plugin say to each other: the CNI specification, 0.3.0 to 1.1.0.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PATIENCE, SOCKET};

/// The versions of the specification that the plugin speaks. Their results differ, but it only passes on what it gets.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a plugin says when it fails. The runtime puts it into the pod's events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// In short.
    pub message: String,
    /// With the remedy.
    pub details: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    /// As the runtime wants to read it.
    pub fn to_json(&self, version: &str) -> String {
        let error = serde_json::json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
            "details": self.details,
        });
        error.to_string()
    }
}

/// The specification's numbers for failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The version of the specification is not spoken here.
    IncompatibleVersion = 1,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Standard input could not be read.
    Io = 5,
    /// Standard input is no configuration.
    Decoding = 6,
    /// The configuration is none that the plugin can work with.
    InvalidConfig = 7,
    /// The runtime should try again later.
    TryAgainLater = 11,
}

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A pod's network is there.
    Add,
    /// A pod's network goes.
    Del,
    /// Is the pod's network as it should be?
    Check,
    /// Could a pod's network be made?
    Status,
    /// What is not listed is gone.
    Gc,
    /// Which versions are spoken?
    Version,
}

impl Command {
    /// The command that the runtime calls so.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(name: Option<&str>) -> Result<Self, Failure> {
        match name {
            Some("ADD") => Ok(Self::Add),
            Some("DEL") => Ok(Self::Del),
            Some("CHECK") => Ok(Self::Check),
            Some("STATUS") => Ok(Self::Status),
            Some("GC") => Ok(Self::Gc),
            Some("VERSION") => Ok(Self::Version),
            other => Err(Failure::new(
                Code::InvalidEnvironment,
                format!("CNI_COMMAND is {other:?}"),
                "this is a CNI plugin: a container runtime starts it, with ADD, DEL, CHECK, STATUS, GC or VERSION",
            )),
        }
    }
}

/// What becomes of a pod whose rules did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// It starts all the same.
    Open,
    /// It does not start; the kubelet tries again.
    #[default]
    Closed,
}

/// The plugin's configuration, as the runtime writes it to standard input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The version that the runtime speaks.
    pub cni_version: String,
    /// Where the enforcer listens.
    #[serde(default = "default_socket")]
    pub socket: String,
    /// How long to wait for the enforcer.
    #[serde(default = "default_patience")]
    pub timeout_seconds: u64,
    /// What becomes of a pod whose rules did not come in time.
    #[serde(default)]
    pub without_enforcer: Fallback,
    /// What the plugins before this one made.
    pub prev_result: Option<Value>,
}

fn default_socket() -> String {
    SOCKET.to_owned()
}

fn default_patience() -> u64 {
    PATIENCE
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is none, or speaks another version.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let config: Self = serde_json::from_str(text).map_err(|error| {
            Failure::new(
                Code::Decoding,
                "the configuration cannot be read",
                error.to_string(),
            )
        })?;
        if VERSIONS.contains(&config.cni_version.as_str()) {
            return Ok(config);
        }
        Err(Failure::new(
            Code::IncompatibleVersion,
            format!("cniVersion {:?} is not spoken", config.cni_version),
            format!("use one of {VERSIONS:?} in the network configuration"),
        ))
    }

    /// The addresses that the pod has been given.
    ///
    /// # Errors
    /// No plugin before this one gave any.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let given = self
            .prev_result
            .iter()
            .filter_map(|result| result["ips"].as_array());
        let addresses: Option<Vec<IpAddr>> = given
            .flatten()
            .map(|ip| Some(ip["address"].as_str()?.parse::<IpNet>().ok()?.addr()))
            .collect();
        addresses
            .filter(|addresses| !addresses.is_empty())
            .ok_or_else(|| {
                Failure::new(
                    Code::InvalidConfig,
                    "prevResult gives the pod no address",
                    "put this plugin after the one that gives out addresses",
                )
            })
    }
}

/// The pod that a runtime speaks of, from `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodArgs {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl PodArgs {
    /// Reads `CNI_ARGS`. `None` is a container that is no pod of a cluster.
    ///
    /// # Errors
    /// It is a pod, and something is missing about it.
    pub fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let pairs: BTreeMap<&str, &str> = text.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let value = |name: &str| pairs.get(name).filter(|value| !value.is_empty());
        if value("K8S_POD_NAME").is_none() && value("K8S_POD_NAMESPACE").is_none() {
            return Ok(None);
        }
        let need = |name: &str| {
            value(name).map(|value| (*value).to_owned()).ok_or_else(|| {
                Failure::new(
                    Code::InvalidEnvironment,
                    format!("CNI_ARGS has no {name}"),
                    "use a container runtime that names pods with their UID, as containerd and CRI-O do",
                )
            })
        };
        Ok(Some(Self {
            namespace: need("K8S_POD_NAMESPACE")?,
            name: need("K8S_POD_NAME")?,
            uid: need("K8S_POD_UID")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pod_is_named_by_namespace_name_and_uid() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1";
        let pod = PodArgs::parse(args).unwrap().unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("shop", "web-0", "u-1")
        );
    }

    #[test]
    fn a_container_that_is_no_pod_is_none_and_half_a_pod_is_refused() {
        assert_eq!(PodArgs::parse(""), Ok(None));
        assert_eq!(PodArgs::parse("IgnoreUnknown=1"), Ok(None));
        let failure = PodArgs::parse("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=").unwrap_err();
        assert_eq!(failure.code, Code::InvalidEnvironment);
        assert!(failure.message.contains("K8S_POD_UID"), "{failure}");
    }

    #[test]
    fn every_version_of_the_specification_with_results_like_these_is_spoken_and_no_other() {
        let config = |version: &str| Config::parse(&format!(r#"{{"cniVersion": "{version}", "type": "x"}}"#));
        for version in VERSIONS {
            assert!(config(version).is_ok(), "{version}");
        }
        for version in ["0.2.0", "1.2.0", "", "2"] {
            assert_eq!(
                config(version).unwrap_err().code,
                Code::IncompatibleVersion,
                "{version}"
            );
        }
        assert_eq!(Config::parse("{").unwrap_err().code, Code::Decoding);
    }

    #[test]
    fn what_is_not_configured_is_closed_and_waits() {
        let config = Config::parse(r#"{"cniVersion": "1.0.0"}"#).unwrap();
        assert_eq!(config.without_enforcer, Fallback::Closed);
        assert_eq!(
            (config.timeout_seconds, config.socket.as_str()),
            (PATIENCE, SOCKET)
        );
        let open = Config::parse(r#"{"cniVersion": "1.0.0", "withoutEnforcer": "open"}"#).unwrap();
        assert_eq!(open.without_enforcer, Fallback::Open);
    }

    #[test]
    fn addresses_of_both_families_are_found_and_none_is_refused() {
        let with = |ips: &str| {
            let text = format!(r#"{{"cniVersion": "1.0.0", "prevResult": {{"ips": [{ips}]}}}}"#);
            Config::parse(&text).unwrap().addresses()
        };
        let addresses =
            with(r#"{"address": "10.244.1.7/24", "interface": 2}, {"address": "fd00::7/64"}"#).unwrap();
        assert_eq!(
            addresses,
            [
                "10.244.1.7".parse::<IpAddr>().unwrap(),
                "fd00::7".parse().unwrap()
            ]
        );
        for bad in ["", r#"{"address": "10.244.1.7/24"}, {"address": "x"}"#, "{}"] {
            assert_eq!(with(bad).unwrap_err().code, Code::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn a_failure_says_code_message_and_details() {
        let failure = Failure::new(Code::TryAgainLater, "no", "wait");
        let said: Value = serde_json::from_str(&failure.to_json("1.0.0")).unwrap();
        assert_eq!(
            said,
            serde_json::json!({"cniVersion": "1.0.0", "code": 11, "msg": "no", "details": "wait"})
        );
    }
}
