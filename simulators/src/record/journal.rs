//! The journal: every request, what became of it, and what the client received.
//!
//! An entry is opened when the whole request has been read, and closed before the answer is sent,
//! so that a client that has its answer finds the entry complete. It contains no secrets: the
//! providers mask the parameters, and `masking` masks headers, query and body.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime};

use crate::{
    faults::RuleId,
    record::books::Attempt,
    record::masking,
    record::parameters::cut,
    request::{Provider, Request, RequestInfo, Response},
};

/// The maximum number of entries kept. The oldest are dropped first, counted by
/// [`Journal::dropped`].
pub const MAX_ENTRIES: usize = 5_000;
/// The maximum size of all entries, in bytes (approximate).
pub const MAX_BYTES: usize = 12 * 1024 * 1024;
/// The maximum size of an answer that is kept, in bytes.
pub const MAX_ANSWER_BYTES: usize = 8 * 1024;
/// The maximum size of a request body that is kept, in bytes.
pub const MAX_BODY_BYTES: usize = 8 * 1024;
/// A refund that comes again with its key within this time was sent by a library.
pub const RESENT_WITHIN: Duration = Duration::SECOND;
/// The maximum length of a text of the request that is kept (a parameter, the path, a name), in
/// bytes.
pub const MAX_TEXT_BYTES: usize = 1024;
/// The maximum number of parameters of one request that are kept, on all levels.
pub const MAX_PARAMETERS: usize = 64;
/// The memory of an entry besides its parts: its place in the queue and the allocator's overhead.
const ENTRY_OVERHEAD: usize = 48;

/// One request and its end.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When the request had been read, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: OffsetDateTime,
    /// The provider whose port it came to.
    pub provider: Provider,
    /// The number of its connection, counted from 1 over all ports since the start.
    pub connection: u64,
    /// Its number on that connection, counted from 1.
    pub ordinal: u64,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The HTTP method.
    pub method: String,
    /// The path as sent, without the query.
    pub path: String,
    /// The query as sent, cut, with secrets masked.
    #[serde(default)]
    pub query: Option<String>,
    /// Names and values of the headers as sent, with credentials masked and long values cut.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body as sent, at most [`MAX_BODY_BYTES`] bytes, with secrets masked; none if it is empty
    /// or no UTF-8.
    #[serde(default)]
    #[schemars(description = "The body as sent, cut at 8 KiB, secrets masked; null where it is empty or not UTF-8.")]
    pub body: Option<String>,
    /// The body in Base64, cut likewise, if it is no UTF-8.
    #[serde(default)]
    pub body_base64: Option<String>,
    /// The length of the whole body, in bytes.
    #[serde(default)]
    pub body_bytes: usize,
    /// The provider's own name for the call; empty if the request is no call.
    pub operation: String,
    /// The target of the call.
    pub target: Option<String>,
    /// The account name in the request.
    pub username: Option<String>,
    /// The idempotency key or refund identifier in the request.
    pub identifier: Option<String>,
    /// Its number among the requests for this operation and target since the start or the last
    /// reset: the `attempt` of a fault rule.
    pub attempt: u64,
    /// The parsed parameters as JSON, in order, with secrets masked and long texts cut.
    #[schemars(with = "serde_json::Value")]
    pub parameters: Box<RawValue>,
    /// Whether a successful call of this kind moves money.
    pub moves_money: bool,
    /// Whether no refund client should ever make this call.
    pub destructive: bool,
    /// The earlier request that this one looks like a hidden re-send of, by an HTTP library: a
    /// refund with the same method, path, query and body on another connection. Without a key or
    /// identifier, always; with one, only if the earlier request got no answer and this one came
    /// within [`RESENT_WITHIN`].
    #[serde(default)]
    #[schemars(
        description = "The earlier request that this one looks like a hidden re-send of, by an HTTP library: a \
                       refund with the same method, path, query and body on another connection. Without a key or \
                       identifier, always; with one, only if the earlier request got no answer and this one came \
                       within a second."
    )]
    pub suspected_resend_of: Option<u64>,
    /// The fault rules that fired on it, in order.
    pub rules: Vec<RuleId>,
    /// Its effects: ids of the books.
    pub effects: Vec<u64>,
    /// The HTTP status of the answer; none if none was sent.
    pub status: Option<u16>,
    /// The answer's body, at most [`MAX_ANSWER_BYTES`] bytes, with secrets masked; none if it is no
    /// UTF-8.
    #[schemars(
        description = "The body of the answer as text, cut at 8 KiB, secrets masked; null where it is not UTF-8."
    )]
    pub answer: Option<String>,
    /// The answer's body in Base64, cut likewise, if it is no UTF-8.
    #[serde(default)]
    #[schemars(description = "The body of the answer in Base64, cut at 8 KiB, where it is not UTF-8.")]
    pub answer_base64: Option<String>,
    /// The length of the answer's whole body, in bytes.
    pub answer_bytes: usize,
    /// How it ended for the client.
    pub ending: Ending,
}

