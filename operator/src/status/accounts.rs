//! What was found about ServiceAccounts as peers, for people.

use ringfence_crd::Reason;

use crate::accounts::STAMP_LABEL;
use crate::generate::{Doubt, Problem};

/// The reason and the text of a problem with an account; None for any other problem.
pub(super) fn explained(problem: &Problem) -> Option<(Reason, String)> {
    Some(match problem {
        Problem::AccountByAddress { account, pods, why } => (
            Reason::Resolved,
            format!(
                "ServiceAccount {account} is followed by the addresses of its {pods} pods, for {}.",
                doubt(why)
            ),
        ),
        Problem::AccountEgressClosed { account, why } => (
            Reason::PodsUnstamped,
            format!(
                "Pods of ServiceAccount {account} have no egress by this, for {}.",
                doubt(why)
            ),
        ),
        Problem::TooManyPods {
            account,
            followed,
            pods,
        } => (
            Reason::TooManyAddresses,
            format!(
                "ServiceAccount {account} has {pods} pods and no stamp to know them by; only the first {followed} \
                 are followed by address, the others are closed: apply config/admission and restart them."
            ),
        ),
        _ => return None,
    })
}

/// Why a stamp is not relied on, and the remedy.
fn doubt(why: &Doubt) -> String {
    match why {
        Doubt::Unprotected => format!(
            "the admission policies that stamp pods and refuse wrong stamps are not in this cluster as shipped: apply \
             config/admission, or name the pods by podSelector (label {STAMP_LABEL})"
        ),
        Doubt::Forged { pod } => format!(
            "pod {pod} carries its stamp ({STAMP_LABEL}) and runs as another account: delete that pod, or take the \
             label away"
        ),
        Doubt::Unstamped { pod } => format!(
            "pod {pod} was created before pods were stamped ({STAMP_LABEL}): restart it, or wait until it is replaced"
        ),
    }
}
