//! The product on a real cluster: real API server, real kubelets and kube-proxy, real pods, real packets.
//!
//! One cluster serves every case; the cases run one after another and each makes the state it starts from. Filter by
//! name as with any test: `cargo test -p ringfence-tests --test cluster -- three_tier`.

mod admission;
mod audit;
mod baseline;
mod drift;
mod idle;
mod lab;
mod lifecycle;
mod mode;
mod node;
mod pod_start;
mod probe;
mod report;
mod revocation;
mod roll_out;
mod seen;
mod three_tier;

use std::process::ExitCode;
use std::sync::Arc;

use lab::Lab;
use libtest_mimic::{Arguments, Failed, Trial};

type Case = fn(&Lab) -> anyhow::Result<()>;

const CASES: &[(&str, Case)] = &[
    (
        "three_tier::before_ringfence_everyone_reaches_everyone",
        three_tier::everyone_reaches_everyone,
    ),
    (
        "roll_out::turning_enforce_on_loses_no_allowed_connection",
        roll_out::turning_enforce_on_loses_nothing,
    ),
    (
        "three_tier::exactly_the_allowed_paths_are_open",
        three_tier::exactly_the_allowed_paths_are_open,
    ),
    (
        "three_tier::status_says_what_is_covered",
        three_tier::status_says_what_is_covered,
    ),
    (
        "drift::every_widening_of_a_generated_policy_is_repaired",
        drift::every_widening_is_repaired,
    ),
    (
        "drift::a_deleted_generated_policy_comes_back",
        drift::a_deleted_policy_comes_back,
    ),
    (
        "drift::policies_that_are_not_ours_are_never_touched",
        drift::foreign_policies_are_never_touched,
    ),
    (
        "drift::a_service_that_disappears_closes_its_path_and_says_so",
        drift::a_missing_service_closes,
    ),
    (
        "audit::a_policy_on_trial_drops_nothing_and_tells_what_it_would",
        audit::a_policy_on_trial_drops_nothing_and_tells_what_it_would,
    ),
    (
        "mode::what_audit_tells_of_is_what_enforce_drops",
        mode::what_audit_tells_of_is_what_enforce_drops,
    ),
    (
        "mode::from_open_to_audit_to_enforce_and_back_loses_and_leaks_nothing",
        mode::from_open_to_audit_to_enforce_and_back,
    ),
    (
        "baseline::a_new_namespace_is_denied_within_a_second",
        baseline::a_new_namespace_is_denied_within_a_second,
    ),
    (
        "report::every_node_reports_what_its_kernel_holds",
        report::every_node_reports_what_its_kernel_holds,
    ),
    (
        "report::status_tells_whether_the_enforcers_live",
        report::status_tells_whether_the_enforcers_live,
    ),
    (
        "probe::where_nodes_enforce_packets_prove_it",
        probe::where_nodes_enforce_packets_prove_it,
    ),
    (
        "probe::where_nobody_enforces_it_says_so",
        probe::where_nobody_enforces_it_says_so,
    ),
    (
        "probe::rules_that_nobody_repairs_are_missed",
        probe::rules_that_nobody_repairs_are_missed,
    ),
    (
        "seen::a_dropped_packet_is_told_of_by_a_line_a_counter_and_an_event",
        seen::a_dropped_packet_is_told_of,
    ),
    (
        "revocation::tightening_ends_exactly_what_it_forbids",
        revocation::tightening_ends_exactly_what_it_forbids,
    ),
    (
        "idle::nothing_is_written_when_nothing_changes",
        idle::nothing_is_written,
    ),
    (
        "pod_start::a_pod_reaches_no_forbidden_peer_from_its_first_instruction_on",
        pod_start::no_packet_before_the_rules,
    ),
    ("pod_start::what_a_start_costs", pod_start::what_a_start_costs),
    (
        "pod_start::the_entry_is_put_back_when_its_owner_rewrites_the_file",
        pod_start::the_entry_is_put_back,
    ),
    (
        "pod_start::without_an_enforcer_the_setting_decides",
        pod_start::without_an_enforcer_the_setting_decides,
    ),
    (
        "lifecycle::a_killed_enforcer_leaves_its_rules_and_writes_nothing_when_it_returns",
        lifecycle::kill_and_return,
    ),
    (
        "lifecycle::deleting_the_ztn_opens_the_namespace_and_leaves_nothing",
        lifecycle::deleting_the_ztn_opens,
    ),
    (
        "lifecycle::cleanup_leaves_the_node_as_it_was",
        lifecycle::cleanup_leaves_the_node_as_it_was,
    ),
    (
        "admission::all_policies_at_once_hold_up_nothing",
        admission::admission_policies_hold_up_nothing,
    ),
    (
        "lifecycle::deleting_everything_at_once_leaves_nothing_stuck",
        lifecycle::deleting_everything_at_once,
    ),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = CASES
            .iter()
            .map(|(name, _)| Trial::test(*name, || Ok(())))
            .collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let lab = match Lab::start() {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            eprintln!("the cluster could not be made ready: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = CASES.iter().map(|(name, case)| {
        let lab = Arc::clone(&lab);
        Trial::test(*name, move || {
            case(&lab).map_err(|error| failure(&lab, name, &error))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Err(error) = lab.stop() {
        eprintln!("the cluster could not be taken down: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// What failed, with what a person would look at next.
fn failure(lab: &Lab, name: &str, error: &anyhow::Error) -> Failed {
    match lab.diagnose(name) {
        Ok(folder) => Failed::from(format!("{error:#}\nlogs and objects are in {}", folder.display())),
        Err(also) => Failed::from(format!("{error:#}\n(logs could not be collected: {also:#})")),
    }
}
