//! `recoup audit`: keys for checkpoints, the history as lines of JSON, and its check offline.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use recoup::checkpoint::{self, HistoryCheck, KeyFile, VerifierKey};
use recoup::ledger::sqlite::Survey;

use super::{Failure, USAGE_ERROR, print_line};

/// The arguments of `recoup audit`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 done, and nothing that does not fit; 1 something does not fit; 2 nothing was done."
)]
pub(crate) struct AuditArguments {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Make a private key for checkpoints, in a new file that only its owner can read, and print
    /// the verifier key.
    Keygen {
        /// The new file, for `checkpoint.key_file`.
        #[arg(long, value_name = "FILE", default_value = "checkpoint.key")]
        key: PathBuf,
        /// The ledger whose checkpoints it will sign. A verifier key has the ledger's id as its
        /// name, so without a ledger none is printed: see `recoup audit verifier-key`.
        #[arg(long, value_name = "LEDGER")]
        ledger: Option<PathBuf>,
    },
    /// Print the verifier key of a private key and a ledger, for `recoup audit check`.
    VerifierKey {
        /// The file of `checkpoint.key_file`.
        #[arg(long, value_name = "FILE", default_value = "checkpoint.key")]
        key: PathBuf,
        /// The ledger's file. A gateway may be running on it.
        #[arg(long, value_name = "LEDGER")]
        ledger: PathBuf,
    },
    /// Print the history as lines of JSON, with everything that the hash of each event covers.
    Export {
        /// The ledger's file. A gateway may be running on it.
        #[arg(value_name = "LEDGER")]
        ledger: PathBuf,
        /// Print the events after this sequence number.
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
    /// Compute the hashes of an exported history again, and compare it with checkpoints. Needs no
    /// ledger and no gateway.
    Check {
        /// The output of `recoup audit export`.
        #[arg(value_name = "EVENTS")]
        events: PathBuf,
        /// The verifier key of the checkpoints.
        #[arg(long, value_name = "VKEY")]
        key: Option<String>,
        /// A file of checkpoints: a copy of `checkpoint.file`, or signed notes of GetCheckpoint.
        #[arg(long, value_name = "FILE", requires = "key")]
        checkpoints: Option<PathBuf>,
        /// Print JSON (an error too, on standard error).
        #[arg(long)]
        json: bool,
    },
}

/// Events in one read of the ledger.
const PAGE_SIZE: u32 = 1_000;

/// Runs `recoup audit`.
pub(crate) fn audit(arguments: &AuditArguments) -> ExitCode {
    let (done, json) = match &arguments.command {
        AuditCommand::Keygen { key, ledger } => (keygen(key, ledger.as_deref()), false),
        AuditCommand::VerifierKey { key, ledger } => (print_verifier_key(key, ledger), false),
        AuditCommand::Export { ledger, after } => (export(ledger, *after), false),
        AuditCommand::Check { events, key, checkpoints, json } => {
            (check(events, key.as_deref(), checkpoints.as_deref(), *json), *json)
        }
    };
    done.unwrap_or_else(|sentence| Failure { code: USAGE_ERROR, ..Failure::new(sentence) }.report(json))
}

fn keygen(key: &Path, ledger: Option<&Path>) -> Result<ExitCode, String> {
    // Before the key is made: a wrong name must leave no file behind.
    let origin = ledger.map(origin_of).transpose()?;
    let keys = KeyFile::create(key).map_err(|error| error.to_string())?;
    let text = match origin {
        Some(origin) => keys.verifier(&origin).to_string(),
        None => format!(
            "The key is in {0}. For the verifier key: recoup audit verifier-key --key {0} --ledger LEDGER",
            key.display()
        ),
    };
    print_line(&mut std::io::stdout(), &text);
    Ok(ExitCode::SUCCESS)
}

fn print_verifier_key(key: &Path, ledger: &Path) -> Result<ExitCode, String> {
    let origin = origin_of(ledger)?;
    let keys = KeyFile::read(key).map_err(|error| error.to_string())?;
    print_line(&mut std::io::stdout(), &keys.verifier(&origin).to_string());
    Ok(ExitCode::SUCCESS)
}

fn origin_of(ledger: &Path) -> Result<String, String> {
    let survey = Survey::open(ledger).map_err(|error| error.to_string())?;
    Ok(survey.identity().map_err(|error| error.to_string())?.origin())
}

fn export(ledger: &Path, after: u64) -> Result<ExitCode, String> {
    let survey = Survey::open(ledger).map_err(|error| error.to_string())?;
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut last = after;
    loop {
        let page = survey.export(last, PAGE_SIZE).map_err(|error| error.to_string())?;
        let Some(end) = page.last() else { break };
        last = end.sequence();
        for event in &page {
            writeln!(output, "{}", event.to_json()).map_err(|error| format!("could not write the events: {error}"))?;
        }
    }
    output.flush().map_err(|error| format!("could not write the events: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

fn check(events: &Path, key: Option<&str>, checkpoints: Option<&Path>, json: bool) -> Result<ExitCode, String> {
    let key = key.map(VerifierKey::parse).transpose().map_err(|error| format!("--key {error}"))?;
    let file = File::open(events).map_err(|error| format!("cannot read {}: {error}", events.display()))?;
    let checked = checkpoint::check(events, &mut BufReader::new(file), checkpoints.zip(key.as_ref()));
    let checked = checked.map_err(|error| error.to_string())?;
    let text = if json { as_json(&checked).to_string() } else { as_text(&checked, checkpoints.is_some()) };
    print_line(&mut std::io::stdout(), &text);
    Ok(if checked.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_text(checked: &HistoryCheck, with_checkpoints: bool) -> String {
    let HistoryCheck { events, first_sequence, last_sequence, last_chain_hash, problems, problem_count, .. } = checked;
    let mut lines = problems.clone();
    let left_out = problem_count.saturating_sub(u64::try_from(problems.len()).unwrap_or(u64::MAX));
    if left_out > 0 {
        lines.push(format!("... and {left_out} more"));
    }
    lines.push(format!(
        "{events} events, from {first_sequence} to {last_sequence}; the last hash is {}",
        STANDARD.encode(last_chain_hash)
    ));
    if with_checkpoints {
        lines.push(format!(
            "{} checkpoints fit; {} cover earlier events only",
            checked.fitting_checkpoints, checked.earlier_checkpoints
        ));
    }
    if *first_sequence > 1 && checked.fitting_checkpoints == 0 {
        lines.push("no checkpoint covers these events: that they belong to the ledger is not shown".to_owned());
    }
    lines.push(match problem_count {
        0 => "no problems found".to_owned(),
        1 => "1 problem found".to_owned(),
        many => format!("{many} problems found"),
    });
    lines.join("\n")
}

fn as_json(checked: &HistoryCheck) -> serde_json::Value {
    serde_json::json!({
        "events": checked.events,
        "firstSequence": checked.first_sequence,
        "lastSequence": checked.last_sequence,
        "lastChainHash": STANDARD.encode(checked.last_chain_hash),
        "fittingCheckpoints": checked.fitting_checkpoints,
        "earlierCheckpoints": checked.earlier_checkpoints,
        "clean": checked.is_clean(),
        "problemCount": checked.problem_count,
        "problems": checked.problems,
    })
}
