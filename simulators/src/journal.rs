//! The journal: every wire request, what became of it, and what was told to the client.
//!
//! An entry is opened when the request has been read whole and closed before the answer leaves, so that a client that has its
//! answer finds the entry complete. Secrets never get here: the providers mask the parameters, and neither headers nor query are kept.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// The fault rules that fired on it, in order.
    pub rules: Vec<RuleId>,
    /// What it did: ids of the books.
    pub effects: Vec<u64>,
    /// The HTTP status of the answer that went out; none where none did.
    pub status: Option<u16>,
    /// The answer's body as text, at most [`ANSWER_KEPT`] bytes of it.
    pub answer: Option<String>,
    /// How long the answer's body was, in bytes.
    pub answer_bytes: usize,
    /// How it ended for the client.
    pub ending: Ending,
}

/// How an exchange ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not: the request is still being worked on, or waits in a delay.
    Open,
    /// Answered; the connection stayed open for a next request.
    KeptAlive,
    /// Answered; the connection was closed behind the answer, as the client had asked.
    ClosedAfterAnswer,
    /// A fault closed the connection without an answer.
    ClosedWithoutAnswer,
    /// The client had gone before the answer was there.
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
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: VecDeque<JournalEntry>,
    bytes: usize,
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
        self.opened += 1;
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
            rules: Vec::new(),
            effects: Vec::new(),
            status: None,
            answer: None,
            answer_bytes: 0,
            ending: Ending::Open,
        };
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        self.drop_oldest();
        self.opened
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
                entry.answer = Some(cut(&String::from_utf8_lossy(&answer.body), ANSWER_KEPT));
            }
        });
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &JournalEntry> {
        self.entries.iter()
    }

    /// How many entries were opened and are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.opened - self.entries.len() as u64
    }

    /// An entry that has been dropped meanwhile is nobody's loss.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut JournalEntry)) {
        let Some(index) = id.checked_sub(self.dropped() + 1).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(index) else { return };
        let before = weight(entry);
        change(entry);
        self.bytes = self.bytes - before + weight(entry);
        self.drop_oldest();
    }

    fn drop_oldest(&mut self) {
        while self.entries.len() > KEPT || (self.bytes > KEPT_BYTES && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= weight(&oldest);
        }
    }
}

/// About how many bytes an entry holds: its texts, and a round sum for all that is of fixed size.
fn weight(entry: &JournalEntry) -> usize {
    let texts = [&entry.target, &entry.username, &entry.identifier, &entry.answer];
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
