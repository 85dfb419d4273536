//! The test support that this test has in common with `tests/it`.

#[allow(dead_code, reason = "the test binaries share this file, and each uses a part of it")]
#[path = "../support/demo_accounts.rs"]
pub(crate) mod demo_accounts;
#[allow(dead_code, reason = "the test binaries share this file, and each uses a part of it")]
#[path = "../support/process.rs"]
pub(crate) mod process;
