//! Performs one step: call, then record what it meant. Decides nothing.
//!
//! The only caller of `Provider::refund`. It is given a refund whose attempt is on disk already; whatever happens from here on, the attempt
//! ends in an event, or the process ends and the next start finds it DISPATCHING.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::field::Empty;
use tracing::{Instrument, Span, error, info, info_span, warn};

use crate::domain::clock::Clock as _;
use crate::domain::event::Event;
use crate::domain::outcome::{DoubtReason, ErrorCategory, Heard, Lookup, Outcome};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::circuit::{Era, Sign};
use crate::engine::decide::{self, Decision, Step};
use crate::engine::lane::Lane;
use crate::engine::{AFTER_TROUBLE, EngineError, Shared};
use crate::ledger::{GATEWAY, LedgerError};
use crate::telemetry::traces;

/// Sectigo's -16: the order is another account's, or the login is wrong. No other provider has this code.
const NOT_THIS_ACCOUNTS: &str = "-16";

/// Sends the attempt of a refund that is DISPATCHING on disk, in a task of its own. The slot is free again when its outcome is on disk.
pub(super) fn spawn_attempt(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    refund: Refund,
    slot: OwnedSemaphorePermit,
    era: Era,
) {
    let span = span_of_attempt(lane, &refund);
    let (owner, lane) = (shared.clone(), lane.clone());
    let work = async move {
        attempt(&owner, &lane, refund, era).await;
        drop(slot);
    };
    shared.tasks.spawn(work.instrument(span));
}

fn span_of_attempt(lane: &Lane, refund: &Refund) -> Span {
    info_span!("attempt", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(refund))
}

/// As a number: a trace would hold one without a sign as text.
fn attempts_of(refund: &Refund) -> i64 {
    refund.attempt_count.into()
}

/// The span in which a refund that has waited is sent: its caller may be gone, and still it is part of the caller's trace.
pub(super) async fn span_of_dispatch(shared: &Shared, refund: &Refund) -> Span {
    let span = info_span!("dispatch", refund = %refund.id(), account = %refund.account, trace_id = Empty);
    in_trace_of(shared, refund, span).await
}

/// The span in which something is told of a refund that nothing is sent of: it is part of the caller's trace too.
pub(super) async fn span_about(shared: &Shared, refund: &Refund) -> Span {
    let span = info_span!(
        "refund", refund = %refund.id(), account = %refund.account, attempt = attempts_of(refund), trace_id = Empty
    );
    in_trace_of(shared, refund, span).await
}

/// The span in which a refund that is not settled is gone on with. Entered, it is [linked](link) to the refund's trace.
pub(super) fn span_of_settling(lane: &Lane, refund: &Refund) -> Span {
    info_span!(
        "settle", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(refund), trace_id = Empty
    )
}

async fn in_trace_of(shared: &Shared, refund: &Refund, span: Span) -> Span {
    traces::continue_from(&span, creation_of(shared, refund).await.as_deref(), refund.id());
    span
}

/// Links the span that is entered now, a trace of its own, to the trace that a refund was recorded in.
async fn link(shared: &Shared, refund: &Refund) {
    let origin = creation_of(shared, refund).await;
    traces::link(origin.as_deref());
    traces::note_trace_of(&Span::current(), origin.as_deref(), refund.id());
}

async fn creation_of(shared: &Shared, refund: &Refund) -> Option<String> {
    // A torn trace is all that is lost where the ledger cannot be asked; the work that follows says so itself.
    shared.ledger.trace_of(refund.id()).await.unwrap_or_default()
}

/// Goes on with a refund that is IN_DOUBT or SUBMITTED, and due.
pub(super) async fn settle(shared: &Arc<Shared>, lane: &Arc<Lane>, refund: Refund, place: OwnedSemaphorePermit) {
    link(shared, &refund).await;
    // While the account is suspended, only lookups are made: they move no money, and show when it
    // recovers.
    let step = match lane.may_send() {
        true => decide::next_step(&refund, shared.rules(lane, &refund), shared.clock.now()),
        false => Step::LookUp,
    };
    let settled = match step {
        Step::Resend => {
            drop(place);
            resend(shared, lane, refund, false).await
        }
        Step::LookUp => {
            let looked = tokio::select! {
                biased;
                // A look can be asked for again; the drain need not wait for it.
                () = shared.draining.cancelled() => return,
                looked = look_and_record(shared, lane, refund, GATEWAY) => looked,
            };
            drop(place);
            match looked {
                Ok((refund, true)) if lane.may_send() => resend(shared, lane, refund, true).await,
                looked => looked.map(drop).map_err(EngineError::from),
            }
        }
    };
    if let Err(problem) = settled {
        warn!(%problem, "a refund that is not settled could not be gone on with");
        // It is still due: not at once again.
        tokio::time::sleep(AFTER_TROUBLE).await;
    }
}

