//! Long histories of everything that can change: pods, namespaces' labels, Services, what openings are derived from, others'
//! policies, and what users wish. After every change the namespaces' plans run side by side, some of them cut off by the
//! next change, and every moment is held to what was and what shall be, both judged in the cluster as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube::ResourceExt;
use proptest::prelude::*;
use ringfence_operator::transition::Step;
use ringfence_operator::view::ClusterView;
use ringfence_policy::Flow;
use serde_json::{Value, json};

use crate::cluster::{ApiServer, insert, outline, planned, world};
use crate::random::{
    AWAY, Ground, HOME, Wishes, access, cluster, external, foreign, ground, identified, identity, labels,
    named, pod, policy, service, sources, wishes, zero_trust,
};
use crate::transition_properties::{Measure, allowed, flows};

/// The namespaces whose policies are written.
const NAMESPACES: [&str; 2] = [HOME, AWAY];

/// What a namespace has one of by kind and name.
type Key = (String, String, String);

/// A cluster without what the operator writes.
#[derive(Clone)]
struct Facts {
    pods: BTreeMap<usize, Value>,
    objects: BTreeMap<Key, Value>,
    teams: BTreeMap<&'static str, &'static str>,
    stamps_protected: bool,
}

#[derive(Clone)]
enum Change {
    /// A pod comes, goes, or is another one from now on, at the same address.
    Pod(usize, Option<Value>),
    /// An object is created or changed.
    Set(Value),
    /// An object is deleted.
    Gone(Key),
    /// All that openings are derived from is this.
    Sources(Vec<Value>),
    /// A namespace is labelled.
    Team(&'static str, &'static str),
    /// Wrong stamps of ServiceAccounts are refused from now on, or are not.
    Stamps(bool),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(n, Some(pod)) => write!(f, "pod {n}: {pod}"),
            Self::Pod(n, None) => write!(f, "pod {n} goes"),
            Self::Set(object) => write!(f, "set {object}"),
            Self::Gone(key) => write!(f, "gone {key:?}"),
            Self::Sources(objects) => write!(f, "sources {objects:?}"),
            Self::Team(namespace, team) => write!(f, "{namespace} is of team {team}"),
            Self::Stamps(protected) => write!(f, "stamps protected: {protected}"),
        }
    }
}

fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

/// The kinds that [`sources`] gives, but for the Service without a selector.
const SOURCES: [&str; 4] = [
    "StatefulSet",
    "Ingress",
    "ValidatingWebhookConfiguration",
    "EndpointSlice",
];

impl Facts {
    fn new(ground: &Ground, wishes: &Wishes) -> Self {
        let objects = ground
            .foreign
            .iter()
            .chain(&wishes.others)
            .chain(&wishes.zero_trust);
        Self {
            pods: ground.pods.iter().cloned().enumerate().collect(),
            objects: objects.map(|object| (key(object), object.clone())).collect(),
            teams: NAMESPACES.into_iter().map(|name| (name, name)).collect(),
            stamps_protected: ground.stamps_protected,
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Pod(n, Some(pod)) => drop(self.pods.insert(*n, pod.clone())),
            Change::Pod(n, None) => drop(self.pods.remove(n)),
            Change::Set(object) => drop(self.objects.insert(key(object), object.clone())),
            Change::Gone(key) => drop(self.objects.remove(key)),
            Change::Sources(objects) => {
                self.objects
                    .retain(|(kind, ..), _| !SOURCES.contains(&kind.as_str()));
                self.objects
                    .extend(objects.iter().map(|object| (key(object), object.clone())));
            }
            Change::Team(namespace, team) => drop(self.teams.insert(namespace, team)),
            Change::Stamps(protected) => self.stamps_protected = *protected,
        }
    }

    /// The cluster with these facts, and what the operator has written so far.
    fn view(&self, written: &ClusterView) -> ClusterView {
        let ground = Ground {
            pods: self.pods.values().cloned().collect(),
            foreign: Vec::new(),
            stamps_protected: self.stamps_protected,
        };
        let others = self.objects.values().cloned().collect();
        let mut view = cluster(
            &ground,
            &Wishes {
                zero_trust: None,
                others,
            },
        );
        for (name, team) in &self.teams {
            insert(
                &mut view,
                json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}),
            );
        }
        for (namespace, policies) in &written.policies {
            let ours = policies
                .iter()
                .filter(|policy| !policy.name_any().starts_with("foreign-"));
            view.policies
                .entry(namespace.clone())
                .or_default()
                .extend(ours.cloned());
        }
        view
    }
}

