//! The journal: every wire request, what became of it, and what was told to the client.
//!
//! An entry is opened when the request has been read whole and closed before the answer leaves, so
//! that a client that has its answer finds the entry complete. Secrets never get here: the
//! providers mask the parameters, and `masking` headers, query and body.

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
    record::packed::{Packer, Phrases, Unpacker},
    record::parameters::cut,
    request::{Answer, Identified, Provider, Request},
};

/// How many entries are kept; the oldest go first, and [`Journal::dropped`] says how many went.
pub const KEPT: usize = 5_000;
/// About how many bytes all kept entries may hold together, so that long answers cannot grow the
/// process.
pub const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// How much of one answer is kept.
pub const ANSWER_KEPT: usize = 8 * 1024;
/// How much of the body of one request is kept.
pub const BODY_KEPT: usize = 8 * 1024;
/// Within this time a refund that comes again under its key was sent by a library, not by a
/// decision.
pub const RESENT_WITHIN: Duration = Duration::SECOND;
/// How much of one text of the request is kept: a parameter, the path, a name.
pub const TEXT_KEPT: usize = 1024;
/// How many parameters of one request are kept, on every level together.
pub const PARAMETERS_KEPT: usize = 64;

/// One wire request and its end.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When the request had been read, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
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
    /// The query as sent, cut, secrets in it masked; none where there is none.
    #[serde(default)]
    pub query: Option<String>,
    /// The headers as sent, name and value, credentials masked, long values cut.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body as sent, at most [`BODY_KEPT`] bytes of it, secrets in it masked; none where it is
    /// empty or no UTF-8.
    #[serde(default)]
    #[schemars(description = "The body as sent, cut at 8 KiB, secrets masked; null where it is empty or not UTF-8.")]
    pub body: Option<String>,
    /// The body in Base64, as much of it, where it is no UTF-8.
    #[serde(default)]
    pub body_base64: Option<String>,
    /// How long the body was, in bytes.
    #[serde(default)]
    pub body_bytes: usize,
    /// The provider's own name for the call; empty where there is none.
    pub operation: String,
    /// What the call was about.
    pub target: Option<String>,
    /// The account name in the request.
    pub username: Option<String>,
    /// The idempotency key or refund identifier in the request.
    pub identifier: Option<String>,
    /// Which request for this operation and target it was since the start or the last reset: the
    /// `attempt` of a fault rule.
    pub attempt: u64,
    /// The parsed parameters in JSON, in their order, every secret masked, long texts cut.
    #[schemars(with = "serde_json::Value")]
    pub parameters: Box<RawValue>,
    /// Whether an answered call of this kind would move money.
    pub moves_money: bool,
    /// Whether it was a trap that no refund client should ever call.
    pub destructive: bool,
    /// An earlier request that this one looks like a client's hidden re-send of: a refund with the
    /// same method, path, query and body, on another connection, and no key or identifier by which
    /// the provider could tell them apart. Under one key or identifier: where the earlier one got
    /// no answer, and this one came at once, as the HTTP libraries do it that take a key for a
    /// licence to send again.
    #[serde(default)]
    pub suspected_resend_of: Option<u64>,
    /// The fault rules that fired on it, in order.
    pub rules: Vec<RuleId>,
    /// What it did: ids of the books.
    pub effects: Vec<u64>,
    /// The HTTP status of the answer that went out; none where none did.
    pub status: Option<u16>,
    /// The answer's body as text, at most [`ANSWER_KEPT`] bytes of it, secrets in it masked; none
    /// where it is no UTF-8.
    #[schemars(
        description = "The body of the answer as text, cut at 8 KiB, secrets masked; null where it is not UTF-8."
    )]
    pub answer: Option<String>,
    /// The answer's body in Base64, at most [`ANSWER_KEPT`] bytes of it, where it is no UTF-8.
    #[serde(default)]
    #[schemars(description = "The body of the answer in Base64, cut at 8 KiB, where it is not UTF-8.")]
    pub answer_base64: Option<String>,
    /// How long the answer's body was, in bytes.
    pub answer_bytes: usize,
    /// How it ended for the client.
    pub ending: Ending,
}

