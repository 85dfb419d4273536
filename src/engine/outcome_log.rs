//! The log lines about what attempts and lookups led to. Where nothing fails, a refund has one line
//! at INFO for each state that its provider brings it to, which is mostly one.
//!
//! No line quotes the provider: its texts may name people. Its code and the category say enough,
//! and the refund itself has the rest.

use tracing::{debug, error, info, warn};

use crate::domain::outcome::Lookup;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::ledger::Recorded;

/// Logs what an attempt led to. If no byte left, there is neither code nor category, and the text
/// is the gateway's own.
pub(super) fn log_outcome(Recorded { outcome: refund, sequence }: &Recorded<Refund>) {
    let (code, state, sequence) = (code_of(refund), refund.state.as_str(), event_number(*sequence));
    let (category, error) = match &refund.provider_error {
        Some(error) if error.http_status == 0 => (None, Some(error.message.as_str())),
        Some(error) => (Some(error.category.as_str()), None),
        None => (None, None),
    };
    match refund.state {
        State::Pending => {
            warn!(state, code, category, error, sequence, "the refund was not processed and will be sent again");
        }
        State::InDoubt => {
            let reason = reason_of(refund);
            warn!(state, reason, code, category, error, sequence, "the outcome of the refund is unknown");
        }
        State::NeedsReview => log_review(refund, Some(sequence)),
        State::Failed => info!(state, code, category, sequence, "the provider refused the refund"),
        _ => info!(state, sequence, "the provider answered"),
    }
}

/// Logs what a lookup led to. `sequence` is the ledger's number of the last event that was
/// recorded; none if the lookup showed nothing new.
pub(super) fn log_lookup(before: &Refund, refund: &Refund, lookup: &Lookup, sequence: Option<u64>) {
    let state = refund.state.as_str();
    let sequence = sequence.map(event_number);
    // The number of lookups before this one, in the present doubt.
    let lookups = before.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    match lookup {
        _ if refund.state == State::NeedsReview && before.state != State::NeedsReview => log_review(refund, sequence),
        _ if refund.corrected_time != before.corrected_time => {
            let status = refund.provider_status.as_deref();
            error!(state, status, sequence, "money moved: the provider reports a refund that was recorded as refused");
        }
        Lookup::Unavailable { .. } => warn!(state, lookups, sequence, "lookup inconclusive"),
        // The provider has not finished, or has not corrected itself: a refund's ordinary days.
        _ if refund.state == before.state && before.doubt.is_none() => {
            debug!(state, lookups, sequence, "looked the refund up at its provider");
        }
        _ => info!(state, lookups, sequence, "looked the refund up at its provider"),
    }
}

fn log_review(refund: &Refund, sequence: Option<i64>) {
    let state = refund.state.as_str();
    let (reason, code) = (reason_of(refund), code_of(refund));
    error!(
        state,
        reason, code, sequence, "the gateway cannot find out the outcome of the refund: a person must resolve it"
    );
}

/// The number of an event in the log. Signed, because a trace would hold an unsigned number as
/// text.
pub(super) fn event_number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn reason_of(refund: &Refund) -> Option<&'static str> {
    refund.doubt.as_ref().map(|doubt| doubt.reason.as_str())
}

