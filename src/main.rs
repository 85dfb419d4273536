//! The command line: `recoup serve`, `check`, `health`, `refunds`, `accounts`, `token`, `access`,
//! `backup`, `verify`, and in staging builds `recoup staging`.

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use recoup::app::{self, App, StartError};
use recoup::config::Settings;
use recoup::telemetry::{self, LogFilter};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cli::{
    AccessArguments, AccountsArguments, AuditArguments, BackupArguments, CheckArguments, HealthArguments,
    RefundsArguments, TokenArguments, VerifyArguments, print_line,
};

/// A refund makes many small allocations on several threads, which are slow with the system's
/// allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives money back through Sectigo, name.com and Debitsuccess: sent at most once, or its doubt is
/// shown.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM, SIGQUIT or Ctrl-C; SIGHUP reloads its secrets and its log
    /// filter.
    Serve(ServeArguments),
    /// Check the configuration and print every error with its key; with --online also probe the
    /// providers, with --ledger compare the ledger's refunds with the accounts.
    Check(CheckArguments),
    /// Check whether a running gateway accepts refunds; exit status 0 if it does, 1 if it does not.
    Health(HealthArguments),
    /// Operate on the refunds of a running gateway: list, show, reconcile, resolve, reassign,
    /// cancel, approve, reject.
    Refunds(RefundsArguments),
    /// Operate on the accounts of a running gateway: pause, resume.
    Accounts(AccountsArguments),
    /// Make the token of a caller.
    Token(TokenArguments),
    /// Check an access file, and print what each caller may do.
    Access(AccessArguments),
    /// Copy a ledger, even while a gateway writes to it, and verify the copy.
    Backup(BackupArguments),
    /// Checkpoints of the history: make a key, export the history, check it offline.
    Audit(AuditArguments),
    /// Verify a ledger that no gateway has open, and print every inconsistency.
    Verify(VerifyArguments),
    /// Run the gateway together with simulators of all three providers, on this machine only.
    #[cfg(feature = "staging")]
    Staging(recoup::staging::StagingOptions),
}

#[derive(clap::Args)]
struct ServeArguments {
    /// The TOML file with the settings; RECOUP_* variables override it. Default: the file that
    /// RECOUP_CONFIG names, or variables only.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Start although the ledger does not fit its newest checkpoint, with every account paused. For
    /// a ledger that was restored from a copy.
    #[arg(long)]
    accept_lost_history: bool,
}