/// How an exchange ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not: the request is still being worked on, waits in a delay or at a gate, or its
    /// answer is on its way.
    Open,
    /// Answered; the connection stayed open for a next request.
    KeptAlive,
    /// Answered; the connection was closed behind the answer, as the client had asked, or as a rule
    /// said.
    ClosedAfterAnswer,
    /// Answered; a rule reset the connection behind the answer (RST).
    ResetAfterAnswer,
    /// Closed without an answer, by a rule (FIN).
    ClosedWithoutAnswer,
    /// A rule reset the connection without an answer (RST).
    ResetWithoutAnswer,
    /// A rule kept the answer back; the connection stayed open.
    NeverAnswered,
    /// A rule closed the connection in the middle of the answer (FIN): `answer_bytes` of its body
    /// went out.
    Truncated,
    /// A rule reset the connection in the middle of the answer (RST): `answer_bytes` of its body
    /// went out.
    ResetInAnswer,
    /// A rule kept the rest of the answer back: `answer_bytes` of its body went out, and the
    /// connection stayed open.
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
    lines: VecDeque<Box<Line>>,
    bytes: usize,
    opened: u64,
    /// The last request of each fingerprint, among those kept that may be re-sent.
    last_sent: HashMap<u64, u64>,
}

/// A journal in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Kept {
    entries: VecDeque<JournalEntry>,
    opened: u64,
}

/// An entry as it is kept: small, and quickly made. Its place says its id.
#[derive(Debug, Clone)]
struct Line {
    /// What does not change any more: [`Opened`].
    opened: Box<[u8]>,
    rules: Box<[RuleId]>,
    effects: Box<[u64]>,
    answer: Told,
    answer_bytes: usize,
    status: Option<u16>,
    ending: Ending,
}

/// What is known of a request from the beginning.
#[derive(Debug)]
struct Opened<'a> {
    time: OffsetDateTime,
    provider: Provider,
    connection: u64,
    ordinal: u64,
    attempt: u64,
    tls: bool,
    moves_money: bool,
    destructive: bool,
    suspected_resend_of: Option<u64>,
    /// What the request was, where it may be re-sent.
    fingerprint: Option<u64>,
    /// Method, path, operation, target, username, identifier, the parameters in JSON, and the
    /// query.
    texts: [Option<&'a str>; 8],
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: Cow<'a, [u8]>,
    body_bytes: usize,
}