/// The provider's error code, if it gave one.
fn code_of(refund: &Refund) -> Option<&str> {
    refund.provider_error.as_ref().map(|error| error.code.as_str()).filter(|code| !code.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;
    use tracing::Level;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::event::{Event, Observation, RecordSeen};
    use crate::domain::outcome::{Acceptance, Confirmation, DoubtReason, ErrorCategory, Outcome, ProviderError};
    use crate::engine::tests::{Log, NOW, place, sectigo};

    fn error(code: &str, http_status: u16, category: ErrorCategory) -> ProviderError {
        ProviderError { code: code.to_owned(), message: "Ada Lovelace".to_owned(), http_status, category }
    }

    /// A refund that was dispatched, after these further events.
    fn after(events: &[Event]) -> Refund {
        let sent = Refund::new(sectigo("r"), place(), NOW).apply(&Event::Dispatched { credential: None }, NOW);
        events.iter().fold(sent.unwrap(), |refund, event| refund.apply(event, NOW).unwrap())
    }

    fn doubted() -> Event {
        let (reason, evidence) = (DoubtReason::Timeout, "no answer".to_owned());
        Event::Doubted { reason, evidence, error: None, not_processed: false }
    }

    fn accepted() -> Event {
        Event::Accepted(Acceptance::default())
    }

    fn escalated() -> Event {
        Event::Escalated { evidence: "outcome unknown".to_owned(), foreign_record: false }
    }

    /// Each state has its level and its text. A provider's own text may name people.
    #[rstest]
    #[case::no_byte_left(
        Event::NotSent { error: error("", 0, ErrorCategory::Other), retry_at: NOW },
        "WARN",
        "the refund was not processed and will be sent again state=\"PENDING\" error=\"Ada Lovelace\""
    )]
    #[case::not_now(
        Event::NotSent { error: error("-42", 200, ErrorCategory::LimitReached), retry_at: NOW },
        "WARN",
        "the refund was not processed and will be sent again state=\"PENDING\" code=\"-42\" category=\"limit_reached\""
    )]
    #[case::in_doubt(doubted(), "WARN", "the outcome of the refund is unknown state=\"IN_DOUBT\" reason=\"timeout\"")]
    #[case::refused(
        Event::Refused { error: error("-18", 200, ErrorCategory::NotEligible), items: Vec::new(), follow_until: None },
        "INFO",
        "the provider refused the refund state=\"FAILED\" code=\"-18\" category=\"not_eligible\""
    )]
    #[case::refused_without_a_code(
        Event::Refused { error: error("", 400, ErrorCategory::Other), items: Vec::new(), follow_until: None },
        "INFO",
        "the provider refused the refund state=\"FAILED\" category=\"other\""
    )]
    #[case::refunded(Event::Refunded(Confirmation::default()), "INFO", "the provider answered state=\"SUCCEEDED\"")]
    fn what_an_attempt_led_to_is_logged(#[case] event: Event, #[case] level: &str, #[case] expected: &str) {
        let log = Log::begin();
        log_outcome(&Recorded { outcome: after(&[event]), sequence: 7 });
        assert_one(&log, level, expected);
    }

    #[test]
    fn a_review_that_an_attempt_led_to_is_logged() {
        let log = Log::begin();
        let error = Some(error("14143", 400, ErrorCategory::IdentifierInUse));
        let (reason, evidence) = (DoubtReason::Contradiction, "in use".to_owned());
        let outcome = after(&[Event::Doubted { reason, evidence, error, not_processed: false }, escalated()]);
        log_outcome(&Recorded { outcome, sequence: 7 });
        let expected = "a person must resolve it state=\"NEEDS_REVIEW\" reason=\"contradiction\" code=\"14143\"";
        assert_one(&log, "ERROR", expected);
    }

    /// An operator is alerted once for each review, and if money moved after a refusal.
    #[rstest]
    #[case::nothing_new(
        vec![doubted()],
        seen(RecordSeen::Absent),
        Lookup::not_found("Processed"),
        "INFO",
        "looked the refund up at its provider state=\"IN_DOUBT\" lookups=0"
    )]
    #[case::not_finished(
        vec![accepted()],
        seen(RecordSeen::Present),
        Lookup::Found(Outcome::Accepted(Acceptance::default())),
        "DEBUG",
        "looked the refund up at its provider state=\"SUBMITTED\""
    )]
    #[case::finished(
        vec![accepted()],
        Event::Refunded(Confirmation::default()),
        Lookup::Found(Outcome::Refunded(Confirmation::default())),
        "INFO",
        "looked the refund up at its provider state=\"SUCCEEDED\""
    )]
    #[case::no_answer(
        vec![doubted(), seen(RecordSeen::Absent)],
        seen(RecordSeen::Unanswered),
        Lookup::unavailable("timeout"),
        "WARN",
        "lookup inconclusive state=\"IN_DOUBT\" lookups=1"
    )]
    #[case::a_review_begins(
        vec![doubted()],
        escalated(),
        Lookup::not_found("Processed"),
        "ERROR",
        "a person must resolve it state=\"NEEDS_REVIEW\" reason=\"timeout\""
    )]
    #[case::a_review_goes_on(
        vec![doubted(), escalated()],
        seen(RecordSeen::Absent),
        Lookup::not_found("Processed"),
        "INFO",
        "looked the refund up at its provider state=\"NEEDS_REVIEW\" lookups=0"
    )]
    #[case::a_review_ends(
        vec![doubted(), escalated()],
        Event::Refunded(Confirmation::default()),
        Lookup::Found(Outcome::Refunded(Confirmation::default())),
        "INFO",
        "looked the refund up at its provider state=\"SUCCEEDED\" lookups=0"
    )]
    #[case::corrected(
        vec![rejected()],
        corrected(),
        Lookup::Found(Outcome::Refunded(Confirmation::default())),
        "ERROR",
        "money moved: the provider reports a refund that was recorded as refused state=\"FAILED\" status=\"Completed\""
    )]
    fn what_a_lookup_led_to_is_logged(
        #[case] before: Vec<Event>,
        #[case] event: Event,
        #[case] lookup: Lookup,
        #[case] level: &str,
        #[case] expected: &str,
    ) {
        let log = Log::begin_at(Level::DEBUG);
        let before = after(&before);
        log_lookup(&before, &before.apply(&event, NOW).unwrap(), &lookup, Some(7));
        assert_one(&log, level, expected);
    }

    fn seen(record: RecordSeen) -> Event {
        Event::Checked(Observation::new("looked", record))
    }

    fn later() -> Timestamp {
        NOW.saturating_add(Duration::from_secs(60))
    }

    fn rejected() -> Event {
        let error = error("Rejected", 200, ErrorCategory::RejectedOnReview);
        Event::Refused { error, items: Vec::new(), follow_until: Some(later()) }
    }

    fn corrected() -> Event {
        let confirmation = Confirmation { status: Some("Completed".to_owned()), ..Confirmation::default() };
        Event::Corrected { confirmation, caution_until: later() }
    }

    /// Asserts that one line of this level is logged, and that it ends with `expected` and the
    /// event's number.
    fn assert_one(log: &Log, level: &str, expected: &str) {
        let lines = log.lines_with("");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let expected = format!("{expected} sequence=7");
        assert!(lines[0].contains(level) && lines[0].ends_with(&expected), "{lines:?}");
    }
}
