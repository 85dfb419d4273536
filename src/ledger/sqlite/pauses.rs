//! Pauses of accounts: who stopped an account from sending, why, and until when.

use rusqlite::{Connection, Row, params};

use super::failure::StepError;
use crate::domain::authority::{Actor, GATEWAY};
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::ledger::encoding;
use crate::ledger::{AccountPause, LedgerError, NewPause};

const SELECT_PAUSES: &str = "SELECT account, begin_time, reason, actor, actor_credential, actor_policy, end_time \
     FROM account_pauses";

/// The pause that account ?1 is in.
const RUNNING: &str = "account = ?1 AND end_time IS NULL";

/// Begins a pause, or returns the one that the account is in.
pub(super) fn begin(connection: &Connection, pause: &NewPause) -> Result<AccountPause, StepError> {
    let NewPause { account, reason, actor, now } = pause;
    if let Some(running) = running(connection, account)? {
        return Ok(running);
    }
    // A clock that was set back must not let two pauses overlap.
    let sql = "SELECT coalesce(max(end_time) + 1, ?2) FROM account_pauses WHERE account = ?1";
    let after_last: i64 =
        connection.prepare_cached(sql)?.query_row(params![account.as_str(), now.as_micros()], |row| row.get(0))?;
    let begin = now.as_micros().max(after_last);
    let sql = "INSERT INTO account_pauses (account, begin_time, reason, actor, actor_credential, actor_policy) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let name = encoding::stored_actor(actor);
    let values = params![account.as_str(), begin, reason, name, actor.credential, actor.policy];
    connection.prepare_cached(sql)?.execute(values)?;
    let (account, reason, by) = (account.clone(), reason.clone(), actor.clone());
    Ok(AccountPause { account, reason, by, begin: Timestamp::from_micros(begin), end: None })
}

/// Ends the pause that the account is in, if it is in one.
pub(super) fn end(
    connection: &Connection,
    account: &AccountName,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), StepError> {
    let sql = format!(
        "UPDATE account_pauses SET end_time = max(begin_time, ?2), end_actor = ?3, end_actor_credential = ?4, \
         end_actor_policy = ?5 WHERE {RUNNING}"
    );
    let name = encoding::stored_actor(actor);
    let values = params![account.as_str(), now.as_micros(), name, actor.credential, actor.policy];
    connection.prepare_cached(&sql)?.execute(values)?;
    Ok(())
}

/// Rejects an attempt of an account that is paused.
pub(super) fn refuse_if_paused(connection: &Connection, account: &AccountName) -> Result<(), StepError> {
    match is_paused(connection, account)? {
        true => Err(LedgerError::AccountPaused(account.clone()).into()),
        false => Ok(()),
    }
}

pub(super) fn is_paused(connection: &Connection, account: &AccountName) -> Result<bool, StepError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM account_pauses WHERE {RUNNING})");
    Ok(connection.prepare_cached(&sql)?.query_row([account.as_str()], |row| row.get(0))?)
}

/// All pauses, by account, oldest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<AccountPause>, StepError> {
    let mut statement = connection.prepare_cached(&format!("{SELECT_PAUSES} ORDER BY account, begin_time"))?;
    statement.query_and_then([], pause_in)?.collect()
}

fn running(connection: &Connection, account: &AccountName) -> Result<Option<AccountPause>, StepError> {
    let mut statement = connection.prepare_cached(&format!("{SELECT_PAUSES} WHERE {RUNNING}"))?;
    statement.query_and_then([account.as_str()], pause_in)?.next().transpose()
}

fn pause_in(row: &Row<'_>) -> Result<AccountPause, StepError> {
    let account: String = row.get(0)?;
    let corrupt = |problem: &str| LedgerError::Corrupt {
        table: "account_pauses",
        column: "account",
        row: account.clone(),
        problem: problem.to_owned(),
    };
    let name: Option<String> = row.get(3)?;
    Ok(AccountPause {
        account: AccountName::parse(&account).map_err(|error| corrupt(&error.to_string()))?,
        begin: Timestamp::from_micros(row.get(1)?),
        reason: row.get(2)?,
        by: Actor { name: name.unwrap_or_else(|| GATEWAY.to_owned()), credential: row.get(4)?, policy: row.get(5)? },
        end: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_micros),
    })
}
