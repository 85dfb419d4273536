//! What a ledger says about itself: its id, whether it is a backup copy, whether checkpoints of it
//! were written, and since when it is a restored one.

use rusqlite::{Connection, params};

use super::failure::StepError;
use super::pauses;
use super::queries;
use crate::domain::authority::Actor;
use crate::domain::ids::AccountName;
use crate::ledger::admin::{LedgerIdentity, StartPause};
use crate::ledger::{AccountPause, LedgerError, NewPause};

/// Why accounts are paused where the ledger is a restored backup.
const BACKUP_REASON: &str = "the ledger is a restored backup: compare what it has forgotten, then resume";
/// Why accounts are paused where the ledger does not fit its checkpoints.
const LOST_REASON: &str =
    "the ledger has lost history (--accept-lost-history): compare what it has forgotten, then resume";
/// Why an account is paused that was not configured when the ledger was restored.
const LATER_REASON: &str = "accounts of the restored ledger are still paused: resume this one with them";

pub(super) fn read(connection: &Connection) -> Result<LedgerIdentity, StepError> {
    let sql = "SELECT id, is_backup_copy, has_checkpoints FROM ledger_identity";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Err(LedgerError::Corrupt {
            table: "ledger_identity",
            column: "id",
            row: "only_row 1".to_owned(),
            problem: "is missing".to_owned(),
        }
        .into());
    };
    let is_set = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.is_some());
    Ok(LedgerIdentity { id: row.get(0)?, is_backup_copy: is_set(1)?, has_checkpoints: is_set(2)? })
}

/// Marks a copy.
pub(super) fn mark_backup_copy(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE ledger_identity SET is_backup_copy = 1", []).map(drop)
}

pub(super) fn remember_checkpoints(connection: &Connection) -> Result<(), StepError> {
    connection.execute("UPDATE ledger_identity SET has_checkpoints = 1", [])?;
    Ok(())
}

/// See [`crate::ledger::LedgerAdmin::pause_if_restored`].
pub(super) fn pause_if_restored(connection: &Connection, start: &StartPause) -> Result<Vec<AccountPause>, StepError> {
    let StartPause { lost_history, configured, now } = start;
    let reason = match (lost_history, read(connection)?.is_backup_copy) {
        (true, _) => LOST_REASON,
        (false, true) => BACKUP_REASON,
        (false, false) => return pause_later_accounts(connection, start),
    };
    let sql = "UPDATE ledger_identity SET is_backup_copy = NULL, restored_time = ?1";
    connection.execute(sql, [now.as_micros()])?;
    let mut accounts = configured.clone();
    accounts.extend(queries::open_refunds(connection)?.into_iter().map(|open| open.at.account));
    accounts.extend(queries::dispatching_refunds(connection)?.into_iter().map(|open| open.at.account));
    accounts.sort();
    accounts.dedup();
    let mut begun = Vec::new();
    for account in accounts {
        begun.push(pauses::begin(connection, &new_pause(account, reason, start))?);
    }
    Ok(begun)
}

/// As long as a pause of the restored start runs, an account that is configured since, or under
/// another name, is paused too: what the ledger has forgotten could be asked for there.
fn pause_later_accounts(connection: &Connection, start: &StartPause) -> Result<Vec<AccountPause>, StepError> {
    let restored: Option<i64> =
        connection.query_row("SELECT restored_time FROM ledger_identity", [], |row| row.get(0))?;
    let Some(restored) = restored else { return Ok(Vec::new()) };
    let sql = "SELECT EXISTS (SELECT 1 FROM account_pauses WHERE actor IS NULL AND end_time IS NULL)";
    let is_running: bool = connection.query_row(sql, [], |row| row.get(0))?;
    if !is_running {
        connection.execute("UPDATE ledger_identity SET restored_time = NULL", [])?;
        return Ok(Vec::new());
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM account_pauses WHERE account = ?1 AND coalesce(end_time, ?2) >= ?2)";
    let mut begun = Vec::new();
    for account in &start.configured {
        let was_paused: bool = connection.query_row(sql, params![account.as_str(), restored], |row| row.get(0))?;
        if !was_paused {
            begun.push(pauses::begin(connection, &new_pause(account.clone(), LATER_REASON, start))?);
        }
    }
    Ok(begun)
}

fn new_pause(account: AccountName, reason: &str, start: &StartPause) -> NewPause {
    NewPause { account, reason: reason.to_owned(), actor: Actor::gateway(), now: start.now }
}
