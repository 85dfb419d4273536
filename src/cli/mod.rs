//! The commands besides `recoup serve`.
//!
//! ```text
//! accounts recoup accounts ...: pause and resume
//! audit    recoup audit ...: keys, export and offline check of the history
//! refunds  recoup refunds ...: an operator's commands, through the gRPC API of a running gateway
//! health   recoup health: whether a running gateway serves, for supervisors
//! check    recoup check: arguments and output
//! verify   recoup verify: checks a ledger file offline
//! backup   recoup backup: copies a ledger, even one in use, and verifies the copy
//! token    recoup token new: makes a caller's token
//! access   recoup access check: checks an access file
//! context  where the gateway is, and how a command shows who calls
//! connector  plaintext, TLS, unix sockets
//! client   connection to a gateway, and its errors as one sentence
//! output   refunds as aligned text and as JSON
//! ```

mod access;
mod accounts;
mod audit;
mod backup;
mod check;
mod client;
mod connector;
mod context;
mod health;
mod output;
mod refunds;
mod token;
mod verify;

use std::process::ExitCode;

pub(crate) use self::access::{AccessArguments, access};
pub(crate) use self::accounts::{AccountsArguments, accounts};
pub(crate) use self::audit::{AuditArguments, audit};
pub(crate) use self::backup::{BackupArguments, run as backup};
pub(crate) use self::check::{CheckArguments, preview_lines, probe_lines};
pub(crate) use self::health::{HealthArguments, health, server_among};
pub(crate) use self::refunds::{RefundsArguments, refunds};
pub(crate) use self::token::{TokenArguments, token};
pub(crate) use self::verify::{VerifyArguments, verify};

/// Exit status: the arguments, the settings or the file are invalid, and nothing was done.
pub(crate) const USAGE_ERROR: u8 = 2;

/// Why a command failed: one sentence, and JSON and an exit status for scripts.
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
        Self { code: USAGE_ERROR, ..Self::new(sentence) }
    }

    /// Prints the failure to standard error, as JSON if the result would have been JSON. Returns
    /// the exit status.
    fn report(self, as_json: bool) -> ExitCode {
        let Failure { sentence, json, code } = self;
        let text = if as_json {
            let error = json.unwrap_or_else(|| serde_json::json!({ "message": sentence }));
            serde_json::json!({ "error": error }).to_string()
        } else {
            format!("recoup: {sentence}")
        };
        print_line(&mut std::io::stderr(), &text);
        ExitCode::from(code)
    }
}

/// Prints a line. A closed pipe (`recoup check | head`) is not an error.
pub(crate) fn print_line(to: &mut impl std::io::Write, text: &str) {
    let _ = writeln!(to, "{text}").and_then(|()| to.flush());
}