/// How a request ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Not ended: the request is being handled, waits in a delay or at a gate, or its answer is
    /// being sent.
    Open,
    /// Answered; the connection stayed open.
    KeptAlive,
    /// Answered; the connection was closed afterwards, as the client or a rule requested.
    ClosedAfterAnswer,
    /// Answered; a rule reset the connection afterwards (RST).
    ResetAfterAnswer,
    /// A rule closed the connection without an answer (FIN).
    ClosedWithoutAnswer,
    /// A rule reset the connection without an answer (RST).
    ResetWithoutAnswer,
    /// A rule withheld the answer; the connection stayed open.
    NeverAnswered,
    /// A rule closed the connection within the answer (FIN), after `answer_bytes` of its body.
    Truncated,
    /// A rule reset the connection within the answer (RST), after `answer_bytes` of its body.
    ResetInAnswer,
    /// A rule withheld the rest of the answer after `answer_bytes` of its body; the connection
    /// stayed open.
    StalledInAnswer,
    /// A rule reset the connection as soon as it was accepted (RST); there was no request.
    Refused,
    /// A rule refused the TLS handshake; there was no request.
    TlsRefused,
    /// The client disconnected before it had the whole answer.
    ClientGone,
}

/// The connection and position of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The number of its connection, counted from 1 over all ports.
    pub connection: u64,
    /// Its number on that connection, counted from 1.
    pub ordinal: u64,
}

/// Every request since the start or the last reset, in order of arrival, within the bounds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "JournalJson", from = "JournalJson")]
pub struct Journal {
    /// The index gives the id.
    lines: VecDeque<Box<JournalLine>>,
    bytes: usize,
    opened: u64,
    /// The last request of each fingerprint, among the kept ones that may be re-sent.
    last_sent: HashMap<u64, u64>,
}

/// A journal in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JournalJson {
    entries: VecDeque<JournalEntry>,
    opened: u64,
}

/// A stored entry.
#[derive(Debug, Clone)]
struct JournalLine {
    header: RequestHeader,
    /// The serialized [`RequestTexts`]: one allocation instead of dozens.
    texts: Box<[u8]>,
    rules: Box<[RuleId]>,
    effects: Box<[u64]>,
    answer: StoredBody,
    answer_bytes: usize,
    status: Option<u16>,
    ending: Ending,
}

/// What is known of a request when its entry is opened, without its texts.
#[derive(Debug, Clone)]
struct RequestHeader {
    time: OffsetDateTime,
    provider: Provider,
    arrival: Arrival,
    attempt: u64,
    tls: bool,
    moves_money: bool,
    destructive: bool,
    suspected_resend_of: Option<u64>,
    /// Identifies equal requests, if the request may be re-sent.
    fingerprint: Option<u64>,
}

/// The texts of a request.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RequestTexts<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<Cow<'a, str>>,
    operation: &'a str,
    target: Option<&'a str>,
    username: Option<&'a str>,
    identifier: Option<&'a str>,
    /// The parameters in JSON.
    parameters: Cow<'a, str>,
    #[serde(borrow)]
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: Cow<'a, [u8]>,
    body_bytes: usize,
}

/// The kept part of an answer's body.
#[derive(Debug, Clone)]
enum StoredBody {
    None,
    Text(Box<str>),
    /// No UTF-8.
    Bytes(Box<[u8]>),
}

