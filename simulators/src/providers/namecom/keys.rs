//! Idempotency keys: a first answer is kept, and given again.
//!
//! A key belongs to an account and lives for a set time from its first use. Requests are answered
//! one after another, so a key that is "in flight" cannot be met: the second request waits and gets
//! the first one's answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::refusals::{Refusal, json_bytes};
use super::{EmptyKey, KeyComparison, Settings};
use crate::{
    record::packed::{Packer, Phrases, Unpacker},
    request::Answer,
};

const KEY_HEADER: &str = "x-idempotency-key";
const REPLAY_HEADER: &str = "x-idempotent-replay";

/// So that endless fresh keys cannot fill the memory; the oldest is forgotten first. Far above what
/// a key's life at the rate limit allows (20 per second for one hour is 72 000).
const KEYS_PER_ACCOUNT: usize = 100_000;

/// The remembered answers of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub(super) struct Keys {
    kept: HashMap<Arc<str>, Packed>,
    /// The keys in the order of their first use.
    oldest_first: VecDeque<Arc<str>>,
}

/// The keys in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    kept: BTreeMap<String, Kept>,
    oldest_first: VecDeque<String>,
}

/// What is kept under a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(with = "time::serde::rfc3339")]
    first_used: OffsetDateTime,
    request: String,
    status: u16,
    answer: String,
}

/// The same, small: an hour can have tens of thousands of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packed(Box<[u8]>);

/// The key as sent.
pub(super) fn key_in(headers: &HeaderMap, empty: EmptyKey) -> Option<String> {
    let value = headers.get(KEY_HEADER)?;
    let key = String::from_utf8_lossy(value.as_bytes()).into_owned();
    (!key.is_empty() || empty == EmptyKey::Key).then_some(key)
}

/// Repeats the caller's key on an answer, as documented for 200.
pub(super) fn echo(answer: &mut Answer, headers: &HeaderMap) {
    if let Some(key) = headers.get(KEY_HEADER).filter(|_| answer.status == StatusCode::OK) {
        answer.headers.insert(KEY_HEADER, key.clone());
    }
}

impl Keys {
    /// The first answer under this key, marked as a replay; none where the key is new or its life
    /// is over.
    pub(super) fn replay(
        &mut self,
        key: &str,
        body: &[u8],
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<Option<Answer>, Refusal> {
        self.forget_before(now, settings);
        let Some(kept) = self.kept.get(key).map(Packed::open) else { return Ok(None) };
        if !kept.is_for(body, settings.key_comparison) {
            return Err(Refusal::KeyReused);
        }
        let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
        let mut answer = json_bytes(status, Bytes::from(kept.answer));
        answer.headers.insert(REPLAY_HEADER, HeaderValue::from_static("1"));
        Ok(Some(answer))
    }

    /// Keeps the first answer given under a key.
    pub(super) fn remember(&mut self, key: &str, body: &[u8], answer: &Answer, now: OffsetDateTime) {
        if self.oldest_first.len() >= KEYS_PER_ACCOUNT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let (request, told) = (String::from_utf8_lossy(body), String::from_utf8_lossy(&answer.body));
        let key: Arc<str> = key.into();
        self.oldest_first.push_back(key.clone());
        self.kept.insert(key, Packed::new(now, &request, answer.status.as_u16(), &told));
    }

    fn forget_before(&mut self, now: OffsetDateTime, settings: &Settings) {
        let life = Duration::seconds(settings.key_life_seconds.min(MAX_LIFE_SECONDS) as i64);
        while let Some(oldest) = self.oldest_first.front() {
            if self.kept.get(oldest).is_some_and(|kept| now - kept.first_used() < life) {
                break;
            }
            self.kept.remove(oldest);
            self.oldest_first.pop_front();
        }
    }
}

/// What nearly every request and answer that is kept consists of.
static PHRASES: Phrases = Phrases::new(&[
    "{\"results\":[{\"orderId\":",
    ",\"orderItemId\":",
    ",\"orderItemStatus\":\"refunded\",\"refundAmount\":",
    ",\"message\":\"Domain successfully deleted and refund processed.\"}",
    "],\"totalRefundAmount\":",
    "{\"orderId\": ",
    "{\"orderId\":",
    ",\"orderItemIds\":[",
    ", \"orderItemIds\": [",
]);

/// A hundred years: longer lives are all the same, and this one can be computed with.
const MAX_LIFE_SECONDS: u64 = 100 * 365 * 24 * 3600;

impl Packed {
    fn new(first_used: OffsetDateTime, request: &str, status: u16, answer: &str) -> Packed {
        let packer = Packer::default().time(first_used).number(status.into());
        Packed(packer.phrased(&PHRASES, request).phrased(&PHRASES, answer).done())
    }

    fn first_used(&self) -> OffsetDateTime {
        Unpacker::new(&self.0).time()
    }

    fn open(&self) -> Kept {
        let mut packed = Unpacker::new(&self.0);
        Kept {
            first_used: packed.time(),
            status: u16::try_from(packed.number()).unwrap_or_default(),
            request: packed.phrased(&PHRASES),
            answer: packed.phrased(&PHRASES),
        }
    }
}

impl From<Keys> for Written {
    fn from(keys: Keys) -> Written {
        Written {
            kept: keys.kept.iter().map(|(key, kept)| (key.to_string(), kept.open())).collect(),
            oldest_first: keys.oldest_first.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<Written> for Keys {
    fn from(written: Written) -> Keys {
        let packed = |kept: &Kept| Packed::new(kept.first_used, &kept.request, kept.status, &kept.answer);
        Keys {
            kept: written.kept.iter().map(|(key, kept)| (key.as_str().into(), packed(kept))).collect(),
            oldest_first: written.oldest_first.iter().map(|key| key.as_str().into()).collect(),
        }
    }
}

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