/// A change, in which order the two namespaces' writes are made, and after how many the next change comes.
#[derive(Clone, Debug)]
struct Turn {
    change: Change,
    home_next: Vec<bool>,
    cut: Option<usize>,
}

fn of(namespace: &str, mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// An object of this kind is written with a random spec, or is deleted.
fn object(
    kind: &'static str,
    names: Vec<&'static str>,
    spec: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Change> {
    let namespace = prop::sample::select(vec![HOME, HOME, AWAY]);
    (
        namespace,
        prop::sample::select(names),
        prop::option::weighted(0.75, spec),
    )
        .prop_map(move |(namespace, name, spec)| match spec {
            Some(mut spec) => {
                if namespace == AWAY && spec.get("acceptEgressFrom").is_some() {
                    spec["acceptEgressFrom"] = json!([{"namespace": HOME}]);
                }
                Change::Set(of(namespace, named(kind, name, &spec)))
            }
            None => Change::Gone((kind.to_owned(), namespace.to_owned(), name.to_owned())),
        })
}

fn a_pod() -> impl Strategy<Value = Change> {
    let one = (prop::sample::select(vec![HOME, HOME, AWAY]), labels(), identity());
    (0usize..6, prop::option::weighted(0.8, one)).prop_map(|(n, one)| {
        let pod = one.map(|(namespace, labels, identity)| identified(pod(n, namespace, &labels), identity));
        Change::Pod(n, pod)
    })
}

fn others_policy() -> impl Strategy<Value = Change> {
    (0usize..2, prop::option::of(foreign())).prop_map(|(n, spec)| match spec {
        Some(spec) => Change::Set(policy(n, &spec)),
        None => Change::Gone((
            "NetworkPolicy".to_owned(),
            HOME.to_owned(),
            format!("foreign-{n}"),
        )),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let team = prop::sample::select(vec![HOME, AWAY, "nobody"]);
    prop_oneof![
        4 => a_pod(),
        3 => object("ZeroTrustNamespace", vec!["default"], zero_trust()),
        3 => object("ServiceAccess", vec!["access-0", "access-1"], access()),
        2 => object("ExternalAccess", vec!["external-0"], external()),
        3 => object("Service", vec!["first", "second"], service()),
        2 => sources().prop_map(Change::Sources),
        1 => (prop::sample::select(NAMESPACES.to_vec()), team).prop_map(|(name, team)| Change::Team(name, team)),
        1 => any::<bool>().prop_map(Change::Stamps),
        1 => others_policy(),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let order = prop::collection::vec(any::<bool>(), 8);
    let turn = (change(), order, prop::option::weighted(0.3, 0usize..10));
    prop::collection::vec(
        turn.prop_map(|(change, home_next, cut)| Turn {
            change,
            home_next,
            cut,
        }),
        1..16,
    )
}

/// The same change without what the one exception of connections as a whole is about (the documentation of `transition` has
/// it): others' policies, pods that are left alone no longer, and a second namespace whose plan is none of this one's.
fn plain(change: &Change) -> Option<Change> {
    let Change::Set(object) = change else {
        return Some(change.clone());
    };
    let (kind, namespace, _) = key(object);
    let mut object = object.clone();
    match (kind.as_str(), namespace.as_str()) {
        ("NetworkPolicy", _) | ("ZeroTrustNamespace", AWAY) => return None,
        ("ZeroTrustNamespace", _) => object["spec"]["exempt"] = json!([]),
        _ => {}
    }
    Some(Change::Set(object))
}

/// The writes of both namespaces' plans, in an order in which each of them may come.
fn interleaved(view: &ClusterView, home_next: &[bool]) -> Vec<Step> {
    let [mut home, mut away] =
        NAMESPACES.map(|namespace| planned(view, namespace).steps.into_iter().peekable());
    let mut steps = Vec::new();
    for home_next in home_next.iter().cycle() {
        let (one, other) = if *home_next {
            (&mut home, &mut away)
        } else {
            (&mut away, &mut home)
        };
        match one.next().or_else(|| other.next()) {
            Some(step) => steps.push(step),
            None => break,
        }
    }
    steps
}

/// The two states that every moment is between.
struct Bounds {
    flows: Vec<Flow>,
    before: BTreeSet<usize>,
    after: BTreeSet<usize>,
    measure: Measure,
}

impl Bounds {
    fn new(view: &ClusterView, steps: &[Step], measure: Measure) -> Self {
        let mut last = view.clone();
        for step in steps {
            ApiServer::new().apply_unversioned(&mut last, step);
        }
        let flows = flows(&world(view));
        let measure = measure.sparing(view, &last);
        Self {
            before: allowed(view, &flows, measure),
            after: allowed(&last, &flows, measure),
            flows,
            measure,
        }
    }

    fn hold(&self, view: &ClusterView) -> Result<(), TestCaseError> {
        let now = allowed(view, &self.flows, self.measure);
        let show = |n: &usize| {
            let end = if n.is_multiple_of(2) { "->" } else { "<-" };
            format!("{end} {:?}", self.flows[n / 2])
        };
        let kept = self.before.intersection(&self.after);
        let lost: Vec<String> = kept.filter(|n| !now.contains(n)).map(show).collect();
        prop_assert!(lost.is_empty(), "lost: {lost:#?}");
        let neither = now
            .iter()
            .filter(|n| !self.before.contains(n) && !self.after.contains(n));
        let leaked: Vec<String> = neither.map(show).collect();
        prop_assert!(leaked.is_empty(), "leaked: {leaked:#?}");
        Ok(())
    }
}

/// Makes the writes one by one, and looks at every moment.
fn carry_out(
    api: &mut ApiServer,
    view: &mut ClusterView,
    turn: (&[bool], Option<usize>),
    measure: Measure,
) -> Result<(), TestCaseError> {
    let (home_next, cut) = turn;
    let steps = interleaved(view, home_next);
    let bounds = Bounds::new(view, &steps, measure);
    for step in steps.iter().take(cut.unwrap_or(usize::MAX)) {
        api.apply(view, step);
        let plans = || NAMESPACES.map(|namespace| outline(&planned(view, namespace)));
        bounds.hold(view).map_err(|error| {
            TestCaseError::fail(format!("{error}\nafter {step:#?}\nstill to do: {:#?}", plans()))
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4096, ..ProptestConfig::default() })]

    #[test]
    fn through_any_history_no_end_is_more_open_or_more_closed_than_before_and_after(
        ground in ground(), wishes in wishes(), turns in turns(),
    ) {
        let mut facts = Facts::new(&ground, &wishes);
        let (mut api, nothing) = (ApiServer::new(), ClusterView::default());
        let mut view = facts.view(&nothing);
        carry_out(&mut api, &mut view, (&[true, false], None), Measure::Ends)?;
        for turn in &turns {
            facts.change(&turn.change);
            view = facts.view(&view);
            carry_out(&mut api, &mut view, (&turn.home_next, turn.cut), Measure::Ends)?;
        }
        carry_out(&mut api, &mut view, (&[false, true], None), Measure::Ends)?;
        // However it came about, it is what it would be without a history.
        let mut fresh = facts.view(&nothing);
        for namespace in NAMESPACES {
            prop_assert_eq!(planned(&view, namespace).steps, vec![], "a second plan for {} has something to do", namespace);
            api.settle(&mut fresh, namespace);
        }
        let flows = flows(&world(&fresh));
        prop_assert_eq!(allowed(&view, &flows, Measure::Ends), allowed(&fresh, &flows, Measure::Ends));
    }

    #[test]
    fn through_any_history_of_a_namespace_no_connection_is_lost_or_leaks(
        ground in ground(), wishes in wishes(), turns in turns(),
    ) {
        let mut facts = Facts::new(&ground, &wishes);
        facts.objects = facts.objects.values().filter_map(|object| match plain(&Change::Set(object.clone()))? {
            Change::Set(object) => Some((key(&object), object)),
            _ => None,
        }).collect();
        let mut api = ApiServer::new();
        let mut view = facts.view(&ClusterView::default());
        carry_out(&mut api, &mut view, (&[true], None), Measure::Connections)?;
        for change in turns.iter().filter_map(|turn| plain(&turn.change)) {
            facts.change(&change);
            view = facts.view(&view);
            carry_out(&mut api, &mut view, (&[true], None), Measure::Connections)?;
        }
    }
}
