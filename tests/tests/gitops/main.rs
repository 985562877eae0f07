//! The product through Argo CD, the real one: a Git repository, an app of apps, a real cluster.
//!
//! The cases build on each other, in this order; each begins and ends with everything in the repository in force. Filter by
//! name as with any test: `cargo test -p ringfence-tests --test gitops -- health`. With `RINGFENCE_LONG` set there are more.

mod apps;
mod fights;
mod health;
mod kstatus;
mod lab;
mod prune;
mod scripts;
mod sync;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lab::Lab;
use libtest_mimic::{Arguments, Failed, Trial};

type Case = fn(&Lab) -> anyhow::Result<()>;

const SHORT: &[(&str, Case)] = &[
    (
        "sync::an_app_of_apps_comes_up_wave_by_wave_until_every_kind_is_healthy",
        sync::wave_by_wave,
    ),
    (
        "sync::what_is_synced_stays_so_and_nothing_is_written",
        sync::stays_synced,
    ),
    (
        "health::what_waits_is_progressing_and_what_needs_a_person_degraded_until_it_is_reverted",
        health::waiting_degraded_and_healed,
    ),
];

const LONG: &[(&str, Case)] = &[
    (
        "fights::an_edit_of_a_resource_is_healed_by_argo_cd_once",
        fights::an_edited_resource_is_healed,
    ),
    (
        "fights::an_edit_of_a_generated_policy_is_repaired_without_argo_cd",
        fights::an_edited_policy_is_repaired,
    ),
    (
        "sync::from_audit_to_enforce_and_back_is_a_commit_each",
        sync::from_audit_to_enforce_and_back,
    ),
    (
        "prune::policies_in_other_namespaces_are_nobodys_to_prune",
        prune::policies_of_other_namespaces_are_left_alone,
    ),
];

/// The last one: it takes what the others need away.
const PRUNE: (&str, Case) = (
    "prune::what_an_app_brought_goes_with_it_and_so_does_what_was_generated_and_nothing_else",
    prune::what_an_app_brought_goes_with_it,
);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut cases = SHORT.to_vec();
    if std::env::var_os("RINGFENCE_LONG").is_some() {
        cases.extend_from_slice(LONG);
    }
    cases.push(PRUNE);
    let scripts = Trial::test(
        "scripts::argo_cd_judges_every_state_as_the_test_data_says",
        || {
            scripts::every_state_is_judged_as_the_test_data_says()
                .map_err(|error| Failed::from(format!("{error:#}")))
        },
    );
    if arguments.list {
        let mut trials = vec![scripts];
        trials.extend(cases.iter().map(|(name, _)| Trial::test(*name, || Ok(()))));
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    // Brought up by the first case that needs it: the scripts are judged without.
    let lab = Arc::new(OnceLock::new());
    let mut trials = vec![scripts];
    trials.extend(cases.into_iter().map(|(name, case)| {
        let lab = Arc::clone(&lab);
        Trial::test(name, move || {
            let lab: &Result<Lab, String> = lab.get_or_init(|| {
                Lab::start().map_err(|error| format!("the cluster could not be made ready: {error:#}"))
            });
            let lab = lab.as_ref().map_err(Failed::from)?;
            case(lab).map_err(|error| failure(lab, name, &error))
        })
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // One that a case of this run did not bring up is somebody else's.
    if lab.get().is_some()
        && let Err(error) = Lab::stop()
    {
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