impl Journal {
    /// Opens an entry and returns its id.
    pub fn open(
        &mut self,
        time: OffsetDateTime,
        provider: Provider,
        arrival: Arrival,
        request: &Request,
        info: &RequestInfo,
        attempt: u64,
    ) -> u64 {
        let fingerprint = info.moves_money.then(|| fingerprint(provider, request, info));
        let earlier = fingerprint.and_then(|fingerprint| self.last_sent.get(&fingerprint).copied());
        let is_resend_of = |id: &u64| {
            let Some(line) = self.line(*id) else { return false };
            let came_at_once = time - line.header.time <= RESENT_WITHIN;
            line.header.arrival.connection != arrival.connection
                && (info.identifier.is_none() || (line.ending.is_without_answer() && came_at_once))
        };
        let suspected_resend_of = earlier.filter(is_resend_of);
        let header = RequestHeader {
            attempt,
            moves_money: info.moves_money,
            destructive: info.destructive,
            suspected_resend_of,
            fingerprint,
            ..RequestHeader::unread(time, provider, arrival, request.tls)
        };
        let texts = RequestTexts {
            method: cut(request.method.as_str(), MAX_TEXT_BYTES),
            path: cut(&request.path, MAX_TEXT_BYTES),
            query: request.query.as_deref().map(|query| masking::query(query, MAX_TEXT_BYTES).into()),
            operation: &info.operation,
            target: info.target.as_deref().map(|text| cut(text, MAX_TEXT_BYTES)),
            username: info.username.as_deref().map(|text| cut(text, MAX_TEXT_BYTES)),
            identifier: info.identifier.as_deref().map(|text| cut(text, MAX_TEXT_BYTES)),
            parameters: info.parameters.text(MAX_TEXT_BYTES, MAX_PARAMETERS).into(),
            headers: masking::headers(&request.headers),
            body: masking::body(provider.body_format(), &request.body, MAX_BODY_BYTES),
            body_bytes: request.body.len(),
        };
        let id = self.push(JournalLine::new(header, &texts));
        if let Some(fingerprint) = fingerprint {
            self.last_sent.insert(fingerprint, id);
        }
        id
    }

    /// Opens an entry for a connection on which nothing was read: it has neither method nor path,
    /// and no call.
    pub fn open_unread(&mut self, time: OffsetDateTime, provider: Provider, arrival: Arrival, tls: bool) -> u64 {
        let header = RequestHeader::unread(time, provider, arrival, tls);
        self.push(JournalLine::new(header, &RequestTexts { parameters: "null".into(), ..RequestTexts::default() }))
    }

    /// Adds the rules that fired at one point.
    pub fn rules(&mut self, id: u64, rules: impl IntoIterator<Item = RuleId>) {
        self.change(id, |line| line.rules = line.rules.iter().copied().chain(rules).collect());
    }

    /// Sets the effects of the request.
    pub fn effects(&mut self, id: u64, effects: Vec<u64>) {
        self.change(id, |line| line.effects = effects.into());
    }

    /// Closes an entry.
    pub fn close(&mut self, id: u64, answer: Option<&Response>, ending: Ending) {
        self.change(id, |line| {
            line.ending = ending;
            if let Some(answer) = answer {
                line.status = Some(answer.status.as_u16());
                line.answer_bytes = answer.body.len();
                line.answer = match std::str::from_utf8(&answer.body) {
                    Ok(text) => {
                        let masked = line.header.provider.mask_answer(text);
                        StoredBody::Text(cut(&masked, MAX_ANSWER_BYTES).into())
                    }
                    Err(_) => StoredBody::Bytes(answer.body.get(..MAX_ANSWER_BYTES).unwrap_or(&answer.body).into()),
                };
            }
        });
    }

    /// One entry, if it is still kept.
    pub fn get(&self, id: u64) -> Option<JournalEntry> {
        Some(self.line(id)?.entry(id))
    }

    /// The position of a request among others.
    pub(crate) fn attempt(&self, id: u64) -> Option<Attempt> {
        let RequestHeader { attempt, arrival: Arrival { connection, ordinal }, .. } = self.line(id)?.header;
        Some(Attempt { number: attempt, connection, ordinal })
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = JournalEntry> {
        let first = self.dropped() + 1;
        self.lines.iter().enumerate().map(move |(index, line)| line.entry(first + index as u64))
    }

    /// The number of entries opened since the start or the last reset.
    pub fn total(&self) -> u64 {
        self.opened
    }

    /// The number of entries that are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.opened.saturating_sub(self.lines.len() as u64)
    }

    fn push(&mut self, line: JournalLine) -> u64 {
        self.opened += 1;
        self.bytes += line.size();
        self.lines.push_back(Box::new(line));
        self.drop_oldest();
        self.opened
    }

    /// Changes an entry. Does nothing if it has been dropped meanwhile.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut JournalLine)) {
        let Some(line) = self.index(id).and_then(|index| self.lines.get_mut(index)) else { return };
        let before = line.size();
        change(line);
        self.bytes = self.bytes - before + line.size();
        self.drop_oldest();
    }

    fn line(&self, id: u64) -> Option<&JournalLine> {
        self.lines.get(self.index(id)?).map(|line| &**line)
    }

    fn index(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.dropped() + 1)?).ok()
    }

    fn drop_oldest(&mut self) {
        while self.lines.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.lines.len() > 1) {
            let id = self.dropped() + 1;
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.size();
            if let Some(fingerprint) = oldest.header.fingerprint
                && self.last_sent.get(&fingerprint) == Some(&id)
            {
                self.last_sent.remove(&fingerprint);
            }
        }
    }
}

