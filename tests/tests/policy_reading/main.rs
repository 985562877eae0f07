//! The policy engine reads NetworkPolicies as the API server does: what one accepts the other reads, and what one refuses
//! the other refuses for the same field. What the API server stores, defaults filled in, reads the same as what was sent.
#![allow(clippy::unwrap_used)]

mod random;

use fastrand::Rng;
use futures::{StreamExt, stream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use ringfence_policy::{InvalidPolicy, Policy};
use ringfence_tests::testbed::ApiServer;
use serde_json::Value;

/// Random policies; `RINGFENCE_LONG` tries ten times as many.
const POLICIES: usize = 4_000;

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// What the API server made of a policy.
enum Answer {
    Stored(Box<NetworkPolicy>),
    /// Refused for these fields.
    Refused(Vec<String>),
}

async fn ask(api: &Api<NetworkPolicy>, policy: &NetworkPolicy) -> Answer {
    let dry_run = PostParams {
        dry_run: true,
        field_manager: None,
    };
    match api.create(&dry_run, policy).await {
        Ok(stored) => Answer::Stored(Box::new(stored)),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let fields: Vec<String> = causes.map(|cause| cause.field.clone()).collect();
            assert!(!fields.is_empty(), "refused without a field: {}", status.message);
            Answer::Refused(fields)
        }
        Err(error) => panic!("the API server did not answer: {error}"),
    }
}

/// What differs between the two, if anything.
fn difference(policy: &NetworkPolicy, answer: Answer) -> Option<String> {
    let read = Policy::from_api(policy);
    let difference = match (answer, read) {
        (Answer::Stored(stored), Ok(read)) => {
            let from_stored = Policy::from_api(&stored).map(|stored| Policy {
                uid: read.uid.clone(),
                ..stored
            });
            match from_stored == Ok(read) {
                true => return None,
                false => "what is stored reads otherwise than what was sent".to_owned(),
            }
        }
        (Answer::Refused(fields), Err(InvalidPolicy { field, .. })) => match fields.contains(&field) {
            true => return None,
            false => format!("refused for {fields:?} by the API server, and for {field} here"),
        },
        (Answer::Stored(_), Err(error)) => format!("accepted by the API server, and here: {error}"),
        (Answer::Refused(fields), Ok(_)) => {
            format!("refused for {fields:?} by the API server, and read here")
        }
    };
    let spec = serde_json::to_string(&policy.spec).unwrap();
    Some(format!("{difference}\n    {spec}"))
}

async fn client(server: &ApiServer) -> Client {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// A server that reads networks as all versions before 1.36 did: their objects are still there after an upgrade.
fn lenient_server() -> ApiServer {
    ApiServer::start_with(&["--feature-gates=StrictIPCIDRValidation=false"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_policies_are_accepted_and_refused_alike_and_read_alike_when_stored() {
    let server = lenient_server();
    let api: Api<NetworkPolicy> = Api::namespaced(client(&server).await, "default");
    let long = std::env::var_os("RINGFENCE_LONG").is_some();
    let wanted = if long { 10 * POLICIES } else { POLICIES };
    let mut rng = Rng::with_seed(0x5246);
    let policies: Vec<Value> = (0..wanted)
        .map(|n| random::policy(&mut rng, &format!("p{n}")))
        .collect();

    let (mut stored, mut wrong) = (0, Vec::new());
    let mut answers = stream::iter(&policies)
        .map(|policy| async {
            let policy: NetworkPolicy = serde_json::from_value(policy.clone()).unwrap();
            let answer = ask(&api, &policy).await;
            (policy, answer)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((policy, answer)) = answers.next().await {
        stored += usize::from(matches!(answer, Answer::Stored(_)));
        wrong.extend(difference(&policy, answer));
    }
    assert!(
        wrong.is_empty(),
        "{} of {wanted} policies:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
    // Both kinds must be common, or little was compared.
    let refused = wanted - stored;
    assert!(
        stored * 4 > wanted && refused * 10 > wanted,
        "{stored} stored, {refused} refused"
    );
    println!("{stored} policies stored and {refused} refused, all read alike");
}
