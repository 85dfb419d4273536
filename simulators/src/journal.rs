//! The journal: every wire request, what became of it, and what was told to the client.
//!
//! An entry is opened when the request has been read whole and closed before the answer leaves, so that a client that has its
//! answer finds the entry complete. Secrets never get here: the providers mask the parameters, and neither headers nor query are kept.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    books::Attempt,
    exchange::{Answer, Identified, Provider, Request},
    faults::RuleId,
};

/// How many entries are kept; the oldest go first, and [`Journal::dropped`] says how many went.
pub const KEPT: usize = 10_000;
/// About how many bytes of text all kept entries may hold together, so that long answers cannot grow the process.
pub const KEPT_BYTES: usize = 16 * 1024 * 1024;
/// How much of one answer is kept.
pub const ANSWER_KEPT: usize = 8 * 1024;
/// How much of one text of the request is kept: a parameter, the path, a name.
pub const TEXT_KEPT: usize = 1024;
/// How many parameters of one request are kept, on every level together.
pub const PARAMETERS_KEPT: usize = 64;

/// One wire request and its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When the request had been read, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Whose port it came to.
    pub provider: Provider,
    /// The connection, counted from 1 since the start over all ports.
    pub connection: u64,
    /// Which request on that connection: 1 for the first.
    pub ordinal: u64,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The HTTP method.
    pub method: String,
    /// The path as sent, without the query.
    pub path: String,
    /// The provider's own name for the call; empty where there is none.
    pub operation: String,
    /// What the call was about.
    pub target: Option<String>,
    /// The account name in the request.
    pub username: Option<String>,
    /// The idempotency key or refund identifier in the request.
    pub identifier: Option<String>,
    /// Which request for this operation and target it was since the start or the last reset: the `attempt` of a fault rule.
    pub attempt: u64,
    /// The parsed parameters, every secret masked, long texts cut.
    pub parameters: serde_json::Value,
    /// Whether an answered call of this kind would move money.
    pub moves_money: bool,
    /// Whether it was a trap that no refund client should ever call.
    pub destructive: bool,
    /// An earlier request that this one looks like a client's hidden re-send of: a refund with the same method, path, query and body, on
    /// another connection, and no key or identifier by which the provider could tell them apart.
    #[serde(default)]
    pub suspected_resend_of: Option<u64>,
    /// The fault rules that fired on it, in order.
    pub rules: Vec<RuleId>,
    /// What it did: ids of the books.
    pub effects: Vec<u64>,
    /// The HTTP status of the answer that went out; none where none did.
    pub status: Option<u16>,
    /// The answer's body as text, at most [`ANSWER_KEPT`] bytes of it, secrets in it masked; none where it is no UTF-8.
    pub answer: Option<String>,
    /// The answer's body in Base64, at most [`ANSWER_KEPT`] bytes of it, where it is no UTF-8.
    #[serde(default)]
    pub answer_base64: Option<String>,
    /// How long the answer's body was, in bytes.
    pub answer_bytes: usize,
    /// How it ended for the client.
    pub ending: Ending,
    /// What the request was, for the search for re-sends.
    #[serde(skip)]
    fingerprint: u64,
}

/// How an exchange ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not: the request is still being worked on, waits in a delay or at a gate, or its answer is on its way.
    Open,
    /// Answered; the connection stayed open for a next request.
    KeptAlive,
    /// Answered; the connection was closed behind the answer, as the client had asked, or as a rule said.
    ClosedAfterAnswer,
    /// Answered; a rule reset the connection behind the answer (RST).
    ResetAfterAnswer,
    /// Closed without an answer, by a rule (FIN).
    ClosedWithoutAnswer,
    /// A rule reset the connection without an answer (RST).
    ResetWithoutAnswer,
    /// A rule kept the answer back; the connection stayed open.
    NeverAnswered,
    /// A rule closed the connection in the middle of the answer (FIN): `answer_bytes` of its body went out.
    Truncated,
    /// A rule reset the connection in the middle of the answer (RST): `answer_bytes` of its body went out.
    ResetInAnswer,
    /// A rule kept the rest of the answer back: `answer_bytes` of its body went out, and the connection stayed open.
    StalledInAnswer,
    /// A rule turned the connection away as soon as it was accepted (RST); there was no request.
    Refused,
    /// A rule turned the TLS handshake away; there was no request.
    TlsRefused,
    /// The client had gone before the answer was there, or before all of it was.
    ClientGone,
}

/// Where and how a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The connection, counted from 1 over all ports.
    pub connection: u64,
    /// Which request on it.
    pub ordinal: u64,
}

/// Every wire request since the start or the last reset, in order of arrival, as far as kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Kept", from = "Kept")]
pub struct Journal {
    entries: VecDeque<JournalEntry>,
    bytes: usize,
    opened: u64,
    /// The last request of each fingerprint, among those kept.
    last_sent: HashMap<u64, u64>,
}

