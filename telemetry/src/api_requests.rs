//! Counting what a program asks of the API server, so that "an idle program writes nothing" can be read from its own
//! metrics.

use std::task::{Context, Poll};

use ::http::{Method, Request, Response, header};
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

/// `ringfence_api_requests_total{verb,resource,code}`: a tower layer around a client that counts every request when
/// its answer's head arrives. Cheap to clone; clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct ApiRequests {
    requests: Family<Labels, Counter>,
}

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    resource: String,
    code: String,
}

impl ApiRequests {
    /// Adds the counter to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to the API server by verb, resource (with its group and subresource) and HTTP status; \
                    the code is \"error\" when there was no answer";
        registry.register("ringfence_api_requests", help, self.requests.clone());
    }

    fn count(&self, target: Target, code: String) {
        self.requests
            .get_or_create(&Labels {
                verb: target.verb,
                resource: target.resource,
                code,
            })
            .inc();
    }
}

/// What a request is about, in RBAC's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) verb: &'static str,
    /// `pods`, `networkpolicies.networking.k8s.io`, `serviceaccesses.ringfence.dev/status`; for what is no resource,
    /// the first part of the path.
    pub(crate) resource: String,
}

impl Target {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let path = Path::parse(request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        let watch = query
            .split('&')
            .any(|pair| pair == "watch=true" || pair == "watch=1");
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|value| value.as_bytes());
        let apply = kind.is_some_and(|kind| kind.starts_with(b"application/apply-patch"));
        let verb = match (request.method(), path.named) {
            (&Method::GET, _) if watch => "watch",
            (&Method::GET, true) => "get",
            (&Method::GET, false) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) if apply => "apply",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, true) => "delete",
            (&Method::DELETE, false) => "deletecollection",
            _ => "other",
        };
        Self {
            verb,
            resource: path.resource,
        }
    }
}

/// The part of a request's path that does not depend on names.
struct Path {
    resource: String,
    /// Whether one object is meant, not a collection.
    named: bool,
}

impl Path {
    fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            other => {
                return Self {
                    resource: other.first().unwrap_or(&"/").to_string(),
                    named: true,
                };
            }
        };
        // `namespaces/<name>` comes before the resource; alone, or followed by one of its two subresources, it is
        // the resource.
        let rest = match rest {
            ["namespaces", _, "status" | "finalize", ..] => rest,
            ["namespaces", _, resource @ ..] if !resource.is_empty() => resource,
            rest => rest,
        };
        let [resource, tail @ ..] = rest else {
            return Self {
                resource: "discovery".to_owned(),
                named: true,
            };
        };
        let mut name = (*resource).to_owned();
        for (mark, part) in [('.', group), ('/', tail.get(1).copied().unwrap_or_default())] {
            if !part.is_empty() {
                name.push(mark);
                name.push_str(part);
            }
        }
        Self {
            resource: name,
            named: !tail.is_empty(),
        }
    }
}

impl<S> Layer<S> for ApiRequests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            requests: self.clone(),
        }
    }
}

/// A client's service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    requests: ApiRequests,
}

impl<S, B, R> Service<Request<B>> for Counting<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (target, requests) = (Target::of(&request), self.requests.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(response) => response.status().as_u16().to_string(),
                Err(_) => "error".to_owned(),
            };
            requests.count(target, code);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use futures::future;
    use tower::service_fn;

    fn request(method: &str, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    fn target(method: &str, uri: &str) -> (&'static str, String) {
        let target = Target::of(&request(method, uri));
        (target.verb, target.resource)
    }

    #[test]
    fn requests_are_named_in_the_words_of_rbac() {
        let cases = [
            ("GET", "/api/v1/pods", "list", "pods"),
            ("GET", "/api/v1/pods?limit=500&watch=true", "watch", "pods"),
            ("GET", "/api/v1/namespaces", "list", "namespaces"),
            ("GET", "/api/v1/namespaces/shop", "get", "namespaces"),
            (
                "PUT",
                "/api/v1/namespaces/shop/finalize",
                "update",
                "namespaces/finalize",
            ),
            ("GET", "/api/v1/namespaces/shop/pods/web", "get", "pods"),
            (
                "POST",
                "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies",
                "create",
                "networkpolicies.networking.k8s.io",
            ),
            (
                "DELETE",
                "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies",
                "deletecollection",
                "networkpolicies.networking.k8s.io",
            ),
            (
                "DELETE",
                "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/b",
                "delete",
                "networkpolicies.networking.k8s.io",
            ),
            (
                "PUT",
                "/apis/ringfence.dev/v1alpha1/namespaces/a/serviceaccesses/b/status?x=1",
                "update",
                "serviceaccesses.ringfence.dev/status",
            ),
            (
                "PATCH",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x",
                "patch",
                "customresourcedefinitions.apiextensions.k8s.io",
            ),
            ("GET", "/apis/ringfence.dev/v1alpha1", "get", "discovery"),
            ("GET", "/version", "get", "version"),
        ];
        for (method, uri, verb, resource) in cases {
            assert_eq!(target(method, uri), (verb, resource.to_owned()), "{method} {uri}");
        }
    }

    #[test]
    fn server_side_apply_is_told_from_other_patches() {
        let mut apply = request("PATCH", "/api/v1/namespaces/a/pods/b");
        let kind = "application/apply-patch+yaml".parse().unwrap();
        apply.headers_mut().insert(header::CONTENT_TYPE, kind);
        assert_eq!(Target::of(&apply).verb, "apply");
    }

    #[tokio::test]
    async fn answers_and_failures_are_counted_apart() {
        let requests = ApiRequests::default();
        let answer = |request: Request<()>| match request.method().as_str() {
            "GET" => future::ready(Ok(Response::builder().status(409).body(()).unwrap())),
            _ => future::ready(Err("no connection")),
        };
        let mut service = requests.layer(service_fn(answer));
        service.call(request("GET", "/api/v1/pods")).await.unwrap();
        service.call(request("GET", "/api/v1/pods")).await.unwrap();
        service
            .call(request("DELETE", "/api/v1/namespaces/a/pods/b"))
            .await
            .unwrap_err();
        let count = |verb, code: &str| {
            let labels = Labels {
                verb,
                resource: "pods".to_owned(),
                code: code.to_owned(),
            };
            requests.requests.get_or_create(&labels).get()
        };
        assert_eq!((count("list", "409"), count("delete", "error")), (2, 1));
    }
}
