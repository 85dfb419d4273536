//! Sample accounts, intents and answers for the adapters' tests, and mutations of answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use crate::domain::clock::{ManualClock, Timestamp};
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::money::Currency;
use crate::domain::outcome::Outcome;
use crate::domain::place::Place;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::Target;
use crate::http::client::{HttpClient, HttpResponse, HttpSettings};
use crate::http::testing::scripted_server::ScriptedServer;
use crate::providers::{Account, AccountSettings, ProviderSettings, RequestLimiter};
use crate::telemetry::metrics::Metrics;

/// The clock of all these tests: 2026-03-04T05:06:40Z.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_772_600_800);

/// An account at `server`, with short timeouts.
pub(crate) fn account(server: &ScriptedServer, login: ProviderSettings) -> Account {
    let settings = AccountSettings {
        name: AccountName::parse("main").unwrap(),
        endpoint: server.endpoint().parse().unwrap(),
        currency: Currency::parse("USD").unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_millis(400),
        total_timeout: Duration::from_secs(5),
        reuse_connections: false,
        max_in_flight: 8,
        requests_per_second: 0,
        requests_per_hour: 0,
        pending_limit: Duration::from_secs(86_400),
        settle_time: Duration::from_secs(600),
        provider_settings: login,
        former: Vec::new(),
    };
    Account::connect(settings, Arc::new(ManualClock::new(NOW)), &Metrics::off())
        .map_err(|error| error.to_string())
        .unwrap()
}

/// An HTTP client for `server`, with the timeouts of [`account`].
pub(crate) fn http_of(server: &ScriptedServer) -> HttpClient {
    let settings = HttpSettings {
        endpoint: &server.endpoint().parse().unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_millis(400),
        total_timeout: Duration::from_secs(5),
        reuse_connections: false,
    };
    HttpClient::new(&settings).map_err(|error| error.to_string()).unwrap()
}

/// A limiter that never waits.
pub(crate) struct Unpaced;

#[async_trait]
impl RequestLimiter for Unpaced {
    async fn acquire(&self) {}
}

pub(crate) fn intent(id: &str, target: Target) -> Intent {
    Intent {
        id: RefundId::parse(id).unwrap(),
        account: AccountName::parse("main").unwrap(),
        target,
        labels: BTreeMap::new(),
        expected_amount: None,
    }
}

pub(crate) fn refund(id: &str, target: Target) -> Refund {
    let endpoint = "http://127.0.0.1".to_owned();
    let place = Place { endpoint, login: "login".to_owned(), currency: Currency::USD };
    Refund::new(intent(id, target), place, NOW)
}

pub(crate) fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> HttpResponse {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    HttpResponse { status, headers, body: Bytes::copy_from_slice(body) }
}

/// One line for a table of expectations: `refused -18 other`, `unknown timeout`, `refunded 12.99
/// USD (partly) (replayed)`.
pub(crate) fn outcome_summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refunded(yes) => {
            let amount = yes.amount.map(|amount| format!(" {amount}")).unwrap_or_default();
            let partly = if yes.is_partial() { " (partly)" } else { "" };
            let replayed = if yes.replayed { " (replayed)" } else { "" };
            format!("refunded{amount}{partly}{replayed}")
        }
        Outcome::Accepted(taken) => {
            let amount = taken.amount.map(|amount| format!(" {amount}")).unwrap_or_default();
            let reference = taken.reference.as_deref().map(|number| format!(" #{number}")).unwrap_or_default();
            format!("accepted {}{amount}{reference}", taken.status.as_deref().unwrap_or("-"))
        }
        Outcome::Refused { error, .. } => format!("refused {} {}", error.code, error.category.as_str()),
        Outcome::NotSent { error, .. } => format!("not_sent {} {}", error.code, error.category.as_str()),
        Outcome::Unknown { reason, .. } => format!("unknown {}", reason.as_str()),
    }
}

/// One change of a real answer, as a broken network or a hostile server makes it. Positions are
/// taken modulo the answer's length.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Delete { at: usize, length: usize },
    Double { at: usize, length: usize },
    Replace { at: usize, with: u8 },
    Insert { at: usize, text: &'static str },
    Swap { at: usize, other: usize, length: usize },
    CutOff { at: usize },
}

/// Up to four mutations.
pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let place = || 0..2_000_usize;
    let text = proptest::sample::select(vec![
        "\"", "{", "}", "[", "]", ",", ":", "<", ">", "/", "&", " ", "0", "-", "null", "true", "{}", "[]", "\\u0000",
        "\u{FEFF}",
    ]);
    let one = prop_oneof![
        (place(), 1..40_usize).prop_map(|(at, length)| Mutation::Delete { at, length }),
        (place(), 1..120_usize).prop_map(|(at, length)| Mutation::Double { at, length }),
        (place(), any::<u8>()).prop_map(|(at, with)| Mutation::Replace { at, with }),
        (place(), text).prop_map(|(at, text)| Mutation::Insert { at, text }),
        (place(), place(), 1..40_usize).prop_map(|(at, other, length)| Mutation::Swap { at, other, length }),
        place().prop_map(|at| Mutation::CutOff { at }),
    ];
    proptest::collection::vec(one, 0..5)
}

/// The answer after all mutations.
pub(crate) fn apply_mutations(answer: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = answer.to_vec();
    for mutation in mutations.iter().cloned() {
        let length_of = bytes.len();
        if length_of == 0 {
            break;
        }
        let span = |at: usize, length: usize| at % length_of..(at % length_of + length).min(length_of);
        match mutation {
            Mutation::Delete { at, length } => drop(bytes.drain(span(at, length))),
            Mutation::Double { at, length } => {
                let part = bytes[span(at, length)].to_vec();
                bytes.splice(at % length_of..at % length_of, part);
            }
            Mutation::Replace { at, with } => bytes[at % length_of] = with,
            Mutation::Insert { at, text } => drop(bytes.splice(at % length_of..at % length_of, text.bytes())),
            Mutation::Swap { at, other, length } => {
                for offset in 0..length {
                    bytes.swap((at + offset) % length_of, (other + offset) % length_of);
                }
            }
            Mutation::CutOff { at } => bytes.truncate(at % length_of),
        }
    }
    bytes
}