impl RequestHeader {
    fn unread(time: OffsetDateTime, provider: Provider, arrival: Arrival, tls: bool) -> Self {
        RequestHeader {
            time,
            provider,
            arrival,
            attempt: 0,
            tls,
            moves_money: false,
            destructive: false,
            suspected_resend_of: None,
            fingerprint: None,
        }
    }
}

impl JournalLine {
    fn new(header: RequestHeader, texts: &RequestTexts<'_>) -> JournalLine {
        JournalLine {
            header,
            texts: postcard::to_allocvec(texts).expect("texts can be serialized").into_boxed_slice(),
            rules: Box::default(),
            effects: Box::default(),
            answer: StoredBody::None,
            answer_bytes: 0,
            status: None,
            ending: Ending::Open,
        }
    }

    fn of(entry: &JournalEntry) -> JournalLine {
        let body = entry.body_base64.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let headers = entry.headers.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str())));
        let bytes = entry.answer_base64.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let text = entry.answer.as_deref().map_or(StoredBody::None, |text| StoredBody::Text(text.into()));
        let arrival = Arrival { connection: entry.connection, ordinal: entry.ordinal };
        let header = RequestHeader {
            attempt: entry.attempt,
            moves_money: entry.moves_money,
            destructive: entry.destructive,
            suspected_resend_of: entry.suspected_resend_of,
            ..RequestHeader::unread(entry.time, entry.provider, arrival, entry.tls)
        };
        let texts = RequestTexts {
            method: &entry.method,
            path: &entry.path,
            query: entry.query.as_deref().map(Cow::Borrowed),
            operation: &entry.operation,
            target: entry.target.as_deref(),
            username: entry.username.as_deref(),
            identifier: entry.identifier.as_deref(),
            parameters: entry.parameters.get().into(),
            headers: headers.collect(),
            body: body.map_or_else(|| entry.body.as_deref().unwrap_or_default().as_bytes().into(), Cow::Owned),
            body_bytes: entry.body_bytes,
        };
        JournalLine {
            rules: entry.rules.clone().into(),
            effects: entry.effects.clone().into(),
            status: entry.status,
            answer: bytes.map_or(text, |bytes| StoredBody::Bytes(bytes.into())),
            answer_bytes: entry.answer_bytes,
            ending: entry.ending,
            ..JournalLine::new(header, &texts)
        }
    }

    fn entry(&self, id: u64) -> JournalEntry {
        let header = &self.header;
        let texts: RequestTexts<'_> =
            postcard::from_bytes(&self.texts).expect("the texts are read as they were written");
        let (body, body_base64) = match std::str::from_utf8(&texts.body) {
            Ok("") => (None, None),
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64_STANDARD.encode(&texts.body))),
        };
        let parameters = RawValue::from_string(texts.parameters.into_owned());
        let (answer, answer_base64) = match &self.answer {
            StoredBody::None => (None, None),
            StoredBody::Text(text) => (Some(text.to_string()), None),
            StoredBody::Bytes(bytes) => (None, Some(BASE64_STANDARD.encode(bytes))),
        };
        let headers = texts.headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_owned()));
        JournalEntry {
            id,
            time: header.time,
            provider: header.provider,
            connection: header.arrival.connection,
            ordinal: header.arrival.ordinal,
            tls: header.tls,
            method: texts.method.to_owned(),
            path: texts.path.to_owned(),
            query: texts.query.map(Cow::into_owned),
            headers: headers.collect(),
            body,
            body_base64,
            body_bytes: texts.body_bytes,
            operation: texts.operation.to_owned(),
            target: texts.target.map(str::to_owned),
            username: texts.username.map(str::to_owned),
            identifier: texts.identifier.map(str::to_owned),
            attempt: header.attempt,
            parameters: parameters.unwrap_or_else(|_| RawValue::NULL.to_owned()),
            moves_money: header.moves_money,
            destructive: header.destructive,
            suspected_resend_of: header.suspected_resend_of,
            rules: self.rules.to_vec(),
            effects: self.effects.to_vec(),
            status: self.status,
            answer,
            answer_base64,
            answer_bytes: self.answer_bytes,
            ending: self.ending,
        }
    }

    /// Its memory in bytes, approximately.
    fn size(&self) -> usize {
        let answer = match &self.answer {
            StoredBody::None => 0,
            StoredBody::Text(text) => text.len(),
            StoredBody::Bytes(bytes) => bytes.len(),
        };
        size_of::<Self>() + self.texts.len() + answer + 8 * (self.rules.len() + self.effects.len()) + ENTRY_OVERHEAD
    }
}