/// Exit status: the configuration has errors.
const CONFIGURATION_ERROR: u8 = cli::USAGE_ERROR;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            print_line(&mut std::io::stderr(), &format!("recoup: {}", error_chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(arguments) => Ok(match Settings::from_process(arguments.config()) {
            Ok(settings) => {
                for line in settings.summary().iter().chain(&settings.warnings) {
                    print_line(&mut std::io::stdout(), line);
                }
                let ledger = if arguments.ledger() { check_ledger(&settings) } else { ExitCode::SUCCESS };
                let online = match arguments.online() {
                    true => small_runtime()?.block_on(check_online(&settings))?,
                    false => ExitCode::SUCCESS,
                };
                if ledger == ExitCode::SUCCESS { online } else { ledger }
            }
            Err(errors) => {
                print_line(&mut std::io::stderr(), &errors.to_string());
                ExitCode::from(CONFIGURATION_ERROR)
            }
        }),
        Command::Serve(file) => {
            let settings = match Settings::from_process(file.config.as_deref()) {
                Ok(settings) => Settings { accept_lost_history: file.accept_lost_history, ..settings },
                Err(errors) => {
                    print_line(&mut std::io::stderr(), &errors.to_string());
                    return Ok(ExitCode::from(CONFIGURATION_ERROR));
                }
            };
            let protected = app::process_limits::protect_memory();
            runtime(settings.worker_threads())?.block_on(async {
                let telemetry = telemetry::init(&settings.telemetry)?;
                if let Err(error) = protected {
                    tracing::warn!(%error, "could not keep the process's memory from debuggers and core dumps");
                }
                for warning in &settings.warnings {
                    tracing::warn!("{warning}");
                }
                let served = serve(settings, file.config, telemetry.filter).await;
                telemetry.exporter.shutdown().await;
                Ok(served.map_or_else(
                    |error| {
                        // In the form of the log, unless its filter drops errors.
                        match tracing::enabled!(tracing::Level::ERROR) {
                            true => tracing::error!("{}", error_chain(&error)),
                            false => print_line(&mut std::io::stderr(), &format!("recoup: {}", error_chain(&error))),
                        }
                        ExitCode::FAILURE
                    },
                    |()| ExitCode::SUCCESS,
                ))
            })
        }
        Command::Health(arguments) => {
            let configured = match arguments.name_a_server() {
                true => None,
                false => match Settings::listeners_from_process(arguments.config()) {
                    Ok(listeners) => cli::server_among(&listeners),
                    Err(errors) => {
                        print_line(&mut std::io::stderr(), &errors.to_string());
                        return Ok(ExitCode::from(CONFIGURATION_ERROR));
                    }
                },
            };
            Ok(small_runtime()?.block_on(cli::health(&arguments, configured)))
        }
        Command::Token(arguments) => Ok(cli::token(arguments)),
        Command::Access(arguments) => {
            let configured = match arguments.config().map(|path| Settings::from_process(Some(path))) {
                None => None,
                Some(Ok(settings)) => Some(settings.accounts.into_iter().map(|account| account.name).collect()),
                Some(Err(errors)) => {
                    print_line(&mut std::io::stderr(), &errors.to_string());
                    return Ok(ExitCode::from(CONFIGURATION_ERROR));
                }
            };
            Ok(cli::access(&arguments, configured.as_ref()))
        }
        Command::Refunds(arguments) => Ok(small_runtime()?.block_on(cli::refunds(arguments))),
        Command::Accounts(arguments) => Ok(small_runtime()?.block_on(cli::accounts(arguments))),
        Command::Backup(arguments) => Ok(cli::backup(&arguments)),
        Command::Audit(arguments) => Ok(cli::audit(&arguments)),
        Command::Verify(arguments) => Ok(cli::verify(&arguments)),
        #[cfg(feature = "staging")]
        Command::Staging(options) => runtime(Settings::default().worker_threads())?.block_on(async {
            let mut shutdown = ShutdownSignal::listen()?;
            // It generates its configuration, so there is nothing to reload: SIGHUP, from a
            // terminal that closes, stops it.
            let mut hangup = hangup()?;
            let mut staging = recoup::staging::Staging::start(&options).await?;
            print_line(&mut std::io::stdout(), &staging.welcome());
            tokio::select! {
                () = shutdown.received() => {}
                _ = hangup.recv() => {}
                problem = staging.wait() => anyhow::bail!(problem),
            }
            staging.stop().await;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Probes every account, and prints the results.
async fn check_online(settings: &Settings) -> anyhow::Result<ExitCode> {
    let probed = match app::probe_accounts(settings).await {
        Ok(probed) => probed,
        Err(error @ StartError::Account { .. }) => {
            print_line(&mut std::io::stderr(), &error.to_string());
            return Ok(ExitCode::from(CONFIGURATION_ERROR));
        }
        Err(error) => return Err(error.into()),
    };
    for (account, report) in &probed {
        let name = format!("{} ({}, {})", account.name, account.provider, account.place.endpoint);
        for line in cli::probe_lines(&name, report) {
            print_line(&mut std::io::stdout(), &line);
        }
    }
    let all_fine = probed.iter().all(|(_, report)| report.is_fine());
    Ok(if all_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints which refunds would wait after a start with these settings.
fn check_ledger(settings: &Settings) -> ExitCode {
    match app::preview_start(settings) {
        Ok(displaced) => {
            for line in cli::preview_lines(&displaced) {
                print_line(&mut std::io::stdout(), &line);
            }
            let waits = displaced.iter().any(|refunds| refunds.waiting() > 0);
            if waits { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            print_line(&mut std::io::stderr(), &format!("recoup: {error}"));
            ExitCode::from(CONFIGURATION_ERROR)
        }
    }
}

/// Runs the gateway until a signal stops it. SIGHUP reloads the configuration from the same file.
async fn serve(settings: Settings, config: Option<PathBuf>, filter: LogFilter) -> anyhow::Result<()> {
    let mut shutdown = ShutdownSignal::listen()?;
    let mut hangup = hangup()?;
    let mut app = App::start(settings).await?;
    let load = move || Settings::from_process(config.as_deref());
    let reloader = app.reloader(filter, load).context("could not set up reloading")?;
    loop {
        tokio::select! {
            () = shutdown.received() => break,
            _ = hangup.recv() => reloader.reload(),
            problem = app.wait() => anyhow::bail!(problem),
        }
    }
    app.stop().await;
    Ok(())
}

/// Listens for SIGHUP. From now on it does not end the process, not even during the drain.
fn hangup() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("could not listen for SIGHUP")
}

fn runtime(worker_threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(worker_threads).enable_all().build().context("could not start the runtime")
}

/// A single-threaded runtime, for commands that send one request at a time.
fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start the runtime")
}

/// Listens for Ctrl-C, SIGTERM and SIGQUIT. Created before the start, so that a signal during the
/// start also leads to an orderly stop.
struct ShutdownSignal {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

impl ShutdownSignal {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("could not listen for SIGTERM")?,
            quit: signal(SignalKind::quit()).context("could not listen for SIGQUIT")?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// The error and its causes. A cause that an error already contains in its message is left out.
fn error_chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        known if known.contains(&cause) => text,
        known => format!("{known}: {cause}"),
    })
}
