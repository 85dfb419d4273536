//! What this test shares with `tests/it`.

#[allow(dead_code, reason = "two test binaries share the file, and each has its own needs")]
#[path = "../it/support/process.rs"]
pub(crate) mod process;

/// The variables that the configuration names, with the demo world's secrets.
///
/// The last is the token that name.com takes after the second was renewed.
pub(crate) const SECRETS: [(&str, &str); 3] =
    [("DEMO_PASSWORD", "demo-password"), ("DEMO_TOKEN", "demo-token"), ("RENEWED_TOKEN", "renewed-token")];
