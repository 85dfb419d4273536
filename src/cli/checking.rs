//! `recoup check`: the configuration by itself, and with `--online` its accounts at their
//! providers.

use std::path::{Path, PathBuf};

use clap::Args;
use recoup::domain::probe::ProbeReport;

/// The arguments of `recoup check`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 all is right, 1 with --online an account fails, 2 the configuration or the command line is wrong."
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
}

impl CheckArguments {
    /// Where the configuration is.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Whether the providers are asked.
    pub(crate) fn online(&self) -> bool {
        self.online
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