/// Asks the provider what became of a refund and records what it shows, because somebody asked for it.
///
/// Where that proves that one more attempt is safe, it is made at once, as after a scheduled
/// lookup.
pub(super) async fn look(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    refund: Refund,
    actor: &str,
) -> Result<Refund, EngineError> {
    // Its log lines are of the call's own trace.
    if traces::is_on() {
        traces::link(creation_of(shared, &refund).await.as_deref());
    }
    // Never closed, so it can only be waited for.
    let place = lane.lookups.acquire().await.map_err(|_| EngineError::Draining)?;
    let span = info_span!("look", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(&refund));
    let (refund, is_safe) = look_and_record(shared, lane, refund, actor).instrument(span).await?;
    drop(place);
    // It may be due at another moment than before.
    lane.settle_bell.notify_one();
    if is_safe
        && lane.may_send()
        && let Some(in_hand) = lane.take_in_hand(refund.id())
    {
        let (owner, owned_lane, proven) = (shared.clone(), lane.clone(), refund.clone());
        // The caller asked for a lookup, and has its answer; the attempt is shown by the refund
        // itself.
        let span = span_of_settling(lane, &refund);
        let work = async move {
            let _in_hand = in_hand;
            if let Err(problem) = resend(&owner, &owned_lane, proven, true).await {
                warn!(%problem, "could not send the refund again");
            }
        };
        shared.tasks.spawn(work.instrument(span));
    }
    Ok(refund)
}

/// Tries an account that is shut, by a look at a refund that waits.
pub(super) async fn probe(shared: &Shared, lane: &Lane, refund: &Refund) {
    let span = info_span!("way_back", refund = %refund.id(), account = %lane.account.name, trace_id = Empty);
    let tried = async {
        link(shared, refund).await;
        lane.turn().await;
        let lookup = lookup(lane, refund).await;
        renew_refused_login(lane, &lookup);
        let sign = sign_of_look(refund, &lookup);
        let answered = sign != Sign::Fails;
        lane.note_look(&sign, true);
        info!(answered, open = !lane.is_shut(), "tried an account that is shut");
    };
    tried.instrument(span).await;
}

/// What the look led to, and whether it has shown that one more attempt is safe.
async fn look_and_record(
    shared: &Shared,
    lane: &Lane,
    mut refund: Refund,
    actor: &str,
) -> Result<(Refund, bool), LedgerError> {
    lane.turn().await;
    let asked = shared.clock.now();
    let taken = match decide::may_take_too_long(&refund, asked) {
        true => shared.ledger.last_entry(refund.id(), State::Submitted).await?,
        false => None,
    };
    let lookup = lookup(lane, &refund).await;
    renew_refused_login(lane, &lookup);
    lane.note_look(&sign_of_look(&refund, &lookup), false);
    loop {
        let rules = shared.rules(lane, &refund);
        let Decision { events, next_check, resend } =
            decide::after_lookup(&refund, lookup.clone(), taken, rules, asked, shared.clock.now());
        let recorded = if events.is_empty() {
            // A refund without a next lookup has no missed one to repeat.
            let unheard = next_check.is_some() && matches!(lookup, Lookup::Unavailable { .. });
            shared.reschedule(&refund, next_check, unheard).await
        } else {
            shared.record(&refund, events, next_check, actor).await
        };
        match recorded {
            Ok(recorded) => {
                log_look(&refund, &recorded, &lookup);
                return Ok((recorded, resend));
            }
            // Another look was recorded first and settled nothing: what this one found must not be lost.
            Err(LedgerError::StaleRevision { present }) if present.is_like(&refund) => refund = *present,
            // It has moved on in the meantime: what this look found is of the past.
            Err(LedgerError::StaleRevision { present }) => return Ok((*present, false)),
            // A later refund of the same target exists, so the order cannot show whose refund it
            // was.
            Err(LedgerError::TargetHasRefund { .. }) => {
                let next = asked.plus(shared.settings.schedule.then_every);
                let follow_up = Some(next).filter(|next| refund.is_followed(*next));
                return Ok((shared.reschedule(&refund, follow_up, false).await?, false));
            }
            Err(error) => return Err(error),
        }
    }
}

