//! The books, the journal and the audit.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    extract::{ApiError, DEFAULT_LIMIT, JsonBody, MAX_LIMIT, PathParam, QueryParams, WorldParam, check_limit},
    operation::{OperationDoc, Output},
};
use crate::{
    record::audit::{Audit, Claim, MAX_CLAIMS, Verdict},
    record::books::BookEntry,
    record::journal::JournalEntry,
    request::Provider,
};

/// Selects entries of the books or the journal. Without `after` the newest ones, with it the first
/// ones after that id; oldest first either way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryFilter {
    provider: Option<Provider>,
    /// The provider's own name for the call.
    operation: Option<String>,
    target: Option<String>,
    identifier: Option<String>,
    /// Only entries at or after this time, RFC 3339.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    from: Option<OffsetDateTime>,
    /// Only entries before this time, RFC 3339.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    until: Option<OffsetDateTime>,
    /// The first entries after this id; without it, the newest ones.
    after: Option<u64>,
    /// How many entries at most.
    #[schemars(range(min = 1, max = MAX_LIMIT), extend("default" = DEFAULT_LIMIT))]
    limit: Option<usize>,
}

/// The fields of an entry that a filter compares.
struct EntryView<'a> {
    id: u64,
    time: OffsetDateTime,
    provider: Provider,
    operation: Option<&'a str>,
    target: Option<&'a str>,
    identifier: Option<&'a str>,
}

/// Part of the books or of the journal, oldest first.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct EntryPart<T> {
    entries: Vec<T>,
    /// The value of `after` for the entries that follow these; null where there are no entries.
    next_after: Option<u64>,
    /// How many older entries are no longer kept.
    dropped: u64,
    /// How many entries were written since the start or the last reset, including those that are no
    /// longer kept.
    total: u64,
}

pub(super) async fn books(
    WorldParam(world): WorldParam,
    QueryParams(filter): QueryParams<EntryFilter>,
) -> Result<Json<EntryPart<BookEntry>>, ApiError> {
    let mut world = world.lock();
    world.now();
    let matching = world.books.entries().filter(|entry| {
        // The operation of an effect is that of its request, as long as the journal keeps it.
        let cause = || Some(world.journal.get(entry.journal_id?)?.operation);
        let operation = filter.operation.as_ref().and_then(|_| cause());
        filter.matches(&EntryView {
            id: entry.id,
            time: entry.time,
            provider: entry.provider,
            operation: operation.as_deref(),
            target: Some(&entry.effect.target),
            identifier: entry.effect.identifier.as_deref(),
        })
    });
    let entries: Vec<BookEntry> = filter.part_of(matching)?;
    let (dropped, total) = (world.books.dropped(), world.books.total());
    Ok(Json(EntryPart { next_after: entries.last().map(|entry| entry.id), entries, dropped, total }))
}

pub(super) async fn journal(
    WorldParam(world): WorldParam,
    QueryParams(filter): QueryParams<EntryFilter>,
) -> Result<Json<EntryPart<JournalEntry>>, ApiError> {
    let mut world = world.lock();
    world.now();
    let matching = world.journal.entries().filter(|entry| {
        filter.matches(&EntryView {
            id: entry.id,
            time: entry.time,
            provider: entry.provider,
            operation: Some(&entry.operation),
            target: entry.target.as_deref(),
            identifier: entry.identifier.as_deref(),
        })
    });
    let entries: Vec<JournalEntry> = filter.part_of(matching)?;
    let (dropped, total) = (world.journal.dropped(), world.journal.total());
    Ok(Json(EntryPart { next_after: entries.last().map(|entry| entry.id), entries, dropped, total }))
}

pub(super) async fn journal_entry(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<u64>,
) -> Result<Json<JournalEntry>, ApiError> {
    let entry = world.lock().journal.get(id);
    entry.map(Json).ok_or_else(|| ApiError::not_found(format!("the journal has no entry {id}, or no longer")))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Whether violations are answered with 409, so that `curl -f` fails.
    #[serde(default)]
    strict: bool,
}

/// An audit, with 409 where it found violations and the query is strict.
pub(super) struct AuditAnswer {
    status: StatusCode,
    audit: Audit,
}

pub(super) async fn audit(WorldParam(world): WorldParam, QueryParams(query): QueryParams<AuditQuery>) -> AuditAnswer {
    query.answer(world.lock().audit(None))
}

/// What a caller believes about its refunds.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Claims {
    #[schemars(length(max = MAX_CLAIMS))]
    refunds: Vec<Claim>,
}

pub(super) async fn audit_claims(
    WorldParam(world): WorldParam,
    QueryParams(query): QueryParams<AuditQuery>,
    JsonBody(Claims { refunds }): JsonBody<Claims>,
) -> Result<AuditAnswer, ApiError> {
    if refunds.len() > MAX_CLAIMS {
        return Err(ApiError::bad_request(format!("`refunds` has at most {MAX_CLAIMS} entries")));
    }
    Ok(query.answer(world.lock().audit(Some(&refunds))))
}

impl AuditQuery {
    fn answer(&self, audit: Audit) -> AuditAnswer {
        let is_error = self.strict && audit.verdict == Verdict::Violations;
        AuditAnswer { status: if is_error { StatusCode::CONFLICT } else { StatusCode::OK }, audit }
    }
}

impl IntoResponse for AuditAnswer {
    fn into_response(self) -> Response {
        (self.status, Json(self.audit)).into_response()
    }
}

impl Output for AuditAnswer {
    fn describe(operation: &mut OperationDoc<'_>) {
        <Json<Audit> as Output>::describe(operation);
        operation.answers::<Audit>(409, "There are violations, and the query is strict: the same audit.");
    }
}

impl EntryFilter {
    fn matches(&self, entry: &EntryView<'_>) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.as_ref().is_none_or(|text| value == Some(text));
        self.after.is_none_or(|after| entry.id > after)
            && self.provider.is_none_or(|wanted| wanted == entry.provider)
            && is(&self.operation, entry.operation)
            && is(&self.target, entry.target)
            && is(&self.identifier, entry.identifier)
            && self.from.is_none_or(|from| entry.time >= from)
            && self.until.is_none_or(|until| entry.time < until)
    }

    fn part_of<T>(&self, matching: impl DoubleEndedIterator<Item = T>) -> Result<Vec<T>, ApiError> {
        let limit = check_limit(self.limit)?;
        if self.after.is_some() {
            return Ok(matching.take(limit).collect());
        }
        let mut newest: Vec<T> = matching.rev().take(limit).collect();
        newest.reverse();
        Ok(newest)
    }
}