/// A journal in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Kept {
    entries: VecDeque<JournalEntry>,
    opened: u64,
}

impl Journal {
    /// Opens an entry and tells its id.
    pub fn open(
        &mut self,
        time: OffsetDateTime,
        provider: Provider,
        arrival: Arrival,
        request: &Request,
        identified: &Identified,
        attempt: u64,
    ) -> u64 {
        let may_be_a_resend = identified.moves_money && identified.identifier.is_none();
        let fingerprint = fingerprint(provider, request);
        let earlier = self.last_sent.get(&fingerprint).and_then(|id| self.get(*id));
        let earlier = earlier.filter(|earlier| may_be_a_resend && earlier.connection != arrival.connection);
        let suspected_resend_of = earlier.map(|earlier| earlier.id);
        self.opened += 1;
        if may_be_a_resend {
            self.last_sent.insert(fingerprint, self.opened);
        }
        let short = |text: &Option<String>| text.as_deref().map(|text| cut(text, TEXT_KEPT));
        let entry = JournalEntry {
            id: self.opened,
            time,
            provider,
            connection: arrival.connection,
            ordinal: arrival.ordinal,
            tls: request.tls,
            method: cut(request.method.as_str(), TEXT_KEPT),
            path: cut(&request.path, TEXT_KEPT),
            operation: identified.operation.clone(),
            target: short(&identified.target),
            username: short(&identified.username),
            identifier: short(&identified.identifier),
            attempt,
            parameters: shortened(&identified.parameters, &mut { PARAMETERS_KEPT }),
            moves_money: identified.moves_money,
            destructive: identified.destructive,
            suspected_resend_of,
            rules: Vec::new(),
            effects: Vec::new(),
            status: None,
            answer: None,
            answer_base64: None,
            answer_bytes: 0,
            ending: Ending::Open,
            fingerprint,
        };
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        self.drop_oldest();
        self.opened
    }

    /// Opens an entry for a connection of which nothing was read: it has neither method nor path, and no call.
    pub fn open_unread(&mut self, time: OffsetDateTime, provider: Provider, arrival: Arrival, tls: bool) -> u64 {
        let nothing = Request {
            method: http::Method::GET,
            path: String::new(),
            query: None,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            tls,
        };
        let id = self.open(time, provider, arrival, &nothing, &Identified::default(), 0);
        self.change(id, |entry| entry.method.clear());
        id
    }

    /// Adds the rules that fired at one point.
    pub fn rules(&mut self, id: u64, rules: impl IntoIterator<Item = RuleId>) {
        self.change(id, |entry| entry.rules.extend(rules));
    }

    /// Adds what the request did.
    pub fn effects(&mut self, id: u64, effects: Vec<u64>) {
        self.change(id, |entry| entry.effects = effects);
    }

    /// Closes an entry.
    pub fn close(&mut self, id: u64, answer: Option<&Answer>, ending: Ending) {
        self.change(id, |entry| {
            entry.ending = ending;
            if let Some(answer) = answer {
                entry.status = Some(answer.status.as_u16());
                entry.answer_bytes = answer.body.len();
                match std::str::from_utf8(&answer.body) {
                    Ok(text) => entry.answer = Some(cut(&masked(text), ANSWER_KEPT)),
                    Err(_) => {
                        let kept = answer.body.get(..ANSWER_KEPT).unwrap_or(&answer.body);
                        entry.answer_base64 = Some(BASE64_STANDARD.encode(kept));
                    }
                }
            }
        });
    }

    /// One entry, if it is still kept.
    pub fn get(&self, id: u64) -> Option<&JournalEntry> {
        self.entries.get(self.index(id)?)
    }

    /// How a request stands among others.
    pub(crate) fn attempt(&self, id: u64) -> Option<Attempt> {
        let JournalEntry { attempt, connection, ordinal, .. } = *self.get(id)?;
        Some(Attempt { number: attempt, connection, ordinal })
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &JournalEntry> {
        self.entries.iter()
    }

    /// How many entries were opened and are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.opened.saturating_sub(self.entries.len() as u64)
    }

    /// An entry that has been dropped meanwhile is nobody's loss.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut JournalEntry)) {
        let Some(entry) = self.index(id).and_then(|index| self.entries.get_mut(index)) else { return };
        let before = weight(entry);
        change(entry);
        self.bytes = self.bytes - before + weight(entry);
        self.drop_oldest();
    }

    fn index(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.dropped() + 1)?).ok()
    }

    fn drop_oldest(&mut self) {
        while self.entries.len() > KEPT || (self.bytes > KEPT_BYTES && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= weight(&oldest);
            if self.last_sent.get(&oldest.fingerprint) == Some(&oldest.id) {
                self.last_sent.remove(&oldest.fingerprint);
            }
        }
    }
}

