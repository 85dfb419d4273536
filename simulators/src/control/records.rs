//! What really happened, and what went over the wire.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::extract::{Asked, Body, Named, Of, Refused, limit};
use crate::{
    record::audit::{Audit, Claim, MAX_CLAIMS, Verdict},
    record::books::BookEntry,
    record::journal::JournalEntry,
    request::Provider,
};

/// Which entries. Without `after` the newest ones, with it the first ones behind it; oldest first
/// either way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    provider: Option<Provider>,
    operation: Option<String>,
    target: Option<String>,
    identifier: Option<String>,
    /// The first moment wanted.
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// The first moment no longer wanted.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    after: Option<u64>,
    limit: Option<usize>,
}

/// What an entry is asked about.
struct Known<'a> {
    id: u64,
    time: OffsetDateTime,
    provider: Provider,
    operation: Option<&'a str>,
    target: Option<&'a str>,
    identifier: Option<&'a str>,
}

pub(super) async fn books(Of(world): Of, Asked(wanted): Asked<Wanted>) -> Result<Response, Refused> {
    let mut world = world.lock();
    world.now();
    let matching = world.books.entries().filter(|entry| {
        // The operation is that of the request behind the effect, as long as the journal has it.
        let cause = || Some(world.journal.get(entry.journal_id?)?.operation);
        let operation = wanted.operation.as_ref().and_then(|_| cause());
        wanted.matches(&Known {
            id: entry.id,
            time: entry.time,
            provider: entry.provider,
            operation: operation.as_deref(),
            target: Some(&entry.effect.target),
            identifier: entry.effect.identifier.as_deref(),
        })
    });
    let entries: Vec<BookEntry> = wanted.part(matching)?;
    let (dropped, total) = (world.books.dropped(), world.books.total());
    Ok(told(&entries, entries.last().map(|entry| entry.id), dropped, total))
}

pub(super) async fn journal(Of(world): Of, Asked(wanted): Asked<Wanted>) -> Result<Response, Refused> {
    let mut world = world.lock();
    world.now();
    let matching = world.journal.entries().filter(|entry| {
        wanted.matches(&Known {
            id: entry.id,
            time: entry.time,
            provider: entry.provider,
            operation: Some(&entry.operation),
            target: entry.target.as_deref(),
            identifier: entry.identifier.as_deref(),
        })
    });
    let entries: Vec<JournalEntry> = wanted.part(matching)?;
    let (dropped, total) = (world.journal.dropped(), world.journal.total());
    Ok(told(&entries, entries.last().map(|entry| entry.id), dropped, total))
}

pub(super) async fn journal_entry(Of(world): Of, Named(id): Named<u64>) -> Result<Json<JournalEntry>, Refused> {
    let world = world.lock();
    let entry = world.journal.get(id);
    entry.map(Json).ok_or_else(|| Refused::not_found(format!("the journal has no entry {id}, or no longer")))
}

/// How strictly an audit is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Strictness {
    #[serde(default)]
    strict: bool,
}

pub(super) async fn audit(Of(world): Of, Asked(strictness): Asked<Strictness>) -> (StatusCode, Json<Audit>) {
    strictness.judge(world.lock().audit(None))
}

/// What a caller has to say of its refunds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claims {
    refunds: Vec<Claim>,
}

pub(super) async fn audit_claims(
    Of(world): Of,
    Asked(strictness): Asked<Strictness>,
    Body(Claims { refunds }): Body<Claims>,
) -> Result<(StatusCode, Json<Audit>), Refused> {
    if refunds.len() > MAX_CLAIMS {
        return Err(Refused::bad_request(format!("`refunds` has at most {MAX_CLAIMS} entries")));
    }
    Ok(strictness.judge(world.lock().audit(Some(&refunds))))
}

impl Strictness {
    fn judge(&self, audit: Audit) -> (StatusCode, Json<Audit>) {
        let violated = self.strict && audit.verdict == Verdict::Violations;
        (if violated { StatusCode::CONFLICT } else { StatusCode::OK }, Json(audit))
    }
}

/// A part of the books or of the journal.
#[derive(Serialize)]
struct Told<'a, T> {
    entries: &'a [T],
    /// What to ask `after` for the entries behind these.
    next_after: Option<u64>,
    dropped: u64,
    /// How many there were since the start or the last reset, whatever was asked for, those that
    /// are no longer kept among them.
    total: u64,
}

fn told<T: Serialize>(entries: &[T], next_after: Option<u64>, dropped: u64, total: u64) -> Response {
    Json(Told { entries, next_after, dropped, total }).into_response()
}

impl Wanted {
    fn matches(&self, known: &Known<'_>) -> bool {
        let is =
            |wanted: &Option<String>, known: Option<&str>| wanted.as_ref().is_none_or(|wanted| known == Some(wanted));
        self.after.is_none_or(|after| known.id > after)
            && self.provider.is_none_or(|wanted| wanted == known.provider)
            && is(&self.operation, known.operation)
            && is(&self.target, known.target)
            && is(&self.identifier, known.identifier)
            && self.from.is_none_or(|from| known.time >= from)
            && self.until.is_none_or(|until| known.time < until)
    }

    fn part<T>(&self, matching: impl DoubleEndedIterator<Item = T>) -> Result<Vec<T>, Refused> {
        let limit = limit(self.limit)?;
        if self.after.is_some() {
            return Ok(matching.take(limit).collect());
        }
        let mut newest: Vec<T> = matching.rev().take(limit).collect();
        newest.reverse();
        Ok(newest)
    }
}