async fn lookup(lane: &Lane, refund: &Refund) -> Lookup {
    let (adapter, asked, turns) = (lane.account.adapter.clone(), refund.clone(), lane.limiter.clone());
    match tokio::spawn(async move { adapter.lookup(&asked, &*turns).await }.in_current_span()).await {
        Ok(lookup) => lookup,
        Err(_) => Lookup::unavailable("the adapter panicked while reading the provider's answer"),
    }
}

/// Sends the same request once more, where that is still safe when its turn has come: by the retry
/// contract, or because a lookup has just proven that no attempt had an effect.
async fn resend(shared: &Arc<Shared>, lane: &Arc<Lane>, refund: Refund, is_proven: bool) -> Result<(), EngineError> {
    let slot = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return Ok(()),
        slot = lane.slots.clone().acquire_owned() => slot.map_err(|_| EngineError::Draining)?,
    };
    lane.turn().await;
    if !(is_proven || shared.may_resend(lane, &refund)) || shared.draining.is_cancelled() {
        return Ok(());
    }
    let Some(era) = lane.take_turn() else { return Ok(()) };
    // Records and sends the credential that was compared: with a secret that is renewed in between
    // the key would be another one.
    let credential = if is_proven { lane.account.adapter.credential(refund.id()) } else { refund.credential.clone() };
    let begun = begin_attempt(shared, lane, &refund, era, credential).await?;
    let Some(dispatched) = begun else { return Ok(()) };
    let span = span_of_attempt(lane, &dispatched);
    // After a long stall of the disk or the machine, or with a renewed secret, what was safe when
    // the attempt began may no longer be so.
    if !is_proven && !shared.may_resend(lane, &dispatched) {
        lane.give_turn_back(era);
        return Ok(give_up_attempt(shared, lane, dispatched, refund).instrument(span).await?);
    }
    attempt(shared, lane, dispatched, era).instrument(span).await;
    drop(slot);
    Ok(())
}

/// Records one more attempt, whose key is bound to `credential`, of a refund that took its turn in
/// `era`. None if the refund has moved on meanwhile.
pub(super) async fn begin_attempt(
    shared: &Shared,
    lane: &Lane,
    refund: &Refund,
    era: Era,
    credential: Option<String>,
) -> Result<Option<Refund>, LedgerError> {
    // An attempt belongs to one place: it is never made from an account that is somewhere else by
    // now.
    if lane.account.destination() != refund.destination() {
        lane.give_turn_back(era);
        return Ok(None);
    }
    match shared.record(refund, vec![Event::Dispatched { credential }], None, GATEWAY).await {
        Ok(dispatched) => Ok(Some(dispatched)),
        Err(error) => {
            lane.give_turn_back(era);
            match error {
                LedgerError::StaleRevision { .. } | LedgerError::MoveRefused(_) => Ok(None),
                error => Err(error),
            }
        }
    }
}

/// Puts a refund back in doubt whose attempt is on disk and must not be sent any more.
async fn give_up_attempt(shared: &Shared, lane: &Lane, dispatched: Refund, before: Refund) -> Result<(), LedgerError> {
    let reason = before.doubt.map_or(DoubtReason::Contradiction, |doubt| doubt.reason);
    let Decision { events, next_check, .. } =
        decide::after_delay(&dispatched, reason, shared.rules(lane, &dispatched), shared.clock.now());
    let refund = shared.record(&dispatched, events, next_check, GATEWAY).await?;
    log_outcome(&refund);
    Ok(())
}