/// What is kept of the body of an answer.
#[derive(Debug, Clone)]
enum Told {
    Nothing,
    /// With a byte for each of the provider's [`Phrases`].
    Text(Box<[u8]>),
    /// What is no UTF-8.
    Bytes(Box<[u8]>),
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
        let fingerprint = identified.moves_money.then(|| fingerprint(provider, request, identified));
        let earlier = fingerprint.and_then(|fingerprint| self.last_sent.get(&fingerprint).copied());
        let is_thoughtless = |id: &u64| {
            let Some(line) = self.line(*id) else { return false };
            let earlier = line.numbers();
            let came_at_once = time - earlier.time <= RESENT_WITHIN;
            earlier.connection != arrival.connection
                && (identified.identifier.is_none() || (line.ending.is_without_answer() && came_at_once))
        };
        let suspected_resend_of = earlier.filter(is_thoughtless);
        let query = request.query.as_deref().map(|query| masking::query(query, TEXT_KEPT));
        let parameters = identified.parameters.text(TEXT_KEPT, PARAMETERS_KEPT);
        let texts = [
            Some(cut(request.method.as_str(), TEXT_KEPT)),
            Some(cut(&request.path, TEXT_KEPT)),
            Some(identified.operation.as_str()),
            identified.target.as_deref().map(|text| cut(text, TEXT_KEPT)),
            identified.username.as_deref().map(|text| cut(text, TEXT_KEPT)),
            identified.identifier.as_deref().map(|text| cut(text, TEXT_KEPT)),
            Some(&parameters),
            query.as_deref(),
        ];
        let Identified { moves_money, destructive, .. } = *identified;
        let opened = Opened {
            suspected_resend_of,
            texts,
            moves_money,
            destructive,
            fingerprint,
            attempt,
            headers: masking::headers(&request.headers),
            body: masking::body(provider, &request.body, BODY_KEPT),
            body_bytes: request.body.len(),
            ..Opened::unread(time, provider, arrival, request.tls)
        };
        let id = self.push(Line::new(&opened));
        if let Some(fingerprint) = fingerprint {
            self.last_sent.insert(fingerprint, id);
        }
        id
    }

    /// Opens an entry for a connection of which nothing was read: it has neither method nor path,
    /// and no call.
    pub fn open_unread(&mut self, time: OffsetDateTime, provider: Provider, arrival: Arrival, tls: bool) -> u64 {
        self.push(Line::new(&Opened::unread(time, provider, arrival, tls)))
    }

    /// Adds the rules that fired at one point.
    pub fn rules(&mut self, id: u64, rules: impl IntoIterator<Item = RuleId>) {
        self.change(id, |line| line.rules = line.rules.iter().copied().chain(rules).collect());
    }

    /// Adds what the request did.
    pub fn effects(&mut self, id: u64, effects: Vec<u64>) {
        self.change(id, |line| line.effects = effects.into());
    }

    /// Closes an entry.
    pub fn close(&mut self, id: u64, answer: Option<&Answer>, ending: Ending) {
        self.change(id, |line| {
            line.ending = ending;
            if let Some(answer) = answer {
                line.status = Some(answer.status.as_u16());
                line.answer_bytes = answer.body.len();
                let provider = line.numbers().provider;
                line.answer = match std::str::from_utf8(&answer.body) {
                    Ok(text) if provider == Provider::Sectigo => Told::text(provider, cut(&masked(text), ANSWER_KEPT)),
                    Ok(text) => Told::text(provider, cut(text, ANSWER_KEPT)),
                    Err(_) => Told::Bytes(answer.body.get(..ANSWER_KEPT).unwrap_or(&answer.body).into()),
                };
            }
        });
    }

    /// One entry, if it is still kept.
    pub fn get(&self, id: u64) -> Option<JournalEntry> {
        Some(self.line(id)?.entry(id))
    }

    /// How a request stands among others.
    pub(crate) fn attempt(&self, id: u64) -> Option<Attempt> {
        let Opened { attempt, connection, ordinal, .. } = self.line(id)?.numbers();
        Some(Attempt { number: attempt, connection, ordinal })
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = JournalEntry> {
        let first = self.dropped() + 1;
        self.lines.iter().enumerate().map(move |(place, line)| line.entry(first + place as u64))
    }

    /// How many entries were ever opened, since the start or the last reset.
    pub fn total(&self) -> u64 {
        self.opened
    }

    /// How many entries were opened and are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.opened.saturating_sub(self.lines.len() as u64)
    }

    fn push(&mut self, line: Line) -> u64 {
        self.opened += 1;
        self.bytes += line.weight();
        self.lines.push_back(Box::new(line));
        self.drop_oldest();
        self.opened
    }

    /// An entry that has been dropped meanwhile is nobody's loss.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut Line)) {
        let Some(line) = self.index(id).and_then(|index| self.lines.get_mut(index)) else { return };
        let before = line.weight();
        change(line);
        self.bytes = self.bytes - before + line.weight();
        self.drop_oldest();
    }

    fn line(&self, id: u64) -> Option<&Line> {
        self.lines.get(self.index(id)?).map(|line| &**line)
    }

    fn index(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.dropped() + 1)?).ok()
    }

    fn drop_oldest(&mut self) {
        while self.lines.len() > KEPT || (self.bytes > KEPT_BYTES && self.lines.len() > 1) {
            let id = self.dropped() + 1;
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.weight();
            if !self.last_sent.is_empty()
                && let Some(fingerprint) = oldest.numbers().fingerprint
                && self.last_sent.get(&fingerprint) == Some(&id)
            {
                self.last_sent.remove(&fingerprint);
            }
        }
    }
}

impl<'a> Opened<'a> {
    fn unread(time: OffsetDateTime, provider: Provider, Arrival { connection, ordinal }: Arrival, tls: bool) -> Self {
        Opened {
            time,
            provider,
            connection,
            ordinal,
            attempt: 0,
            tls,
            moves_money: false,
            destructive: false,
            suspected_resend_of: None,
            fingerprint: None,
            texts: [None; 8],
            headers: Vec::new(),
            body: Cow::default(),
            body_bytes: 0,
        }
    }

