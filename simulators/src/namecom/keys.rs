//! Idempotency keys: a first answer is kept, and given again.
//!
//! A key belongs to an account and lives for a set time from its first use. Requests are answered one after another, so a key
//! that is "in flight" cannot be met: the second request waits and gets the first one's answer.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::refusals::{Refusal, json_bytes};
use super::{KeyComparison, Settings};
use crate::exchange::Answer;

const KEY_HEADER: &str = "x-idempotency-key";
const REPLAY_HEADER: &str = "x-idempotent-replay";

/// So that endless fresh keys cannot fill the memory; the oldest is forgotten first. Far above what a key's life at the rate
/// limit allows (20 per second for one hour is 72 000).
const KEYS_PER_ACCOUNT: usize = 100_000;

/// The remembered answers of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    kept: BTreeMap<String, Kept>,
    /// The keys in the order of their first use.
    oldest_first: VecDeque<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(with = "time::serde::rfc3339")]
    first_used: OffsetDateTime,
    request: String,
    status: u16,
    answer: String,
}

/// The key as sent. An empty one counts as none (unknown).
pub(super) fn key_in(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(KEY_HEADER)?;
    let key = String::from_utf8_lossy(value.as_bytes()).into_owned();
    (!key.is_empty()).then_some(key)
}

/// Repeats the caller's key on an answer, as documented for 200.
pub(super) fn echo(answer: &mut Answer, headers: &HeaderMap) {
    if let Some(key) = headers.get(KEY_HEADER).filter(|_| answer.status == StatusCode::OK) {
        answer.headers.insert(KEY_HEADER, key.clone());
    }
}

impl Keys {
    /// The first answer under this key, marked as a replay; none where the key is new or its life is over.
    pub(super) fn replay(
        &mut self,
        key: &str,
        body: &[u8],
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<Option<Answer>, Refusal> {
        self.forget_before(now, settings);
        let Some(kept) = self.kept.get(key) else { return Ok(None) };
        if !kept.is_for(body, settings.key_comparison) {
            return Err(Refusal::KeyReused);
        }
        let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
        let mut answer = json_bytes(status, Bytes::from(kept.answer.clone()));
        answer.headers.insert(REPLAY_HEADER, HeaderValue::from_static("1"));
        Ok(Some(answer))
    }

    /// Keeps the first answer given under a key.
    pub(super) fn remember(&mut self, key: String, body: &[u8], answer: &Answer, now: OffsetDateTime) {
        if self.oldest_first.len() >= KEYS_PER_ACCOUNT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let kept = Kept {
            first_used: now,
            request: String::from_utf8_lossy(body).into_owned(),
            status: answer.status.as_u16(),
            answer: String::from_utf8_lossy(&answer.body).into_owned(),
        };
        self.oldest_first.push_back(key.clone());
        self.kept.insert(key, kept);
    }

    fn forget_before(&mut self, now: OffsetDateTime, settings: &Settings) {
        let life = Duration::seconds(settings.key_life_seconds.min(MAX_LIFE_SECONDS) as i64);
        while let Some(oldest) = self.oldest_first.front() {
            if self.kept.get(oldest).is_some_and(|kept| now - kept.first_used < life) {
                break;
            }
            self.kept.remove(oldest);
            self.oldest_first.pop_front();
        }
    }
}

/// A hundred years: longer lives are all the same, and this one can be computed with.
const MAX_LIFE_SECONDS: u64 = 100 * 365 * 24 * 3600;

impl Kept {
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
