//! Answers that are not so, in the provider's own words: the provider gives them itself, to a copy
//! of what it knew before the request.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use time::OffsetDateTime;

use crate::{
    faults::Pretence,
    faults::stale_state::Memory,
    providers::debitsuccess::Condition,
    providers::namecom::{Obstacles, Outcome, Registry},
    request::{Answer, Deduplication, Identified, Request},
    worlds::Settings,
};

/// What a provider would answer, without doing it.
pub(crate) fn rehearsed(mut before: Memory, settings: &Settings, now: OffsetDateTime, request: &Request) -> Answer {
    before.perform(settings, now, request).answer
}

/// What a client is told although it is not so.
pub(crate) fn told(
    pretence: Pretence,
    mut before: Memory,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    identified: &Identified,
) -> Answer {
    match pretence {
        Pretence::Success => rehearsed(before, settings, now, request),
        Pretence::Replay => {
            let mut answer = rehearsed(before, settings, now, request);
            answer.headers.insert("x-idempotent-replay", HeaderValue::from_static("1"));
            answer
        }
        Pretence::Initialized => {
            change_items(&mut before, identified, now, |item| item.refund_outcome = Outcome::Initialized);
            rehearsed(before, settings, now, request)
        }
        // The second time is told what the first one did.
        Pretence::AlreadyRefunded | Pretence::IdentifierExists => {
            let mut request = request.clone();
            request.headers.remove("x-idempotency-key");
            let settings = as_documented(settings);
            before.perform(&settings, now, &request);
            rehearsed(before, &settings, now, &request)
        }
    }
}

/// The same settings, with every deduplication on, and told as a refusal.
fn as_documented(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    settings.sectigo.deduplication = Deduplication::On;
    settings.namecom.deduplication = Deduplication::On;
    settings.namecom.obstacles = Obstacles::RefuseRequest;
    settings.debitsuccess.deduplication = Deduplication::On;
    settings
}

/// What a provider says when it has no time left.
pub(crate) fn timed_out(
    mut before: Memory,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    identified: &Identified,
) -> Answer {
    match &mut before {
        // Nothing of the kind is documented: what stands in front of a server says so.
        Memory::Sectigo(_) => {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
            return Answer {
                status: StatusCode::GATEWAY_TIMEOUT,
                headers,
                body: Bytes::from_static(b"Gateway Timeout"),
            };
        }
        Memory::Namecom(_) => change_items(&mut before, identified, now, |item| item.registry = Registry::Slow),
        Memory::Debitsuccess(state) => {
            let is_meant = |reference: &str| identified.target.as_deref() == Some(reference);
            let meant: Vec<_> = state
                .accounts()
                .into_iter()
                .filter(|account| {
                    is_meant(&account.account_reference_no)
                        || account.external_account_reference_no.as_deref().is_some_and(is_meant)
                })
                .cloned()
                .collect();
            for mut account in meant {
                account.condition = Condition::TimedOut;
                // What was there can be put back: it is only marked.
                drop(state.put_account(account));
            }
        }
    }
    rehearsed(before, settings, now, request)
}

fn change_items(
    before: &mut Memory,
    identified: &Identified,
    now: OffsetDateTime,
    change: impl Fn(&mut crate::providers::namecom::Item),
) {
    let Memory::Namecom(state) = before else { return };
    let target = identified.target.as_deref().and_then(|target| target.parse().ok());
    if let Some(mut order) = target.and_then(|id| state.order(id)) {
        order.items.iter_mut().for_each(change);
        // What was there can be put back: only its items are marked.
        drop(state.put_order(order, now));
    }
}