async fn attempt(shared: &Arc<Shared>, lane: &Lane, refund: Refund, era: Era) {
    // A panic in an adapter is an unknown outcome and not a lost attempt.
    let sent = lane.account.adapter.refund(&refund.intent, refund.credential.as_deref());
    let outcome = match AssertUnwindSafe(sent).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: "the adapter panicked; what the provider did is not known".to_owned(),
        },
    };
    let is_shut = lane.note(era, sign_of(&refund, &outcome));
    let Decision { events, next_check, .. } =
        decide::after_attempt(&refund, outcome, shared.rules(lane, &refund), shared.clock.now());
    match shared.record(&refund, events, next_check, GATEWAY).await {
        Ok(recorded) => {
            // The drivers' next look must not come later than this refund is due.
            match recorded.state {
                State::Pending => lane.bell.notify_one(),
                State::InDoubt | State::Submitted | State::NeedsReview => lane.settle_bell.notify_one(),
                _ => {}
            }
            log_outcome(&recorded);
            if is_shut {
                // Nobody waits for an account that is shut.
                shared.waiters.wake();
            }
        }
        Err(problem) => {
            error!(%problem, "the outcome of an attempt could not be recorded: it stays DISPATCHING, and the next start shows its doubt");
        }
    }
}

/// What an outcome tells of the account that it was for.
fn sign_of(refund: &Refund, outcome: &Outcome) -> Sign {
    match outcome {
        Outcome::NotSent { error, .. } if error.category == ErrorCategory::CredentialsRefused => {
            Sign::CredentialsRefused
        }
        // No byte left: the provider was not reached.
        Outcome::NotSent { error, .. } if error.http_status == 0 => Sign::Fails,
        Outcome::Refused { error, .. } if error.code == NOT_THIS_ACCOUNTS => {
            Sign::NotOurs(refund.intent.target.references().concat())
        }
        // The provider looked at the request itself, so it has taken the credentials.
        Outcome::Refunded(_) | Outcome::Accepted(_) | Outcome::Refused { .. } | Outcome::NotSent { .. } => Sign::Works,
        Outcome::Unknown { .. } => Sign::Fails,
    }
}

/// What a look tells of the account that it was made for.
fn sign_of_look(refund: &Refund, lookup: &Lookup) -> Sign {
    match lookup {
        Lookup::Found(_)
        | Lookup::NotFound { .. }
        | Lookup::Unavailable { heard: Heard::NoTarget | Heard::NotDispatched, .. } => Sign::Works,
        Lookup::Unavailable { heard: Heard::NotOurs, .. } => Sign::NotOurs(refund.intent.target.references().concat()),
        // Only a refused attempt makes refunds wait as CREDENTIALS_REFUSED; a refused lookup does
        // not.
        Lookup::Unavailable { heard: Heard::Nothing | Heard::LoginRefused, .. } => Sign::Fails,
    }
}

/// Has a refused secret read from its file again at once: it may have been replaced there. Sectigo
/// answers a wrong login like an order of another account.
fn renew_refused_login(lane: &Lane, lookup: &Lookup) {
    if let Lookup::Unavailable { heard: Heard::LoginRefused | Heard::NotOurs, .. } = lookup {
        lane.account.secret.refused();
    }
}

/// As [`log_outcome`].
fn log_look(before: &Refund, refund: &Refund, lookup: &Lookup) {
    let state = refund.state.as_str();
    // Those before this one, of the present doubt.
    let looks = before.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    match lookup {
        _ if refund.state == State::NeedsReview && before.state != State::NeedsReview => log_review(refund),
        _ if refund.corrected_time != before.corrected_time => {
            let status = refund.provider_status.as_deref();
            error!(state, status, "the provider reports a refund that it, or a person, had said no to: money moved");
        }
        Lookup::Unavailable { .. } => warn!(state, looks, "the provider did not tell what became of the refund"),
        _ => info!(state, looks, "looked the refund up at its provider"),
    }
}

fn log_review(refund: &Refund) {
    let state = refund.state.as_str();
    let (reason, code) = (reason_of(refund), code_of(refund));
    error!(state, reason, code, "the gateway cannot find out what became of the refund: a person must");
}

