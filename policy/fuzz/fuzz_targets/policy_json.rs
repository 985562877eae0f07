//! See `ringfence_policy::testing::fuzz::policy_json`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringfence_policy::testing::fuzz::policy_json(bytes));
