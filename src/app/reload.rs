//! Applies changes without a restart: secrets from files, certificates, and the log filter.
//!
//! ```text
//! every 10 s, SIGHUP, refused login -> read the secret's file
//!                                   -> Secret::replace -> Engine::credentials_changed
//! SIGHUP -> certificates (`tls::server`, which also reads them every 10 s)
//! SIGHUP -> read the access file (access_file)
//! SIGHUP -> read the whole configuration -> apply the filter and the files' names
//!                                        -> WARN for every other key that has changed
//! ```

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::changes::Reloadable;
use crate::config::{ConfigErrors, SecretFile, Settings};
use crate::domain::ids::AccountName;
use crate::providers::secret::Secret;
use crate::telemetry::LogFilter;

/// How often a secret's file is read without another trigger.
const READ_INTERVAL: Duration = Duration::from_secs(10);
/// Refused logins trigger a read at most this often.
const MIN_READ_INTERVAL: Duration = Duration::from_secs(1);

/// The secret's file of each account that has one.
pub(super) type SecretFiles = BTreeMap<AccountName, watch::Sender<SecretFile>>;

/// Requests another read of the configuration. Dropping it ends the reading thread.
pub struct Reloader(SyncSender<()>);

impl Reloader {
    /// Applies what `load` reads at each request. Runs on its own thread, because a file may be a
    /// pipe that never delivers.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub(super) fn start(
        running: Reloadable,
        files: SecretFiles,
        reload: watch::Sender<u64>,
        filter: LogFilter,
        load: impl FnMut() -> Result<Settings, ConfigErrors> + Send + 'static,
    ) -> std::io::Result<Self> {
        // Capacity one: any number of requests during a read cause one more read.
        let (sender, requests) = sync_channel(1);
        let thread = std::thread::Builder::new().name("reload".to_owned());
        thread.spawn(move || run(&requests, running, &files, &reload, &filter, load)).map(|_| Self(sender))
    }

    /// Requests a read.
    pub fn reload(&self) {
        // Full: a read is already requested.
        let _ = self.0.try_send(());
    }
}

fn run(
    requests: &Receiver<()>,
    mut running: Reloadable,
    files: &SecretFiles,
    reload: &watch::Sender<u64>,
    filter: &LogFilter,
    mut load: impl FnMut() -> Result<Settings, ConfigErrors>,
) {
    while requests.recv().is_ok() {
        // Certificates and the access file: errors of the configuration do not keep a caller from
        // being removed.
        reload.send_modify(|count| *count += 1);
        match load() {
            Ok(newer) => {
                for warning in &newer.warnings {
                    warn!("{warning}");
                }
                apply(&mut running, &Reloadable::from_settings(&newer), files, filter);
            }
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                error!(
                    errors = errors.join("; "),
                    "could not reload the configuration: it has errors, and nothing of it is applied"
                );
            }
        }
    }
}

fn apply(running: &mut Reloadable, newer: &Reloadable, files: &SecretFiles, filter: &LogFilter) {
    let changes = running.changes_to(newer);
    if let Some(directives) = changes.filter {
        match filter.replace(&directives) {
            Ok(()) => {
                running.filter.clone_from(&directives);
                info!(filter = directives, "log filter changed");
            }
            Err(problem) => error!(%problem, "could not change the log filter"),
        }
    }
    for key in &changes.require_restart {
        warn!(key, "the setting has changed in the configuration: restart to apply it");
    }
    for (account, file) in &changes.secret_files {
        if let Some(path) = files.get(account) {
            // Sent even if the path is the same: the content may have changed.
            path.send_replace(file.clone());
        }
    }
    running.secret_files = changes.secret_files;
    info!("configuration reloaded");
}

