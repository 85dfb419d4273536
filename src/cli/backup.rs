//! `recoup backup`: a copy of a ledger as it stands at one moment, which no gateway has to be
//! stopped for, and a look at the copy.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use recoup::ledger::sqlite::backup;

use super::verify::{as_json, as_text};
use super::{Failure, USAGE, say};

/// The arguments of `recoup backup`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 the copy is on disk and everything in it fits, 1 something in it does not, 2 there is no copy."
)]
pub(crate) struct BackupArguments {
    /// The ledger's file. A gateway may be running on it.
    #[arg(value_name = "LEDGER")]
    ledger: PathBuf,
    /// The copy's file, which may not be there yet.
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
            say(&mut std::io::stdout(), &text);
            if audit.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => Failure { code: USAGE, ..Failure::new(error.to_string()) }.say(*json),
    }
}
