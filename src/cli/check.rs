//! `recoup check`: the configuration by itself, with `--online` its accounts at their providers,
//! and with `--ledger` the refunds whose account is gone or has changed.

use std::path::{Path, PathBuf};

use clap::Args;
use recoup::app::DisplacedRefunds;
use recoup::domain::probe::ProbeReport;
use recoup::engine::places::StartEffect;

/// The arguments of `recoup check`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 all is right, 1 an account fails (--online) or refunds would wait (--ledger), 2 the configuration or the command line is wrong."
)]
pub(crate) struct CheckArguments {
    /// The TOML file with the settings; RECOUP_* variables stand over it. Left out: the file that
    /// RECOUP_CONFIG names, or variables alone.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask each provider with harmless requests whether it is reached, accepts the login, and is
    /// the service that is configured. Moves no money, opens no ledger and no port.
    #[arg(long)]
    online: bool,
    /// Say which refunds in the ledger would wait because their account is gone or changed. Reads
    /// the ledger, also beside a running gateway, and changes nothing.
    #[arg(long)]
    ledger: bool,
}

/// At most this many refunds of one place are named, one line each.
const MAX_NAMED: usize = 100;

impl CheckArguments {
    /// Where the configuration is.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Whether the providers are asked.
    pub(crate) fn online(&self) -> bool {
        self.online
    }

    /// Whether the ledger is compared with the accounts.
    pub(crate) fn ledger(&self) -> bool {
        self.ledger
    }
}

/// What a probe of an account shows, one line for each sentence. `account` is a name with its
/// provider and host.
pub(crate) fn lines_of(account: &str, report: &ProbeReport) -> Vec<String> {
    let reached = if report.reached { "reached" } else { "not reached" };
    let head = format!("account {account}: {reached}, credentials {}", report.credentials);
    let finding = |sentence: &str| format!("account {account}: {sentence}");
    let findings = report.findings.iter().map(|one| finding(&one.sentence));
    std::iter::once(head).chain(findings).collect()
}

/// What a start would do with refunds whose account changed, one line for each sentence.
pub(crate) fn lines_of_ledger(displaced: &[DisplacedRefunds]) -> Vec<String> {
    let waiting = displaced.iter().map(DisplacedRefunds::waiting).fold(0, u64::saturating_add);
    let total = match waiting {
        0 => "ledger: no refund would wait for its account".to_owned(),
        _ => format!("ledger: {} would wait for the account", refunds(waiting)),
    };
    displaced.iter().flat_map(lines_of_place).chain([total]).collect()
}

fn lines_of_place(DisplacedRefunds { open, start_effect, left }: &DisplacedRefunds) -> Vec<String> {
    let (account, provider, endpoint) = (&open.at.account, open.provider, &open.at.place.endpoint);
    let recorded = format!("account {account}: {} recorded for {provider} at {endpoint}", refunds(open.count));
    let head = match start_effect {
        StartEffect::Moves => format!("{recorded} would go on at the present place of the account"),
        StartEffect::Waits(differing) if *differing == ["account"] => {
            format!("{recorded} would wait: the account is not configured")
        }
        StartEffect::Waits(differing) => {
            format!("{recorded} would wait: the configured account differs in {}", differing.join(", "))
        }
    };
    let named = left.iter().take(MAX_NAMED).map(|(id, problem)| format!("refund {id} would wait: {problem}"));
    let more = left.len().saturating_sub(MAX_NAMED);
    let more = (more > 0).then(|| format!("{} more would wait for the same kind of reason", refunds(more as u64)));
    std::iter::once(head).chain(named).chain(more).collect()
}

fn refunds(count: u64) -> String {
    if count == 1 { "1 refund".to_owned() } else { format!("{count} refunds") }
}