    fn packed(&self) -> Box<[u8]> {
        let flags = [self.tls, self.moves_money, self.destructive].into_iter().map(u64::from);
        let packer = Packer::default().time(self.time).number(self.provider as u64).number(self.connection);
        let packer = packer.number(self.ordinal).number(self.attempt);
        let packer = flags.fold(packer, Packer::number);
        let packer = packer.maybe(self.suspected_resend_of, Packer::number).maybe(self.fingerprint, Packer::number);
        let packer = self.texts.into_iter().fold(packer, |packer, text| packer.maybe(text, Packer::text));
        let packer = packer.number(self.headers.len() as u64);
        let packer =
            self.headers.iter().fold(packer, |packer, (name, value)| packer.phrased(&HEADERS, name).text(value));
        packer.number(self.body_bytes as u64).bytes(&self.body).done()
    }

    fn unpacked(packed: &'a [u8]) -> Self {
        let (opened, mut packed) = Opened::numbers(packed);
        Opened { texts: [(); 8].map(|()| packed.maybe(Unpacker::text)), ..opened }
    }

    /// All but the texts, and where these begin.
    fn numbers(packed: &'a [u8]) -> (Self, Unpacker<'a>) {
        let mut packed = Unpacker::new(packed);
        let time = packed.time();
        let provider = packed.number();
        let provider = Provider::ALL.into_iter().find(|known| *known as u64 == provider);
        let [connection, ordinal, attempt] = [(); 3].map(|()| packed.number());
        let [tls, moves_money, destructive] = [(); 3].map(|()| packed.number() == 1);
        let [suspected_resend_of, fingerprint] = [(); 2].map(|()| packed.maybe(Unpacker::number));
        let opened = Opened {
            time,
            // It was written from one of them.
            provider: provider.unwrap_or(Provider::Sectigo),
            connection,
            ordinal,
            attempt,
            tls,
            moves_money,
            destructive,
            suspected_resend_of,
            fingerprint,
            texts: [None; 8],
            headers: Vec::new(),
            body: Cow::default(),
            body_bytes: 0,
        };
        (opened, packed)
    }
}

impl Line {
    fn new(opened: &Opened<'_>) -> Line {
        Line {
            opened: opened.packed(),
            rules: Box::default(),
            effects: Box::default(),
            answer: Told::Nothing,
            answer_bytes: 0,
            status: None,
            ending: Ending::Open,
        }
    }

    fn opened(&self) -> Opened<'_> {
        Opened::unpacked(&self.opened)
    }

    /// What it was opened with but for its texts, which take longer to read.
    fn numbers(&self) -> Opened<'_> {
        Opened::numbers(&self.opened).0
    }

    fn of(entry: &JournalEntry) -> Line {
        let texts = [
            Some(entry.method.as_str()),
            Some(&entry.path),
            Some(&entry.operation),
            entry.target.as_deref(),
            entry.username.as_deref(),
            entry.identifier.as_deref(),
            Some(entry.parameters.get()),
            entry.query.as_deref(),
        ];
        let body = entry.body_base64.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let headers = entry.headers.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str())));
        let bytes = entry.answer_base64.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let text = entry.answer.as_deref().map_or(Told::Nothing, |text| Told::text(entry.provider, text));
        let arrival = Arrival { connection: entry.connection, ordinal: entry.ordinal };
        let opened = Opened {
            attempt: entry.attempt,
            moves_money: entry.moves_money,
            destructive: entry.destructive,
            suspected_resend_of: entry.suspected_resend_of,
            texts,
            headers: headers.collect(),
            body: body.map_or_else(|| entry.body.as_deref().unwrap_or_default().as_bytes().into(), Cow::Owned),
            body_bytes: entry.body_bytes,
            ..Opened::unread(entry.time, entry.provider, arrival, entry.tls)
        };
        Line {
            rules: entry.rules.clone().into(),
            effects: entry.effects.clone().into(),
            status: entry.status,
            answer: bytes.map_or(text, |bytes| Told::Bytes(bytes.into())),
            answer_bytes: entry.answer_bytes,
            ending: entry.ending,
            ..Line::new(&opened)
        }
    }

    fn entry(&self, id: u64) -> JournalEntry {
        let opened = self.opened();
        let [method, path, operation, target, username, identifier, parameters, query] =
            opened.texts.map(|text| text.map(str::to_owned));
        let (headers, body_bytes, body) = opened_rest(&self.opened);
        let (body, body_base64) = match std::str::from_utf8(body) {
            Ok("") => (None, None),
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64_STANDARD.encode(body))),
        };
        let parameters = parameters.and_then(|text| RawValue::from_string(text).ok());
        let (answer, answer_base64) = match &self.answer {
            Told::Nothing => (None, None),
            Told::Text(text) => (Some(phrases(opened.provider).widen(text)), None),
            Told::Bytes(bytes) => (None, Some(BASE64_STANDARD.encode(bytes))),
        };
        JournalEntry {
            id,
            time: opened.time,
            provider: opened.provider,
            connection: opened.connection,
            ordinal: opened.ordinal,
            tls: opened.tls,
            method: method.unwrap_or_default(),
            path: path.unwrap_or_default(),
            query,
            headers,
            body,
            body_base64,
            body_bytes,
            operation: operation.unwrap_or_default(),
            target,
            username,
            identifier,
            attempt: opened.attempt,
            parameters: parameters.unwrap_or_else(|| RawValue::NULL.to_owned()),
            moves_money: opened.moves_money,
            destructive: opened.destructive,
            suspected_resend_of: opened.suspected_resend_of,
            rules: self.rules.to_vec(),
            effects: self.effects.to_vec(),
            status: self.status,
            answer,
            answer_base64,
            answer_bytes: self.answer_bytes,
            ending: self.ending,
        }
    }

    /// About how many bytes it takes: itself, its texts, its place, and what an allocator needs
    /// beside.
    fn weight(&self) -> usize {
        let answer = match &self.answer {
            Told::Nothing => 0,
            Told::Text(bytes) | Told::Bytes(bytes) => bytes.len(),
        };
        size_of::<Self>() + self.opened.len() + answer + 8 * (self.rules.len() + self.effects.len()) + 48
    }
}

