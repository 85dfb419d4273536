//! `recoup verify`: lists every inconsistency in a ledger file, without a gateway and without
//! changing anything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use recoup::ledger::admin::Audit;
use recoup::ledger::sqlite::audit;

use super::{Failure, USAGE_ERROR, print_line};

/// The arguments of `recoup verify`.
#[derive(Args)]
#[command(after_help = "Exit status: 0 no problems found, 1 problems found, 2 the file could not be read.")]
pub(crate) struct VerifyArguments {
    /// The ledger's file, or a copy of it (with its -wal file, if there is one). No gateway may be
    /// running on it.
    #[arg(value_name = "LEDGER")]
    ledger: PathBuf,
    /// Print JSON (an error too, on standard error).
    #[arg(long)]
    json: bool,
}

/// Runs `recoup verify`.
pub(crate) fn verify(arguments: &VerifyArguments) -> ExitCode {
    let VerifyArguments { ledger, json } = arguments;
    match audit(ledger) {
        Ok(audit) => {
            let text = if *json { as_json(&audit).to_string() } else { as_text(&audit) };
            print_line(&mut std::io::stdout(), &text);
            if audit.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => Failure { code: USAGE_ERROR, ..Failure::new(error.to_string()) }.report(*json),
    }
}

/// The findings and totals as lines.
pub(super) fn as_text(audit: &Audit) -> String {
    let Audit { schema_version, refunds, events, attempts, last_sequence, findings, finding_count, .. } = audit;
    let mut lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let left_out = finding_count.saturating_sub(u64::try_from(findings.len()).unwrap_or(u64::MAX));
    if left_out > 0 {
        lines.push(format!("... and {left_out} more"));
    }
    lines.push(format!(
        "version {schema_version}: {refunds} refunds, {attempts} attempts, {events} events; the last sequence number is {last_sequence}, its hash {}",
        last_hash(audit)
    ));
    lines.push(match finding_count {
        0 => "no problems found".to_owned(),
        1 => "1 problem found".to_owned(),
        many => format!("{many} problems found"),
    });
    lines.join("\n")
}

/// The findings and totals as JSON.
pub(super) fn as_json(audit: &Audit) -> serde_json::Value {
    let findings = audit.findings.iter().map(|finding| {
        serde_json::json!({
            "table": finding.table,
            "row": finding.row,
            "column": finding.column,
            "problem": finding.problem,
        })
    });
    serde_json::json!({
        "schemaVersion": audit.schema_version,
        "refunds": audit.refunds,
        "attempts": audit.attempts,
        "events": audit.events,
        "lastSequence": audit.last_sequence,
        "lastChainHash": last_hash(audit),
        "clean": audit.is_clean(),
        "findingCount": audit.finding_count,
        "findings": findings.collect::<Vec<_>>(),
    })
}

fn last_hash(audit: &Audit) -> String {
    audit.last_chain_hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
