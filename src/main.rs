//! The command line: `recoup serve`, `check`, `health`, `refunds`, `backup`, `verify`, and in
//! staging builds `recoup staging`.

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use recoup::app::{self, App, StartError};
use recoup::config::{LogSettings, Settings};
use recoup::telemetry::{self, LogFilter};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cli::{BackupArguments, CheckArguments, HealthArguments, RefundsArguments, VerifyArguments, say};

/// A refund is many small allocations on several threads; the system's allocator would spend a good
/// part of its time on them.
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
    /// Run the gateway until SIGTERM, SIGQUIT or Ctrl-C; SIGHUP has it read its secrets and its log
    /// filter again.
    Serve(ConfigFile),
    /// Check the configuration and print every fault with its key; with --online ask the providers
    /// too, with --ledger compare the ledger's refunds with the accounts.
    Check(CheckArguments),
    /// Ask a running gateway whether it takes refunds; exit status 0 if it does, 1 if it does not.
    Health(HealthArguments),
    /// An operator's view of the refunds of a running gateway: list, show, reconcile, resolve,
    /// cancel.
    Refunds(RefundsArguments),
    /// Copy a ledger, which a gateway may be writing to meanwhile, and verify the copy.
    Backup(BackupArguments),
    /// Look at a ledger that no gateway has open, and say everything that does not fit.
    Verify(VerifyArguments),
    /// Run the gateway together with simulators of all three providers, on this machine alone.
    #[cfg(feature = "staging")]
    Staging(recoup::staging::StagingOptions),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The TOML file with the settings; RECOUP_* variables stand over it. Left out: the file that
    /// RECOUP_CONFIG names, or variables alone.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a shell script can tell apart: the configuration is wrong.
