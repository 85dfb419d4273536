//! `recoup backup`: copies a ledger at one point in time, even while a gateway writes to it, and
//! verifies the copy.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use recoup::ledger::sqlite::backup;

use super::verify::{as_json, as_text};
use super::{Failure, USAGE_ERROR, print_line};

/// The arguments of `recoup backup`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 the copy is on disk and has no problems, 1 the copy has problems, 2 there is no copy."
)]
pub(crate) struct BackupArguments {
    /// The ledger's file. A gateway may be running on it.
    #[arg(value_name = "LEDGER")]
    ledger: PathBuf,
    /// The copy's file, which must not exist.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Print JSON (an error too, on standard error).
    #[arg(long)]
    json: bool,
}

/// Runs `recoup backup`.
pub(crate) fn run(arguments: &BackupArguments) -> ExitCode {
    let BackupArguments { ledger, to, json } = arguments;
    match backup(ledger, to) {
        Ok(audit) => {
            let text = if *json { as_json(&audit).to_string() } else { as_text(&audit) };
            print_line(&mut std::io::stdout(), &text);
            if audit.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => Failure { code: USAGE_ERROR, ..Failure::new(error.to_string()) }.report(*json),
    }
}
