//! What really happened, and what went over the wire.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::reading::{Asked, Named, Of, Refused, limit};
use crate::{books::BookEntry, exchange::Provider, journal::JournalEntry};

/// Which entries. Without `after` the newest ones, with it the first ones behind it; oldest first either way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    provider: Option<Provider>,
    target: Option<String>,
    identifier: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn books(Of(world): Of, Asked(wanted): Asked<Wanted>) -> Result<Response, Refused> {
    let world = world.lock();
    let matching = world.books.entries().filter(|entry| {
        wanted.matches(entry.id, entry.provider, Some(&entry.effect.target), entry.effect.identifier.as_ref())
    });
    let entries: Vec<&BookEntry> = wanted.part(matching)?;
    Ok(told(&entries, world.books.dropped()))
}

pub(super) async fn journal(Of(world): Of, Asked(wanted): Asked<Wanted>) -> Result<Response, Refused> {
    let world = world.lock();
    let matching = world
        .journal
        .entries()
        .filter(|entry| wanted.matches(entry.id, entry.provider, entry.target.as_ref(), entry.identifier.as_ref()));
    let entries: Vec<&JournalEntry> = wanted.part(matching)?;
    Ok(told(&entries, world.journal.dropped()))
}

pub(super) async fn journal_entry(Of(world): Of, Named(id): Named<u64>) -> Result<Json<JournalEntry>, Refused> {
    let world = world.lock();
    let entry = world.journal.entries().find(|entry| entry.id == id).cloned();
    entry.map(Json).ok_or_else(|| Refused::not_found(format!("the journal has no entry {id}, or no longer")))
}

/// A part of the books or of the journal.
#[derive(Serialize)]
struct Told<'a, T> {
    entries: &'a [&'a T],
    dropped: u64,
}

fn told<T: Serialize>(entries: &[&T], dropped: u64) -> Response {
    Json(Told { entries, dropped }).into_response()
}

impl Wanted {
    fn matches(&self, id: u64, provider: Provider, target: Option<&String>, identifier: Option<&String>) -> bool {
        self.after.is_none_or(|after| id > after)
            && self.provider.is_none_or(|wanted| wanted == provider)
            && self.target.as_ref().is_none_or(|wanted| target == Some(wanted))
            && self.identifier.as_ref().is_none_or(|wanted| identifier == Some(wanted))
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