const CONFIGURATION_FAULT: u8 = cli::USAGE;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say(&mut std::io::stderr(), &format!("recoup: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(arguments) => Ok(match Settings::from_process(arguments.config()) {
            Ok(settings) => {
                for line in settings.summary().iter().chain(&settings.warnings) {
                    say(&mut std::io::stdout(), line);
                }
                let ledger = if arguments.ledger() { check_ledger(&settings) } else { ExitCode::SUCCESS };
                let online = match arguments.online() {
                    true => small_runtime()?.block_on(check_online(&settings))?,
                    false => ExitCode::SUCCESS,
                };
                if ledger == ExitCode::SUCCESS { online } else { ledger }
            }
            Err(faults) => {
                say(&mut std::io::stderr(), &faults.to_string());
                ExitCode::from(CONFIGURATION_FAULT)
            }
        }),
        Command::Serve(file) => {
            let settings = match Settings::from_process(file.config.as_deref()) {
                Ok(settings) => settings,
                Err(faults) => {
                    say(&mut std::io::stderr(), &faults.to_string());
                    return Ok(ExitCode::from(CONFIGURATION_FAULT));
                }
            };
            runtime()?.block_on(async {
                let LogSettings { format, filter } = &settings.log;
                let telemetry = telemetry::init(*format, filter, settings.traces_endpoint.as_deref())?;
                for warning in &settings.warnings {
                    tracing::warn!("{warning}");
                }
                let served = serve(settings, file.config, telemetry.filter).await;
                telemetry.exporting.end().await;
                Ok(served.map_or_else(
                    |error| {
                        // In the form that the log has, where it takes it: machines read it.
                        match tracing::enabled!(tracing::Level::ERROR) {
                            true => tracing::error!("{}", sentence(&error)),
                            false => say(&mut std::io::stderr(), &format!("recoup: {}", sentence(&error))),
                        }
                        ExitCode::FAILURE
                    },
                    |()| ExitCode::SUCCESS,
                ))
            })
        }
        Command::Health(arguments) => {
            let server = match arguments.server() {
                Some(server) => server.to_owned(),
                None => match Settings::listen_from_process(arguments.config()) {
                    Ok(listen) => format!("http://{listen}"),
                    Err(faults) => {
                        say(&mut std::io::stderr(), &faults.to_string());
                        return Ok(ExitCode::from(CONFIGURATION_FAULT));
                    }
                },
            };
            Ok(small_runtime()?.block_on(cli::health(&arguments, &server)))
        }
        Command::Refunds(arguments) => Ok(small_runtime()?.block_on(cli::refunds(arguments))),
        Command::Backup(arguments) => Ok(cli::backup(&arguments)),
        Command::Verify(arguments) => Ok(cli::verify(&arguments)),
        #[cfg(feature = "staging")]
        Command::Staging(options) => runtime()?.block_on(async {
            let mut shutdown = ShutdownSignal::listen()?;
            // Its configuration is written by itself, so that there is nothing to be read again: a
            // terminal that closes ends it, in order.
            let mut hangup = hangup()?;
            let mut staging = recoup::staging::Staging::start(&options).await?;
            say(&mut std::io::stdout(), &staging.welcome());
            tokio::select! {
                () = shutdown.received() => {}
                _ = hangup.recv() => {}
                problem = staging.ended() => anyhow::bail!(problem),
            }
            staging.stop().await;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Probes every account, and says what each probe shows.
async fn check_online(settings: &Settings) -> anyhow::Result<ExitCode> {
    let probed = match app::probe_accounts(settings).await {
        Ok(probed) => probed,
        Err(error @ StartError::Account { .. }) => {
            say(&mut std::io::stderr(), &error.to_string());
            return Ok(ExitCode::from(CONFIGURATION_FAULT));
        }
        Err(error) => return Err(error.into()),
    };
    for (account, report) in &probed {
        let name = format!("{} ({}, {})", account.name, account.provider, account.place.endpoint);
        for line in cli::lines_of(&name, report) {
            say(&mut std::io::stdout(), &line);
        }
    }
    let all_fine = probed.iter().all(|(_, report)| report.is_fine());
    Ok(if all_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says which refunds would wait after a start with these settings.
fn check_ledger(settings: &Settings) -> ExitCode {
    match app::preview_start(settings) {
        Ok(displaced) => {
            for line in cli::lines_of_ledger(&displaced) {
                say(&mut std::io::stdout(), &line);
            }
            let waits = displaced.iter().any(|one| one.waiting() > 0);
            if waits { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("recoup: {error}"));
            ExitCode::from(CONFIGURATION_FAULT)
        }
    }
}

/// Until a signal that ends it. SIGHUP has the configuration read again, from the same file.
async fn serve(settings: Settings, config: Option<PathBuf>, filter: LogFilter) -> anyhow::Result<()> {
    let mut shutdown = ShutdownSignal::listen()?;
    let mut hangup = hangup()?;
    let mut app = App::start(settings).await?;
    let load = move || Settings::from_process(config.as_deref());
    let reloader = app.reloader(filter, load).context("SIGHUP cannot be answered")?;
    loop {
        tokio::select! {
            () = shutdown.received() => break,
            _ = hangup.recv() => reloader.reload(),
            problem = app.ended() => anyhow::bail!(problem),
        }
    }
    app.stop().await;
    Ok(())
}

/// SIGHUP, from when it is listened for: from then on it never ends the process, not even during
/// the drain.
fn hangup() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")
}

/// For a client that asks one thing after the other.
fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")
}

/// Ctrl-C, SIGTERM or SIGQUIT, from when it is listened for: before the start, so that one that
/// comes during it or right after it still drains.
struct ShutdownSignal {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

impl ShutdownSignal {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("Ctrl-C cannot be listened for")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?,
            quit: signal(SignalKind::quit()).context("SIGQUIT cannot be listened for")?,
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

/// The error and its causes, each of which is told once: many an error tells its cause itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        known if known.contains(&cause) => told,
        known => format!("{known}: {cause}"),
    })
}
