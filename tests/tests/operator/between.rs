//! Something between an operator and its API server that is slow or refuses, as overload has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyStream, StreamBody};
use kube::Client;
use kube::client::Body;
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{Limits, client};
use tokio::sync::watch;
use tower::service_fn;

use crate::lab::{Lab, block_on};

/// Which requests are answered with 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Throttle {
    Nothing,
    /// All, those of the election too. Watches that are open go on.
    All,
    /// Every second write of a NetworkPolicy.
    EverySecondPolicy,
}

/// How it behaves now.
pub(crate) struct Between {
    throttle: watch::Sender<Throttle>,
    behind: watch::Sender<bool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    policies: AtomicUsize,
    refused: AtomicUsize,
}

impl Between {
    pub(crate) fn new() -> Self {
        Self {
            throttle: watch::Sender::new(Throttle::Nothing),
            behind: watch::Sender::new(false),
            counts: Arc::default(),
        }
    }

    /// From now on these requests are refused.
    pub(crate) fn throttle(&self, throttle: Throttle) {
        self.throttle.send_replace(throttle);
    }

    /// Whether the watch of NetworkPolicies says nothing, and says it later.
    pub(crate) fn keep_policies_back(&self, behind: bool) {
        self.behind.send_replace(behind);
    }

    /// How many requests were refused.
    pub(crate) fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// A client through it, and the counter of the requests that get to the API server.
    pub(crate) fn client(&self, lab: &Lab) -> (Client, ApiRequests) {
        let requests = ApiRequests::default();
        // A client needs a runtime to live in.
        let inner = block_on(async { client(lab.config.clone(), Limits::default(), &requests).unwrap() });
        let (throttle, behind) = (self.throttle.subscribe(), self.behind.subscribe());
        let counts = self.counts.clone();
        let service = service_fn(move |request: Request<Body>| {
            let refused = counts.refuses(*throttle.borrow(), &request);
            let held_back = is_watch_of_policies(&request).then(|| behind.clone());
            let inner = inner.clone();
            async move {
                let answer = if refused {
                    too_many()
                } else {
                    inner.send(request).await?
                };
                Ok::<_, kube::Error>(answer.map(|body| late(body, held_back)))
            }
        });
        (block_on(async { Client::new(service, "default") }), requests)
    }
}

impl Counts {
    fn refuses(&self, throttle: Throttle, request: &Request<Body>) -> bool {
        let refuses = match throttle {
            Throttle::Nothing => false,
            Throttle::All => true,
            Throttle::EverySecondPolicy => {
                let write =
                    request.method() != Method::GET && request.uri().path().contains("/networkpolicies");
                write && self.policies.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
            }
        };
        self.refused.fetch_add(usize::from(refuses), Ordering::Relaxed);
        refuses
    }
}

fn is_watch_of_policies(request: &Request<Body>) -> bool {
    let watches = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("watch=true"));
    watches && request.uri().path().ends_with("/networkpolicies")
}

/// An answer whose parts wait while they are to be held back.
fn late(
    body: Body,
    held_back: Option<watch::Receiver<bool>>,
) -> impl http_body::Body<Data = <Body as http_body::Body>::Data, Error = kube::Error> + Send {
    StreamBody::new(BodyStream::new(body).then(move |frame| {
        let held_back = held_back.clone();
        async move {
            if let Some(mut behind) = held_back {
                // Whoever held it back may be gone with the test.
                let _ = behind.wait_for(|behind| !behind).await;
            }
            frame
        }
    }))
}

/// What API priority and fairness answers: no Status, but a line of text.
fn too_many() -> Response<Body> {
    let mut answer = Response::new(Body::from(
        b"Too many requests, please try again later.\n".to_vec(),
    ));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    answer
        .headers_mut()
        .insert("retry-after", http::HeaderValue::from_static("1"));
    answer
}
