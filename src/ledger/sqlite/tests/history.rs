//! Every edit of the tables breaks the chain, and the hashes can be computed from the tables alone.

use rstest::rstest;
use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

use super::*;
use crate::ledger::encoding::{INTENT_COLUMNS, STATE_COLUMNS};
use crate::ledger::sqlite::open::{self, MIGRATIONS, VERSION};

#[rstest]
#[case::an_event_edited("UPDATE events SET note = 'nothing happened' WHERE sequence = 3", "events", "chain_hash")]
#[case::an_actor_edited("UPDATE events SET actor = 'another' WHERE sequence = 1", "events", "chain_hash")]
#[case::a_credential_edited("UPDATE events SET actor_credential = 'x' WHERE sequence = 1", "events", "chain_hash")]
#[case::a_policy_edited("UPDATE events SET actor_policy = 'x' WHERE sequence = 1", "events", "chain_hash")]
#[case::a_kind_edited("UPDATE events SET kind = 'cancelled' WHERE sequence = 3", "events", "chain_hash")]
#[case::an_event_dropped("DELETE FROM events WHERE sequence = 2", "events", "sequence")]
#[case::the_last_event_dropped("DELETE FROM events WHERE sequence = 6", "refunds", "revision")]
#[case::a_history_dropped("DELETE FROM events WHERE sequence > 3", "refunds", "ordinal")]
#[case::a_refund_dropped("DELETE FROM refunds WHERE id = 'a'", "events", "sequence")]
#[case::a_reference_edited("UPDATE refunds SET provider_reference = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::a_login_edited("UPDATE refunds SET login = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::an_account_edited("UPDATE refunds SET account = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::a_creator_edited("UPDATE refunds SET created_by = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::an_expected_amount_edited(
    "UPDATE refunds SET expected_currency_code = 'USD', expected_minor_units = 1 WHERE id = 'a'",
    "refunds",
    "(row)"
)]
#[case::a_label_edited("UPDATE refunds SET labels = '{}' WHERE id = 'b'", "refunds", "(row)")]
#[case::a_row_set_back(
    "UPDATE refunds SET state = 'DISPATCHING', revision = 2, complete_time = NULL WHERE id = 'a'",
    "refunds",
    "revision"
)]
#[tokio::test]
async fn every_edit_breaks_the_chain(#[case] sql: &str, #[case] table: &str, #[case] column: &str) {
    let bench = SqliteBench::new();
    bench.refund_in(State::Succeeded, "a").await;
    bench.refund_in(State::Succeeded, "b").await;
    assert_eq!(bench.ledger.verify().await, Ok(6));
    bench.tamper(sql);
    match bench.ledger.verify().await {
        Err(LedgerError::Corrupt { table: found, column: at, .. }) => assert_eq!((found, at), (table, column)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
}

#[rstest]
#[case("UPDATE events SET note = ''")]
#[case("DELETE FROM events")]
#[case(
    "INSERT INTO events SELECT sequence + 2, ordinal, revision + 9, event_time, 'FAILED', to_state, 'x', 0, actor, NULL, NULL, note, refund_digest, chain_hash FROM events WHERE sequence = 3"
)]
#[case("UPDATE refunds SET provider = 'namecom'")]
#[case("DELETE FROM refunds")]
#[case(
    "INSERT INTO events SELECT sequence + 1, ordinal, revision + 1, event_time, 'SUCCEEDED', to_state, 'x', 1, actor, NULL, NULL, note, refund_digest, chain_hash FROM events WHERE sequence = 3"
)]
#[case("UPDATE refunds SET state = 'IN_DOUBT'")]
#[case("UPDATE refunds SET state = 'DONE'")]
#[tokio::test]
async fn the_tables_refuse_what_the_program_never_does(#[case] sql: &str) {
    let bench = SqliteBench::new();
    bench.refund_in(State::Succeeded, "a").await;
    let refusal = bench.raw().execute_batch(sql).unwrap_err();
    assert_eq!(refusal.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation), "{refusal}");
    assert_eq!(bench.ledger.verify().await, Ok(3));
}

fn encoded(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Null => panic!("an absent value is not hashed"),
        ValueRef::Integer(number) => [&[1][..], &number.to_be_bytes()].concat(),
        ValueRef::Text(bytes) => [&[2][..], &(bytes.len() as u64).to_be_bytes(), bytes].concat(),
        ValueRef::Blob(bytes) => [&[3][..], &(bytes.len() as u64).to_be_bytes(), bytes].concat(),
        ValueRef::Real(_) => panic!("no column is a float"),
    }
}

fn field(name: &str, value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Null => Vec::new(),
        value => [encoded(ValueRef::Text(name.as_bytes())), encoded(value)].concat(),
    }
}

