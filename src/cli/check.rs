//! `recoup check`: checks the configuration; with `--online` also the accounts at their providers,
//! with `--ledger` also which refunds would wait because their account is gone or has changed.

use std::path::{Path, PathBuf};

use clap::Args;
use recoup::app::DisplacedRefunds;
use recoup::domain::probe::ProbeReport;
use recoup::engine::places::StartEffect;

/// The arguments of `recoup check`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 no problems, 1 an account fails (--online) or refunds would wait (--ledger), 2 the configuration or the command line is wrong."
)]
pub(crate) struct CheckArguments {
    /// The TOML file with the settings; RECOUP_* variables override it. Default: the file that
    /// RECOUP_CONFIG names, or variables only.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Probe each provider with harmless requests: is it reachable, does it accept the login, and
    /// is it the configured service? Moves no money, opens no ledger and no port.
    #[arg(long)]
    online: bool,
    /// Print which refunds in the ledger would wait because their account is gone or has changed.
    /// Reads the ledger, even while a gateway runs, and changes nothing.
    #[arg(long)]
    ledger: bool,
}

/// Maximum of refunds of one place that are listed, one line each.
const MAX_LISTED: usize = 100;

impl CheckArguments {
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub(crate) fn online(&self) -> bool {
        self.online
    }

    pub(crate) fn ledger(&self) -> bool {
        self.ledger
    }
}

/// The result of a probe, one line per sentence. `account` is a name with its provider and host.
pub(crate) fn probe_lines(account: &str, report: &ProbeReport) -> Vec<String> {
    let reached = if report.reached { "reached" } else { "not reached" };
    let head = format!("account {account}: {reached}, credentials {}", report.credentials);
    let finding = |sentence: &str| format!("account {account}: {sentence}");
    let findings = report.findings.iter().map(|one| finding(&one.sentence));
    std::iter::once(head).chain(findings).collect()
}

/// What a start would do with refunds whose account changed, one line per sentence.
pub(crate) fn preview_lines(displaced: &[DisplacedRefunds]) -> Vec<String> {
    let waiting = displaced.iter().map(DisplacedRefunds::waiting).fold(0, u64::saturating_add);
    let total = match waiting {
        0 => "ledger: no refund would wait for its account".to_owned(),
        _ => format!("ledger: {} would wait for the account", refunds(waiting)),
    };
    displaced.iter().flat_map(place_lines).chain([total]).collect()
}

fn place_lines(DisplacedRefunds { open, start_effect, left }: &DisplacedRefunds) -> Vec<String> {
    let (account, provider, endpoint) = (&open.at.account, open.provider, &open.at.place.endpoint);
    let recorded = format!("account {account}: {} recorded for {provider} at {endpoint}", refunds(open.count));
    let head = match start_effect {
        StartEffect::Moves => format!("{recorded} would continue at the account's present place"),
        StartEffect::Waits(differing) if *differing == ["account"] => {
            format!("{recorded} would wait: the account is not configured")
        }
        StartEffect::Waits(differing) => {
            format!("{recorded} would wait: the configured account differs in {}", differing.join(", "))
        }
    };
    let named = left.iter().take(MAX_LISTED).map(|(id, problem)| format!("refund {id} would wait: {problem}"));
    let more = left.len().saturating_sub(MAX_LISTED);
    let more = (more > 0).then(|| format!("{} more would wait for similar reasons", refunds(more as u64)));
    std::iter::once(head).chain(named).chain(more).collect()
}

fn refunds(count: u64) -> String {
    if count == 1 { "1 refund".to_owned() } else { format!("{count} refunds") }
}