/// Keeps a secret equal to its file's content until `closing`. Calls `changed` after each change.
pub(super) async fn follow(
    account: AccountName,
    secret: Secret,
    mut file: watch::Receiver<SecretFile>,
    closing: CancellationToken,
    changed: impl Fn(),
) {
    let mut reported = None;
    let mut delay = Duration::ZERO;
    loop {
        let refused = async {
            tokio::time::sleep(delay).await;
            secret.wait_for_refusal().await;
        };
        delay = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            changed = file.changed() => if changed.is_ok() { Duration::ZERO } else { return },
            () = refused => MIN_READ_INTERVAL,
            () = tokio::time::sleep(READ_INTERVAL) => Duration::ZERO,
        };
        let source = file.borrow_and_update().clone();
        let path = source.path().display().to_string();
        // Runtime threads must not block on the disk.
        let Ok(read) = tokio::task::spawn_blocking(move || source.read()).await else { continue };
        let problem = match read.map(|read| read.is_some_and(|newer| secret.replace(newer))) {
            Ok(is_new) => {
                if is_new {
                    info!(%account, file = path, "account secret changed");
                    changed();
                }
                None
            }
            Err(problem) => Some(problem),
        };
        if let Some(problem) = problem.as_ref().filter(|problem| reported.as_ref() != Some(*problem)) {
            warn!(%account, file = path, problem, "could not read the account secret again: keeping the previous one");
        }
        reported = problem;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use secrecy::ExposeSecret;

    use super::*;

    struct Following {
        secret: Secret,
        changes: Arc<AtomicUsize>,
        file: watch::Sender<SecretFile>,
        closing: CancellationToken,
        dir: tempfile::TempDir,
    }

    fn secret_file(dir: &Path, name: &str) -> SecretFile {
        let text = format!(
            "[accounts.main]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"{}\"\n",
            dir.join(name).display()
        );
        let path = dir.join("recoup.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path), []).unwrap().secret_files.into_values().next().unwrap()
    }

    fn start_following() -> Following {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "one\n").unwrap();
        let file = watch::Sender::new(secret_file(dir.path(), "token"));
        let (secret, changes, closing) =
            (Secret::new("one".into()), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let count = changes.clone();
        let account = AccountName::parse("main").unwrap();
        let work = follow(account, secret.clone(), file.subscribe(), closing.clone(), move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        tokio::spawn(work);
        Following { secret, changes, file, closing, dir }
    }

    impl Following {
        /// The secret and the number of its changes after `time`.
        async fn after(&self, time: Duration) -> (String, usize) {
            tokio::time::sleep(time).await;
            (self.secret.current().expose_secret().to_owned(), self.changes.load(Ordering::Relaxed))
        }
    }

    const SOON: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_periodically_and_through_symbolic_links() {
        let it = start_following();
        let path = it.dir.path().join("token");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(it.after(READ_INTERVAL - SOON).await, ("one".to_owned(), 0));
        assert_eq!(it.after(SOON * 2).await, ("two".to_owned(), 1));
        // Container runtimes update secrets like this: a symbolic link to a directory is swapped.
        for (folder, token) in [("1", "three"), ("2", "four")] {
            std::fs::create_dir(it.dir.path().join(folder)).unwrap();
            std::fs::write(it.dir.path().join(folder).join("token"), token).unwrap();
        }
        let link = it.dir.path().join("data");
        std::os::unix::fs::symlink("1", &link).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("data/token", &path).unwrap();
        assert_eq!(it.after(READ_INTERVAL).await, ("three".to_owned(), 2));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("2", &link).unwrap();
        assert_eq!(it.after(READ_INTERVAL).await, ("four".to_owned(), 3));
        assert_eq!(it.after(READ_INTERVAL * 5).await, ("four".to_owned(), 3));
        it.closing.cancel();
        std::fs::write(it.dir.path().join("2").join("token"), "five").unwrap();
        assert_eq!(it.after(READ_INTERVAL * 5).await, ("four".to_owned(), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_triggers_an_immediate_read_but_many_do_not_exceed_the_rate() {
        let it = start_following();
        std::fs::write(it.dir.path().join("token"), "two").unwrap();
        it.secret.report_refusal();
        assert_eq!(it.after(SOON).await, ("two".to_owned(), 1));
        std::fs::write(it.dir.path().join("token"), "three").unwrap();
        it.secret.report_refusal();
        assert_eq!(it.after(MIN_READ_INTERVAL / 2).await, ("two".to_owned(), 1));
        assert_eq!(it.after(MIN_READ_INTERVAL).await, ("three".to_owned(), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn another_file_is_read_immediately_and_an_invalid_one_changes_nothing() {
        let it = start_following();
        std::fs::write(it.dir.path().join("other"), "two").unwrap();
        it.file.send_replace(secret_file(it.dir.path(), "other"));
        assert_eq!(it.after(SOON).await, ("two".to_owned(), 1));
        let wrong = ["", "a\nb", "a\u{0}", "a\u{ffff}", &"x".repeat(256)];
        for content in wrong {
            std::fs::write(it.dir.path().join("other"), content).unwrap();
            it.secret.report_refusal();
            assert_eq!(it.after(READ_INTERVAL).await, ("two".to_owned(), 1), "{content:?}");
        }
        std::fs::remove_file(it.dir.path().join("other")).unwrap();
        assert_eq!(it.after(READ_INTERVAL).await, ("two".to_owned(), 1));
    }
}
