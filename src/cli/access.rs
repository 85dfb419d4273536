//! `recoup access check`: checks an access file, and prints what each caller may do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use recoup::access::AccessPolicy;
use recoup::domain::ids::AccountName;

use super::{Failure, print_line};

/// The arguments of `recoup access`.
#[derive(Args)]
pub(crate) struct AccessArguments {
    #[command(subcommand)]
    action: AccessAction,
}

#[derive(Subcommand)]
enum AccessAction {
    /// Check an access file: every error with its line, or what each caller may do.
    #[command(after_help = "Exit status: 0 no errors, 2 the file or the command line is wrong.")]
    Check(AccessCheckArguments),
}

#[derive(Args)]
struct AccessCheckArguments {
    /// The access file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compare its accounts with those of this configuration.
    #[arg(long, short, env = "RECOUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AccessArguments {
    /// The configuration whose accounts count.
    pub(crate) fn config(&self) -> Option<&Path> {
        let AccessAction::Check(arguments) = &self.action;
        arguments.config.as_deref()
    }
}

/// Runs `recoup access`. `configured` are the accounts of the configuration, if one is named.
pub(crate) fn access(arguments: &AccessArguments, configured: Option<&BTreeSet<AccountName>>) -> ExitCode {
    let AccessAction::Check(AccessCheckArguments { file, .. }) = &arguments.action;
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            return Failure::usage(format!("{} cannot be read: {error}", file.display())).report(false);
        }
    };
    let checked = AccessPolicy::parse(&text).and_then(|policy| match configured {
        Some(configured) => policy.check_accounts(configured).map(|()| policy),
        None => Ok(policy),
    });
    match checked {
        Ok(policy) => {
            for line in policy.summary() {
                print_line(&mut std::io::stdout(), &line);
            }
            for warning in policy.warnings(configured) {
                print_line(&mut std::io::stdout(), &format!("warning: {warning}"));
            }
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in errors.iter() {
                print_line(&mut std::io::stderr(), &format!("{}: {error}", file.display()));
            }
            ExitCode::from(super::USAGE_ERROR)
        }
    }
}