impl Ending {
    /// Whether not even the head of an answer has reached the client.
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

/// The names of headers that nearly every request has.
static HEADERS: Phrases = Phrases::new(&[
    "authorization",
    "content-length",
    "content-type",
    "user-agent",
    "accept-encoding",
    "accept",
    "soapaction",
    "x-idempotency-key",
    "host",
    "connection",
]);

/// The headers, how long the body was, and what is kept of it.
fn opened_rest(packed: &[u8]) -> (Vec<(String, String)>, usize, &[u8]) {
    let (_, mut packed) = Opened::numbers(packed);
    for _ in 0..8 {
        packed.maybe(Unpacker::text);
    }
    let headers = (0..packed.number()).map(|_| (packed.phrased(&HEADERS), packed.text().to_owned())).collect();
    let body_bytes = usize::try_from(packed.number()).unwrap_or_default();
    (headers, body_bytes, packed.bytes())
}

impl Told {
    fn text(provider: Provider, text: &str) -> Told {
        Told::Text(phrases(provider).shorten(text))
    }
}

/// What nearly every answer to a refund consists of.
fn phrases(provider: Provider) -> &'static Phrases {
    static SECTIGO: Phrases = Phrases::new(&[]);
    static NAMECOM: Phrases = Phrases::new(&[
        "{\"results\":[{\"orderId\":",
        ",\"orderItemId\":",
        ",\"orderItemStatus\":\"refunded\",\"refundAmount\":",
        ",\"message\":\"Domain successfully deleted and refund processed.\"}",
        "],\"totalRefundAmount\":",
    ]);
    static DEBITSUCCESS: Phrases = Phrases::new(&[
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>",
        "<InitiateRefundResponse xmlns=\"http://tempuri.org/\"><InitiateRefundResult \
             xmlns:a=\"http://schemas.datacontract.org/2004/07/DSWebService\" \
             xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\"><a:DateCreated>",
        "</a:DateCreated><a:Id>",
        "</a:Id><a:ResponseNotes><a:ResponseMessageNote><a:Code>",
        "00</a:Code><a:Note>Success</a:Note><a:NoteType>Info",
        "</a:NoteType></a:ResponseMessageNote></a:ResponseNotes><a:Status>",
        "</a:Status><a:ExternalRefundIdentifier>",
        "</a:ExternalRefundIdentifier><a:RefundRequestNumber>",
        "</a:RefundRequestNumber></InitiateRefundResult></InitiateRefundResponse></s:Body></s:Envelope>",
    ]);
    match provider {
        Provider::Sectigo => &SECTIGO,
        Provider::Namecom => &NAMECOM,
        Provider::Debitsuccess => &DEBITSUCCESS,
    }
}

