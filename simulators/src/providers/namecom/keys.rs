//! Idempotency keys: the first answer is stored and given again.
//!
//! A key belongs to an account and lives for a set time from its first use. A request whose key is
//! still in progress does not get here: the pipeline holds or refuses it first.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::refusals::{Refusal, json_bytes};
use super::{EmptyKey, KeyComparison, Settings};
use crate::{providers::overlay::Row, request::Response};

const KEY_HEADER: &str = "x-idempotency-key";
const REPLAY_HEADER: &str = "x-idempotent-replay";

/// Bounds the memory; the oldest key is dropped first. Far above what a key's life at the rate
/// limit allows (20 per second for one hour is 72 000).
const MAX_KEYS_PER_ACCOUNT: usize = 100_000;

/// A hundred years: longer lives make no difference, and this one cannot overflow.
const MAX_LIFE_SECONDS: u64 = 100 * 365 * 24 * 3600;

/// The stored answers of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    kept: BTreeMap<String, Row<StoredAnswer>>,
    /// The keys in the order of their first use.
    oldest_first: VecDeque<String>,
}

/// A first answer, with the request that it was given to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAnswer {
    #[serde(with = "time::serde::rfc3339")]
    first_used: OffsetDateTime,
    request: Box<str>,
    status: u16,
    answer: Box<str>,
}

/// The key as sent.
pub(super) fn key_in(headers: &HeaderMap, empty: EmptyKey) -> Option<String> {
    let value = headers.get(KEY_HEADER)?;
    let key = String::from_utf8_lossy(value.as_bytes()).into_owned();
    (!key.is_empty() || empty == EmptyKey::Key).then_some(key)
}

pub(super) fn remove_key(headers: &mut HeaderMap) {
    headers.remove(KEY_HEADER);
}

/// Repeats the caller's key on an answer, as documented for 200.
pub(super) fn echo(answer: &mut Response, headers: &HeaderMap) {
    if let Some(key) = headers.get(KEY_HEADER).filter(|_| answer.status == StatusCode::OK) {
        answer.headers.insert(KEY_HEADER, key.clone());
    }
}

/// Marks an answer as a replay of an earlier one.
pub(super) fn mark_replay(answer: &mut Response) {
    answer.headers.insert(REPLAY_HEADER, HeaderValue::from_static("1"));
}

impl Keys {
    /// The first answer under this key, marked as a replay; none if the key is new or has expired.
    pub(super) fn replay(
        &mut self,
        key: &str,
        body: &[u8],
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<Option<Response>, Refusal> {
        self.drop_expired(now, settings);
        let Some(stored) = self.kept.get(key) else { return Ok(None) };
        if !stored.is_for(body, settings.key_comparison) {
            return Err(Refusal::KeyReused);
        }
        let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
        let mut answer = json_bytes(status, Bytes::copy_from_slice(stored.answer.as_bytes()));
        mark_replay(&mut answer);
        Ok(Some(answer))
    }

    /// Stores the first answer given under a key.
    pub(super) fn remember(&mut self, key: &str, body: &[u8], answer: &Response, now: OffsetDateTime) {
        if self.oldest_first.len() >= MAX_KEYS_PER_ACCOUNT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let stored = StoredAnswer {
            first_used: now,
            request: String::from_utf8_lossy(body).into(),
            status: answer.status.as_u16(),
            answer: String::from_utf8_lossy(&answer.body).into(),
        };
        self.oldest_first.push_back(key.to_owned());
        self.kept.insert(key.to_owned(), Row::new(stored));
    }

    fn drop_expired(&mut self, now: OffsetDateTime, settings: &Settings) {
        let life = Duration::seconds(settings.key_life_seconds.min(MAX_LIFE_SECONDS) as i64);
        while let Some(oldest) = self.oldest_first.front() {
            if self.kept.get(oldest).is_some_and(|stored| now - stored.first_used < life) {
                break;
            }
            self.kept.remove(oldest);
            self.oldest_first.pop_front();
        }
    }
}

impl StoredAnswer {
    fn is_for(&self, body: &[u8], comparison: KeyComparison) -> bool {
        match comparison {
            KeyComparison::Bytes => self.request.as_bytes() == body,
            KeyComparison::ParsedJson => {
                let parsed = |bytes| serde_json::from_slice::<Value>(bytes).ok();
                parsed(self.request.as_bytes()) == parsed(body)
            }
        }
    }
}
