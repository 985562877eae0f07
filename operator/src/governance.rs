//! What holds in a namespace: its own ZeroTrustNamespace, the cluster's ZeroTrustBaseline, or both together.
//!
//! Generation, transitions and status know ZeroTrustNamespaces only. A namespace that goes by the baseline alone gets one
//! made here, that nobody wrote; one that goes by both gets its own with what it inherits, and without what it may not
//! loosen.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;
use ringfence_crd::{
    Allow, DefaultDeny, Freedom, Mode, NEVER_COVERED, SINGLETON, SameNamespace, ZeroTrustBaseline,
    ZeroTrustNamespace, ZeroTrustNamespaceSpec, ZeroTrustNamespaceStatus,
};
use ringfence_policy::{Labels, Selector};

/// What holds in a namespace that the baseline covers.
#[derive(Clone, Debug)]
pub(crate) struct Governed {
    /// The ZeroTrustNamespace that holds.
    pub(crate) zero_trust: ZeroTrustNamespace,
    /// Whether it goes by the baseline alone.
    pub(crate) by_baseline: bool,
    /// What its own ZeroTrustNamespace asks for and may not.
    pub(crate) overruled: Vec<Freedom>,
}

/// Works out what holds in a namespace, from what users wrote. None if the baseline does not cover it.
pub(crate) fn govern(
    baseline: &ZeroTrustBaseline,
    written: Option<&Arc<ZeroTrustNamespace>>,
    namespace: &str,
    labels: &Labels,
    reserved: &BTreeSet<String>,
) -> Option<Governed> {
    if !selects(baseline, namespace, labels, reserved) {
        return None;
    }
    // One that is being deleted leaves the namespace to the baseline, and still gets a status.
    let own = written.filter(|own| own.metadata.deletion_timestamp.is_none());
    let Some(own) = own else {
        return Some(Governed {
            zero_trust: in_place(baseline, namespace),
            by_baseline: true,
            overruled: Vec::new(),
        });
    };
    let (zero_trust, overruled) = within(baseline, own);
    Some(Governed {
        zero_trust,
        by_baseline: false,
        overruled,
    })
}

/// Whether a namespace is covered by the baseline, if it has no ZeroTrustNamespace of its own. A selector that cannot be
/// read selects everything: what is meant to close must not leave open.
pub(crate) fn selects(
    baseline: &ZeroTrustBaseline,
    name: &str,
    labels: &Labels,
    reserved: &BTreeSet<String>,
) -> bool {
    let spec = &baseline.spec;
    let left_alone = NEVER_COVERED.contains(&name)
        || reserved.contains(name)
        || spec.exempt_namespaces.iter().any(|exempt| exempt == name);
    let selector = spec.namespace_selector.as_ref();
    let matches = selector
        .and_then(|selector| Selector::try_from(selector).ok())
        .is_none_or(|selector| selector.matches(labels));
    !left_alone && matches
}

/// The ZeroTrustNamespace that a namespace gets from the baseline alone. It bears the baseline's identity, which is what owns
/// its policies.
fn in_place(baseline: &ZeroTrustBaseline, namespace: &str) -> ZeroTrustNamespace {
    let spec = &baseline.spec;
    let mut resource = ZeroTrustNamespace::new(
        SINGLETON,
        ZeroTrustNamespaceSpec {
            mode: spec.mode,
            default_deny: spec.default_deny,
            exempt: spec.exempt.clone(),
            allow: spec.allow.clone(),
            accept_egress_from: spec.accept_egress_from.clone(),
        },
    );
    resource.metadata.namespace = Some(namespace.to_owned());
    resource.metadata.uid = baseline.uid();
    // One that has been acted upon is none that is new.
    resource.status = baseline
        .status
        .as_ref()
        .map(|_| ZeroTrustNamespaceStatus::default());
    resource
}

/// A namespace's own ZeroTrustNamespace with what it inherits, and what of it does not count.
fn within(baseline: &ZeroTrustBaseline, own: &ZeroTrustNamespace) -> (ZeroTrustNamespace, Vec<Freedom>) {
    let mut merged = own.clone();
    let (base, spec) = (&baseline.spec, &mut merged.spec);
    inherit(&mut spec.allow, &base.allow);
    for accepted in &base.accept_egress_from {
        if !spec.accept_egress_from.contains(accepted) {
            spec.accept_egress_from.push(accepted.clone());
        }
    }
    let mut overruled = Vec::new();
    let mut limit = |freedom: Freedom, loosens: bool| {
        let refused = loosens && !base.may_loosen.contains(&freedom);
        if refused {
            overruled.push(freedom);
        }
        refused
    };
    if limit(
        Freedom::Mode,
        spec.mode == Mode::Audit && base.mode == Mode::Enforce,
    ) {
        spec.mode = base.mode;
    }
    let denied = DefaultDeny {
        ingress: spec.default_deny.ingress || base.default_deny.ingress,
        egress: spec.default_deny.egress || base.default_deny.egress,
    };
    if limit(Freedom::DefaultDeny, denied != spec.default_deny) {
        spec.default_deny = denied;
    }
    let more = spec.exempt.iter().any(|wanted| !base.exempt.contains(wanted));
    if limit(Freedom::Exempt, more) {
        spec.exempt.retain(|wanted| base.exempt.contains(wanted));
    }
    // Whom the cluster leaves alone stays alone, as in every other namespace.
    for exempt in &base.exempt {
        if !spec.exempt.contains(exempt) {
            spec.exempt.push(exempt.clone());
        }
    }
    let same = spec.allow.same_namespace;
    let looser = openness(same) > openness(base.allow.same_namespace);
    if limit(Freedom::SameNamespace, looser) {
        spec.allow.same_namespace = base.allow.same_namespace;
    }
    (merged, overruled)
}

/// Takes over the openings that are not set.
fn inherit(allow: &mut Allow, base: &Allow) {
    if allow.dns.services.is_empty() {
        allow.dns.services.clone_from(&base.dns.services);
    }
    if allow.dns.node_local.is_none() {
        allow.dns.node_local.clone_from(&base.dns.node_local);
    }
    if allow.monitoring.is_none() {
        allow.monitoring.clone_from(&base.monitoring);
    }
    if allow.ingress_controllers.is_none() {
        allow.ingress_controllers.clone_from(&base.ingress_controllers);
    }
    if allow.api_server.is_none() {
        allow.api_server.clone_from(&base.api_server);
    }
    if allow.webhooks.is_none() {
        allow.webhooks.clone_from(&base.webhooks);
    }
}

fn openness(same: SameNamespace) -> u8 {
    match same {
        SameNamespace::None => 0,
        SameNamespace::StatefulSetPeers => 1,
        SameNamespace::All => 2,
    }
}