/// No word of the provider: it may name people. Its code and kind say enough, and the refund itself has the rest. Where no byte left there is
/// neither, and the words are the gateway's own.
fn log_outcome(refund: &Refund) {
    let (code, state) = (code_of(refund), refund.state.as_str());
    let (category, error) = match &refund.provider_error {
        Some(error) if error.http_status == 0 => (None, Some(error.message.as_str())),
        Some(error) => (Some(error.category.as_str()), None),
        None => (None, None),
    };
    match refund.state {
        State::Pending => warn!(state, code, category, error, "the refund was not processed and will be sent again"),
        State::InDoubt => {
            let reason = reason_of(refund);
            warn!(state, reason, code, category, error, "it is not known what became of the refund");
        }
        State::NeedsReview => log_review(refund),
        State::Failed => info!(state, code, category, "the provider refused the refund"),
        _ => info!(state, "the provider answered"),
    }
}

fn reason_of(refund: &Refund) -> Option<&'static str> {
    refund.doubt.as_ref().map(|doubt| doubt.reason.as_str())
}

/// The provider's, where it has said one.
fn code_of(refund: &Refund) -> Option<&str> {
    refund.provider_error.as_ref().map(|error| error.code.as_str()).filter(|code| !code.is_empty())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::event::{Observation, RecordSeen};
    use crate::domain::outcome::{Acceptance, Confirmation, ProviderError};
    use crate::engine::tests::{Log, NOW, place, sectigo};

    fn error(code: &str, http_status: u16, category: ErrorCategory) -> ProviderError {
        ProviderError { code: code.to_owned(), message: "Ada Lovelace".to_owned(), http_status, category }
    }

    fn refused(code: &str) -> Outcome {
        Outcome::Refused { error: error(code, 200, ErrorCategory::NotEligible), items: Vec::new() }
    }

    fn not_sent(http_status: u16, category: ErrorCategory) -> Outcome {
        Outcome::NotSent { error: error("", http_status, category), retry_at: None }
    }

    fn unknown() -> Outcome {
        Outcome::Unknown { reason: DoubtReason::Timeout, evidence: "no answer".to_owned() }
    }

    fn after(events: &[Event]) -> Refund {
        let sent = Refund::new(sectigo("r"), place(), NOW).apply(&Event::Dispatched { credential: None }, NOW);
        events.iter().fold(sent.unwrap(), |refund, event| refund.apply(event, NOW).unwrap())
    }

    fn doubted() -> Event {
        let (reason, evidence) = (DoubtReason::Timeout, "no answer".to_owned());
        Event::Doubted { reason, evidence, error: None, not_processed: false }
    }

    fn escalated() -> Event {
        Event::Escalated { evidence: "not known".to_owned(), foreign_record: false }
    }

    fn not_ours() -> Sign {
        Sign::NotOurs("1000001".to_owned())
    }

    /// A wrong login suspends the account, and a wrong order does not. Only silence is an outage.
    #[rstest]
    #[case::yes(Outcome::Refunded(Confirmation::default()), Sign::Works)]
    #[case::taken(Outcome::Accepted(Acceptance::default()), Sign::Works)]
    #[case::no(refused("-18"), Sign::Works)]
    #[case::another_accounts_order(refused("-16"), not_ours())]
    #[case::wrong_login(not_sent(401, ErrorCategory::CredentialsRefused), Sign::CredentialsRefused)]
    #[case::no_connection(not_sent(0, ErrorCategory::Other), Sign::Fails)]
    #[case::not_now(not_sent(429, ErrorCategory::LimitReached), Sign::Works)]
    #[case::no_answer(unknown(), Sign::Fails)]
    fn an_answer_tells_of_its_account(#[case] outcome: Outcome, #[case] expected: Sign) {
        assert_eq!(sign_of(&after(&[]), &outcome), expected);
    }

    #[rstest]
    #[case::found(Lookup::Found(unknown()), Sign::Works)]
    #[case::not_found(Lookup::not_found("Processed"), Sign::Works)]
    #[case::no_target(Heard::NoTarget, Sign::Works)]
    #[case::not_dispatched(Heard::NotDispatched, Sign::Works)]
    #[case::another_accounts_order(Heard::NotOurs, not_ours())]
    #[case::nothing(Heard::Nothing, Sign::Fails)]
    #[case::wrong_login(Heard::LoginRefused, Sign::Fails)]
    fn a_lookup_tells_of_its_account(#[case] lookup: impl Into<Seen>, #[case] expected: Sign) {
        let Seen(lookup) = lookup.into();
        assert_eq!(sign_of_look(&after(&[]), &lookup), expected);
    }

    struct Seen(Lookup);

    impl From<Lookup> for Seen {
        fn from(lookup: Lookup) -> Self {
            Seen(lookup)
        }
    }

    impl From<Heard> for Seen {
        fn from(heard: Heard) -> Self {
            Seen(Lookup::Unavailable { evidence: "odd".to_owned(), heard })
        }
    }

    /// Each state has its level and its words; a provider's own words may name people.
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
    #[case::in_doubt(
        doubted(),
        "WARN",
        "it is not known what became of the refund state=\"IN_DOUBT\" reason=\"timeout\""
    )]
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
    fn what_became_of_an_attempt_is_logged(#[case] event: Event, #[case] level: &str, #[case] expected: &str) {
        let log = Log::begin();
        log_outcome(&after(&[event]));
        assert_one(&log, level, expected);
    }

    #[test]
    fn a_review_that_an_attempt_led_to_is_logged() {
        let log = Log::begin();
        let error = Some(error("14143", 400, ErrorCategory::IdentifierInUse));
        let (reason, evidence) = (DoubtReason::Contradiction, "in use".to_owned());
        log_outcome(&after(&[Event::Doubted { reason, evidence, error, not_processed: false }, escalated()]));
        let expected = "a person must state=\"NEEDS_REVIEW\" reason=\"contradiction\" code=\"14143\"";
        assert_one(&log, "ERROR", expected);
    }

    /// An operator is called once for each review, and for money that moved after a no.
    #[rstest]
    #[case::nothing_new(vec![doubted()], seen(RecordSeen::Absent), Lookup::not_found("Processed"), "INFO", "looked the refund up at its provider state=\"IN_DOUBT\" looks=0")]
    #[case::no_answer(vec![doubted(), seen(RecordSeen::Absent)], seen(RecordSeen::Unanswered), Lookup::unavailable("timeout"), "WARN", "the provider did not tell what became of the refund state=\"IN_DOUBT\" looks=1")]
    #[case::a_review_begins(vec![doubted()], escalated(), Lookup::not_found("Processed"), "ERROR", "a person must state=\"NEEDS_REVIEW\" reason=\"timeout\"")]
    #[case::a_review_goes_on(vec![doubted(), escalated()], seen(RecordSeen::Absent), Lookup::not_found("Processed"), "INFO", "looked the refund up at its provider state=\"NEEDS_REVIEW\" looks=0")]
    #[case::a_review_ends(vec![doubted(), escalated()], Event::Refunded(Confirmation::default()), Lookup::Found(Outcome::Refunded(Confirmation::default())), "INFO", "looked the refund up at its provider state=\"SUCCEEDED\" looks=0")]
    #[case::corrected(vec![rejected()], corrected(), Lookup::Found(Outcome::Refunded(Confirmation::default())), "ERROR", "the provider reports a refund that it, or a person, had said no to: money moved state=\"FAILED\" status=\"Completed\"")]
    fn what_a_lookup_led_to_is_logged(
        #[case] before: Vec<Event>,
        #[case] event: Event,
        #[case] lookup: Lookup,
        #[case] level: &str,
        #[case] expected: &str,
    ) {
        let log = Log::begin();
        let before = after(&before);
        log_look(&before, &before.apply(&event, NOW).unwrap(), &lookup);
        assert_one(&log, level, expected);
    }

    fn seen(record: RecordSeen) -> Event {
        Event::Checked(Observation::new("looked", record))
    }

    fn later() -> Timestamp {
        NOW.plus(std::time::Duration::from_secs(60))
    }

    fn rejected() -> Event {
        let error = error("Rejected", 200, ErrorCategory::RejectedOnReview);
        Event::Refused { error, items: Vec::new(), follow_until: Some(later()) }
    }

    fn corrected() -> Event {
        let confirmation = Confirmation { status: Some("Completed".to_owned()), ..Confirmation::default() };
        Event::Corrected { confirmation, caution_until: later() }
    }

    /// One line of this level that ends in this text.
    fn assert_one(log: &Log, level: &str, expected: &str) {
        let lines = log.with("");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(level) && lines[0].ends_with(expected), "{lines:?}");
    }
}
