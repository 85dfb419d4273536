//! What the operating system allows: how many files the process may open, and no other process to
//! read its memory.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::api::MAX_CONNECTIONS;
use crate::config::Settings;

/// Files that are open whatever happens: the ledger and its readers, logs, the ports, scrapes,
/// configuration and secrets while they are read, and connections that are just being closed.
const BASE_FILES: usize = 192;
/// Files of one account besides its requests: name servers, and pooled connections.
const ACCOUNT_FILES: usize = 8;
/// A new connection may try two addresses of its host side by side.
const FILES_PER_REQUEST: usize = 2;
/// Fewer connections are of no use.
const MIN_CONNECTIONS: usize = 16;

/// Keeps secrets in the memory of this process: no core dump, and no debugger of the same user.
///
/// # Errors
/// The operating system refuses.
pub fn protect_memory() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the number of files that the process may open as far as allowed, and returns how many
/// connections fit into it: callers must never take the files that refunds and the ledger need.
pub(super) fn max_connections(settings: &Settings) -> usize {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, ..before };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "could not raise the number of open files");
    }
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX));
    let reserved = reserved_files(settings);
    let connections = connections_within(files, reserved);
    if connections < MAX_CONNECTIONS {
        warn!(
            files,
            reserved,
            connections,
            "the process may open too few files: fewer connections are kept open than the gateway can serve"
        );
    }
    connections
}

fn connections_within(files: usize, reserved: usize) -> usize {
    files.saturating_sub(reserved).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS)
}

/// The files that the gateway needs at most besides its callers' connections.
fn reserved_files(settings: &Settings) -> usize {
    let fetches = settings.validation.max_concurrent_fetches;
    let of_accounts = settings.accounts.iter().map(|account| {
        account.max_in_flight.saturating_add(fetches).saturating_mul(FILES_PER_REQUEST).saturating_add(ACCOUNT_FILES)
    });
    of_accounts.fold(BASE_FILES, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::usual(1_048_576, 300, MAX_CONNECTIONS)]
    #[case::exact(1_324, 300, MAX_CONNECTIONS)]
    #[case::low(1_024, 300, 724)]
    #[case::far_too_low(256, 300, MIN_CONNECTIONS)]
    fn connections_leave_the_files_that_the_gateway_needs(
        #[case] files: usize,
        #[case] reserved: usize,
        #[case] expected: usize,
    ) {
        assert_eq!(connections_within(files, reserved), expected);
    }
}