/// Every present column of a row but those that are not covered.
fn fields(row: &rusqlite::Row<'_>, not_covered: &[&str]) -> Vec<u8> {
    let names = row.as_ref().column_names().map(str::to_owned).enumerate();
    let covered = names.filter(|(_, name)| !not_covered.contains(&name.as_str()));
    covered.flat_map(|(index, name)| field(&name, row.get_ref(index).unwrap())).collect()
}

fn hash(purpose: &str, fields: &[u8]) -> Vec<u8> {
    Sha256::digest([encoded(ValueRef::Text(purpose.as_bytes())).as_slice(), fields].concat()).to_vec()
}

/// The encoding that the documentation describes, written a second time and for whatever columns
/// the tables have. Returns the ids of the refunds that do not match their last event.
fn refunds_that_do_not_match(raw: &Connection) -> Vec<String> {
    let mut previous = vec![0_u8; 32];
    let mut statement = raw
        .prepare(
            "SELECT sequence, r.id AS refund, e.*, e.chain_hash AS recorded FROM events e \
             JOIN refunds r ON r.ordinal = e.ordinal ORDER BY sequence",
        )
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let mut covered = field("previous", ValueRef::Blob(&previous));
        covered.extend(field("sequence", row.get_ref("sequence").unwrap()));
        covered.extend(field("refund", row.get_ref("refund").unwrap()));
        covered.extend(fields(row, &["sequence", "refund", "ordinal", "chain_hash", "recorded"]));
        previous = row.get("recorded").unwrap();
        assert_eq!(hash("recoup event 2", &covered), previous);
    }
    let schedule = ["next_check", "unheard", "doubt_check_count"];
    let mut statement = raw.prepare("SELECT * FROM refunds ORDER BY ordinal").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut differing = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let sql = "SELECT refund_digest FROM events WHERE ordinal = ?1 ORDER BY revision DESC LIMIT 1";
        let ordinal: i64 = row.get("ordinal").unwrap();
        let recorded: Vec<u8> = raw.query_row(sql, [ordinal], |row| row.get(0)).unwrap();
        if hash("recoup refund 2", &fields(row, &schedule)) != recorded {
            differing.push(row.get("id").unwrap());
        }
    }
    differing
}

#[tokio::test]
async fn an_auditor_computes_the_same_hashes_from_the_tables() {
    let bench = SqliteBench::new();
    for state in State::ALL {
        bench.refund_in(state, &state.as_str().replace('_', "-")).await;
    }
    assert_eq!(refunds_that_do_not_match(&bench.raw()), Vec::<String>::new());
}

/// A later version adds a column to refunds and to events. The hashes that it computes with them
/// for an old ledger are the old ones, and the ledger opens and verifies.
#[tokio::test]
async fn columns_of_a_later_version_leave_old_hashes_unchanged() {
    let bench = SqliteBench::new();
    for state in State::ALL {
        bench.refund_in(state, &state.as_str().replace('_', "-")).await;
    }
    bench.new_refund(debitsuccess("amount", "DS1", 1250)).await;
    let events = bench.ledger.verify().await.unwrap();
    bench.ledger.close().await;
    let mut raw = bench.raw();
    let next = "ALTER TABLE refunds ADD COLUMN later TEXT; ALTER TABLE events ADD COLUMN later INTEGER;";
    open::migrate(&mut raw, VERSION, &[MIGRATIONS[0], next]).unwrap();
    assert_eq!(refunds_that_do_not_match(&raw), Vec::<String>::new());
    raw.pragma_update(None, "user_version", VERSION as i64).unwrap();
    let bench = bench.reopened();
    assert_eq!(*bench.ledger.health().borrow(), Health::Writing);
    assert_eq!(bench.ledger.verify().await, Ok(events));
    // A value in such a column is covered.
    raw.execute("UPDATE refunds SET later = 'x' WHERE id = 'amount'", []).unwrap();
    assert_eq!(refunds_that_do_not_match(&raw), ["amount"]);
}

#[tokio::test]
async fn a_change_of_any_column_is_found() {
    for column in INTENT_COLUMNS.into_iter().chain(STATE_COLUMNS) {
        let bench = SqliteBench::new();
        bench.refund_in(State::InDoubt, "a").await;
        bench.ledger.verify().await.unwrap();
        let kind: String = bench
            .raw()
            .query_row("SELECT type FROM pragma_table_info('refunds') WHERE name = ?1", [column], |row| row.get(0))
            .unwrap();
        let other = if kind == "TEXT" {
            format!("coalesce({column}, '') || 'x'")
        } else {
            format!("coalesce({column}, 0) + 1")
        };
        bench.tamper(&format!("UPDATE refunds SET {column} = {other}"));
        let found = bench.ledger.verify().await;
        assert!(matches!(found, Err(LedgerError::Corrupt { .. })), "{column}: {found:?}");
    }
}