impl Ending {
    /// Whether not even the head of an answer reached the client.
    fn is_without_answer(self) -> bool {
        match self {
            Ending::Open
            | Ending::ClosedWithoutAnswer
            | Ending::ResetWithoutAnswer
            | Ending::NeverAnswered
            | Ending::ClientGone => true,
            Ending::KeptAlive
            | Ending::ClosedAfterAnswer
            | Ending::ResetAfterAnswer
            | Ending::Truncated
            | Ending::ResetInAnswer
            | Ending::StalledInAnswer
            | Ending::Refused
            | Ending::TlsRefused => false,
        }
    }
}

impl From<Journal> for JournalJson {
    fn from(journal: Journal) -> JournalJson {
        JournalJson { entries: journal.entries().collect(), opened: journal.opened }
    }
}

impl From<JournalJson> for Journal {
    fn from(JournalJson { entries, opened }: JournalJson) -> Journal {
        let mut journal = Journal::default();
        for entry in &entries {
            journal.push(JournalLine::of(entry));
        }
        journal.opened = opened.max(entries.len() as u64);
        journal
    }
}

/// Equal for requests with the same content and the same key or identifier.
fn fingerprint(provider: Provider, request: &Request, info: &RequestInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (provider, request.method.as_str(), &request.path, &request.query, &request.body).hash(&mut hasher);
    info.identifier.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};
    use serde_json::Value;

    use super::*;

    fn opened(journal: &mut Journal, parameters: Value) -> u64 {
        let request = Request::new(Method::POST, "/", HeaderMap::new(), bytes::Bytes::new(), true);
        let info = RequestInfo { parameters: parameters.into(), ..RequestInfo::default() };
        let arrival = Arrival { connection: 1, ordinal: 1 };
        journal.open(OffsetDateTime::UNIX_EPOCH, Provider::Sectigo, arrival, &request, &info, 1)
    }

    #[test]
    fn the_oldest_entries_are_dropped_first_and_counted() {
        let mut journal = Journal::default();
        for _ in 0..MAX_ENTRIES + 5 {
            opened(&mut journal, Value::Null);
        }
        assert_eq!(journal.dropped(), 5);
        assert_eq!(journal.entries().next().unwrap().id, 6);
        journal.close(1, None, Ending::ClientGone);
        journal.close(6, None, Ending::ClientGone);
        assert_eq!(journal.entries().next().unwrap().ending, Ending::ClientGone);
    }

    #[test]
    fn long_texts_are_cut_and_the_size_is_bounded() {
        let mut journal = Journal::default();
        let many: serde_json::Map<_, _> =
            (0..1000).map(|n| (format!("{n:04}"), Value::from("ä".repeat(10_000)))).collect();
        for _ in 0..1000 {
            let id = opened(&mut journal, many.clone().into());
            let body = "x".repeat(100_000).into();
            let answer = Response { status: StatusCode::OK, headers: HeaderMap::new(), body };
            journal.close(id, Some(&answer), Ending::KeptAlive);
        }
        assert!(journal.bytes <= MAX_BYTES);
        assert_eq!(journal.dropped() + journal.entries().count() as u64, 1000);
        let entry = journal.entries().next().unwrap();
        let parameters: serde_json::Map<String, Value> = serde_json::from_str(entry.parameters.get()).unwrap();
        assert_eq!(parameters.len(), MAX_PARAMETERS);
        assert_eq!(entry.answer_bytes, 100_000);
        assert_eq!(entry.answer.as_ref().unwrap().len(), MAX_ANSWER_BYTES);
    }

    #[test]
    fn a_journal_survives_json() {
        let mut journal = Journal::default();
        for body in [&b"text"[..], b"\xFF\x00", b"</a:DateCreated><a:Id>"] {
            let id = opened(&mut journal, serde_json::json!({ "name": ["ä", null, 1.5] }));
            journal.rules(id, [RuleId(3)]);
            journal.rules(id, [RuleId(4)]);
            journal.effects(id, vec![5]);
            let answer = Response { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() };
            journal.close(id, Some(&answer), Ending::KeptAlive);
        }
        let arrival = Arrival { connection: 2, ordinal: 1 };
        journal.open_unread(OffsetDateTime::UNIX_EPOCH, Provider::Namecom, arrival, false);
        let written = serde_json::to_value(&journal).unwrap();
        assert_eq!(written["entries"][0]["parameters"]["name"][0], "ä");
        assert_eq!(written["entries"][1]["answer_base64"], "/wA=");
        let again: Journal = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), written);
        assert_eq!(again.opened, 4);
    }
}