impl From<Journal> for Kept {
    fn from(journal: Journal) -> Kept {
        Kept { entries: journal.entries().collect(), opened: journal.opened }
    }
}

impl From<Kept> for Journal {
    fn from(Kept { entries, opened }: Kept) -> Journal {
        let mut journal = Journal::default();
        for entry in &entries {
            journal.push(Line::of(entry));
        }
        journal.opened = opened.max(entries.len() as u64);
        journal
    }
}

/// Two requests of one fingerprint say the same, and under the same key or identifier, if any.
fn fingerprint(provider: Provider, request: &Request, identified: &Identified) -> u64 {
    let mut hasher = DefaultHasher::new();
    (provider, request.method.as_str(), &request.path, &request.query, &request.body).hash(&mut hasher);
    identified.identifier.hash(&mut hasher);
    hasher.finish()
}

/// An answer of Sectigo's without what it entrusts to the client: the token for uploads.
fn masked(answer: &str) -> std::borrow::Cow<'_, str> {
    const BEFORE: &str = "\"uploadDocumentToken\":\"";
    let Some((before, token)) = answer.split_once(BEFORE) else { return answer.into() };
    // A token in Base64 has no quotes; were there an escaped one, too much would go rather than too
    // little.
    let after = token.split_once("\",").or_else(|| token.split_once("\"}")).map_or("", |(_, after)| after);
    format!("{before}{BEFORE}***\",{after}").into()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};
    use serde_json::Value;

    use super::*;

    fn opened(journal: &mut Journal, parameters: Value) -> u64 {
        let request = Request::new(Method::POST, "/", HeaderMap::new(), bytes::Bytes::new(), true);
        let identified = Identified { parameters: parameters.into(), ..Identified::default() };
        let arrival = Arrival { connection: 1, ordinal: 1 };
        journal.open(OffsetDateTime::UNIX_EPOCH, Provider::Sectigo, arrival, &request, &identified, 1)
    }

    #[test]
    fn the_oldest_go_first_and_the_count_says_so() {
        let mut journal = Journal::default();
        for _ in 0..KEPT + 5 {
            opened(&mut journal, Value::Null);
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
            (0..1000).map(|n| (format!("{n:04}"), Value::from("ä".repeat(10_000)))).collect();
        for _ in 0..1000 {
            let id = opened(&mut journal, many.clone().into());
            let body = "x".repeat(100_000).into();
            let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body };
            journal.close(id, Some(&answer), Ending::KeptAlive);
        }
        assert!(journal.bytes <= KEPT_BYTES);
        assert_eq!(journal.dropped() + journal.entries().count() as u64, 1000);
        let entry = journal.entries().next().unwrap();
        let parameters: serde_json::Map<String, Value> = serde_json::from_str(entry.parameters.get()).unwrap();
        assert_eq!(parameters.len(), PARAMETERS_KEPT);
        assert_eq!(entry.answer_bytes, 100_000);
        assert_eq!(entry.answer.as_ref().unwrap().len(), ANSWER_KEPT);
    }

    #[test]
    fn it_is_the_same_again_after_a_way_through_json() {
        let mut journal = Journal::default();
        for body in [&b"text"[..], b"\xFF\x00", b"</a:DateCreated><a:Id>"] {
            let id = opened(&mut journal, serde_json::json!({ "name": ["ä", null, 1.5] }));
            journal.rules(id, [RuleId(3)]);
            journal.rules(id, [RuleId(4)]);
            journal.effects(id, vec![5]);
            let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() };
            journal.close(id, Some(&answer), Ending::KeptAlive);
        }
        let arrival = Arrival { connection: 2, ordinal: 1 };
        journal.open_unread(OffsetDateTime::UNIX_EPOCH, Provider::Namecom, arrival, false);
        let told = serde_json::to_value(&journal).unwrap();
        assert_eq!(told["entries"][0]["parameters"]["name"][0], "ä");
        assert_eq!(told["entries"][1]["answer_base64"], "/wA=");
        let again: Journal = serde_json::from_value(told.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), told);
        assert_eq!(again.opened, 4);
    }
}
