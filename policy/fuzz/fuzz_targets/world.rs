//! See `ringfence_policy::testing::fuzz::world`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringfence_policy::testing::fuzz::world(bytes));
