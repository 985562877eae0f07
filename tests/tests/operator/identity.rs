//! Other users than the administrator: the same API server, by impersonation.

use kube::{Client, Config};
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{Limits, client};
use serde_json::Value;

use crate::lab::Lab;

/// The operator's ServiceAccount.
pub(crate) const OPERATOR: &str = "system:serviceaccount:ringfence-system:ringfence-operator";
/// The enforcers' ServiceAccount.
pub(crate) const ENFORCER: &str = "system:serviceaccount:ringfence-system:ringfence-enforcer";
/// The garbage collector's.
pub(crate) const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
/// Whoever empties a namespace that is going.
pub(crate) const NAMESPACE_CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    user: String,
    groups: Vec<String>,
    node: Option<String>,
}

impl Identity {
    /// Somebody whom RBAC permits nothing but what is bound to this very user.
    pub(crate) fn plain(user: &str) -> Self {
        let account = user.starts_with("system:serviceaccount:");
        let accounts = account.then(|| "system:serviceaccounts".to_owned());
        Self {
            user: user.to_owned(),
            groups: accounts.into_iter().collect(),
            node: None,
        }
    }

    /// Somebody whom RBAC permits everything, so that admission alone decides.
    pub(crate) fn mighty(user: &str) -> Self {
        let mut identity = Self::plain(user);
        identity.groups.push("system:masters".to_owned());
        identity
    }

    /// With a token that is bound to a pod on this node.
    pub(crate) fn on_node(self, node: &str) -> Self {
        Self {
            node: Some(node.to_owned()),
            ..self
        }
    }

    /// The configuration by which a client is this user.
    pub(crate) fn config(&self, lab: &Lab) -> Config {
        let mut config = lab.config.clone();
        let mut say = |name: &str, value: &str| {
            config
                .headers
                .push((name.parse().unwrap(), value.parse().unwrap()));
        };
        say("impersonate-user", &self.user);
        for group in &self.groups {
            say("impersonate-group", group);
        }
        if let Some(node) = &self.node {
            say("impersonate-extra-authentication.kubernetes.io%2fnode-name", node);
        }
        config
    }

    pub(crate) fn client(&self, lab: &Lab) -> Client {
        client(self.config(lab), Limits::default(), &ApiRequests::default()).unwrap()
    }
}

/// A request by hand: method, path, and an object or a merge patch. What the API server says when it refuses.
pub(crate) async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).unwrap()
    };
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("content-type", kind).body(bytes).unwrap();
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    })
}
