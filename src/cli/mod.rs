//! What the command line does besides running the gateway: an operator's view of refunds, a
//! gateway's health, and copies of a ledger and looks at it.
//!
//! ```text
//! refunds     recoup refunds ...: through the gRPC API of a running gateway
//! resolving   recoup refunds resolve: a person's word, given on what the person has seen
//! health      recoup health: one word for whoever supervises the gateway
//! connection  the gateway's port, and its errors as one sentence
//! shown       refunds as aligned text and as JSON
//! verifying   recoup verify: offline, on the file itself
//! checking    recoup check: what it is asked, and what its probes show
//! copying     recoup backup: a copy of a ledger, also of one that is in use
//! ```

mod backup;
mod check;
mod client;
mod health;
mod output;
mod refunds;
mod verify;

use std::process::ExitCode;

pub(crate) use self::backup::{BackupArguments, run as backup};
pub(crate) use self::check::{CheckArguments, lines_of, lines_of_ledger};
pub(crate) use self::health::{HealthArguments, health};
pub(crate) use self::refunds::{RefundsArguments, refunds};
pub(crate) use self::verify::{VerifyArguments, verify};

/// Exit status: the request, the settings or the file could not be made sense of, and nothing was
/// done.
pub(crate) const USAGE: u8 = 2;

/// Why a command ended without its result: one sentence, and what a script can tell apart.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    json: Option<serde_json::Value>,
    code: u8,
}

impl Failure {
    fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), json: None, code: 1 }
    }

    fn usage(sentence: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(sentence) }
    }

    /// Says it where errors are said, as JSON where the result would have been JSON, and gives the
    /// exit status.
    fn say(self, as_json: bool) -> ExitCode {
        let Failure { sentence, json, code } = self;
        let text = if as_json {
            let error = json.unwrap_or_else(|| serde_json::json!({ "message": sentence }));
            serde_json::json!({ "error": error }).to_string()
        } else {
            format!("recoup: {sentence}")
        };
        say(&mut std::io::stderr(), &text);
        ExitCode::from(code)
    }
}

/// A reader that has gone away (`recoup check | head`) is no error.
pub(crate) fn say(to: &mut impl std::io::Write, text: &str) {
    let _ = writeln!(to, "{text}").and_then(|()| to.flush());
}