impl From<Journal> for Kept {
    fn from(journal: Journal) -> Kept {
        Kept { entries: journal.entries, opened: journal.opened }
    }
}

impl From<Kept> for Journal {
    fn from(Kept { entries, opened }: Kept) -> Journal {
        let opened = opened.max(entries.len() as u64);
        let mut journal =
            Journal { bytes: entries.iter().map(weight).sum(), entries, opened, last_sent: HashMap::new() };
        journal.drop_oldest();
        journal
    }
}

/// Two requests of one fingerprint say the same.
fn fingerprint(provider: Provider, request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    (provider, request.method.as_str(), &request.path, &request.query, &request.body).hash(&mut hasher);
    hasher.finish()
}

/// An answer without what it entrusts to the client: the token for uploads at Sectigo.
fn masked(answer: &str) -> std::borrow::Cow<'_, str> {
    const BEFORE: &str = "\"uploadDocumentToken\":\"";
    let Some((before, token)) = answer.split_once(BEFORE) else { return answer.into() };
    // A token in Base64 has no quotes; were there an escaped one, too much would go rather than too little.
    let after = token.split_once("\",").or_else(|| token.split_once("\"}")).map_or("", |(_, after)| after);
    format!("{before}{BEFORE}***\",{after}").into()
}

/// About how many bytes an entry holds: its texts, and a round sum for all that is of fixed size.
fn weight(entry: &JournalEntry) -> usize {
    let texts = [&entry.target, &entry.username, &entry.identifier, &entry.answer, &entry.answer_base64];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    512 + entry.path.len() + entry.operation.len() + texts + parameters_weight(&entry.parameters)
}

fn parameters_weight(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => 32 + text.len(),
        serde_json::Value::Array(values) => 32 + values.iter().map(parameters_weight).sum::<usize>(),
        serde_json::Value::Object(fields) => {
            32 + fields.iter().map(|(name, value)| 64 + name.len() + parameters_weight(value)).sum::<usize>()
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 32,
    }
}

/// The same value with long texts cut and at most `left` values in all.
fn shortened(value: &serde_json::Value, left: &mut usize) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) => cut(text, TEXT_KEPT).into(),
        serde_json::Value::Array(values) => {
            let kept = values.iter().map_while(|value| take(left).map(|left| shortened(value, left)));
            kept.collect()
        }
        serde_json::Value::Object(fields) => {
            let kept = fields
                .iter()
                .map_while(|(name, value)| take(left).map(|left| (cut(name, TEXT_KEPT), shortened(value, left))));
            serde_json::Value::Object(kept.collect())
        }
        plain => plain.clone(),
    }
}

fn take(left: &mut usize) -> Option<&mut usize> {
    *left = left.checked_sub(1)?;
    Some(left)
}

fn cut(text: &str, bytes: usize) -> String {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};

    use super::*;

    fn opened(journal: &mut Journal, parameters: serde_json::Value) -> u64 {
        let request = Request {
            method: Method::POST,
            path: "/".to_owned(),
            query: None,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            tls: true,
        };
        let identified = Identified { parameters, ..Identified::default() };
        let arrival = Arrival { connection: 1, ordinal: 1 };
        journal.open(OffsetDateTime::UNIX_EPOCH, Provider::Sectigo, arrival, &request, &identified, 1)
    }

    #[test]
    fn the_oldest_go_first_and_the_count_says_so() {
        let mut journal = Journal::default();
        for _ in 0..KEPT + 5 {
            opened(&mut journal, serde_json::Value::Null);
        }
        assert_eq!(journal.dropped(), 5);
        assert_eq!(journal.entries().next().unwrap().id, 6);
        journal.close(1, None, Ending::ClientGone);
        journal.close(6, None, Ending::ClientGone);
        assert_eq!(journal.entries().next().unwrap().ending, Ending::ClientGone);
    }

    #[test]
    fn long_texts_are_cut_and_bytes_are_bounded() {
        let mut journal = Journal::default();
        let many: serde_json::Map<_, _> =
            (0..1000).map(|n| (format!("{n:04}"), serde_json::Value::from("ä".repeat(10_000)))).collect();
        for _ in 0..1000 {
            let id = opened(&mut journal, many.clone().into());
            let body = "x".repeat(100_000).into();
            let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body };
            journal.close(id, Some(&answer), Ending::KeptAlive);
        }
        assert!(journal.bytes <= KEPT_BYTES);
        assert_eq!(journal.dropped() + journal.entries().count() as u64, 1000);
        let entry = journal.entries().next().unwrap();
        assert_eq!(entry.parameters.as_object().unwrap().len(), PARAMETERS_KEPT);
        assert_eq!(entry.answer_bytes, 100_000);
        assert_eq!(entry.answer.as_ref().unwrap().len(), ANSWER_KEPT);
    }
}
