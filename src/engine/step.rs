//! Performs one step: call, then record what it meant. Decides nothing.
//!
//! The only caller of `RefundProvider::refund`. It is given a refund whose attempt is on disk
//! already; whatever happens from here on, the attempt ends in an event, or the process ends and
//! the next start finds it DISPATCHING.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::field::Empty;
use tracing::{Instrument, Span, error, info, info_span, warn};

use crate::domain::clock::Clock as _;
use crate::domain::event::Event;
use crate::domain::outcome::{AccountSignal, DoubtReason, ErrorCategory, Lookup, Outcome};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::{Generation, Signal};
use crate::engine::decide::{self, Decision, Step};
use crate::engine::{EngineCore, EngineError, LEDGER_ERROR_BACKOFF};
use crate::ledger::{GATEWAY, LedgerError};
use crate::telemetry::traces;

/// Sectigo's -16: the order is another account's, or the login is wrong. No other provider has this
/// code.
const NOT_THIS_ACCOUNTS: &str = "-16";

/// Sends the attempt of a refund that is DISPATCHING on disk, in a task of its own. The slot is
/// free again when its outcome is on disk.
pub(super) fn spawn_attempt(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    refund: Refund,
    slot: OwnedSemaphorePermit,
    era: Generation,
) {
    let span = span_of_attempt(lane, &refund);
    let (owner, lane) = (shared.clone(), lane.clone());
    let work = async move {
        attempt(&owner, &lane, refund, era).await;
        drop(slot);
    };
    shared.tasks.spawn(work.instrument(span));
}

fn span_of_attempt(lane: &AccountRuntime, refund: &Refund) -> Span {
    info_span!("attempt", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(refund))
}

/// As a number: a trace would hold one without a sign as text.
fn attempts_of(refund: &Refund) -> i64 {
    refund.attempt_count.into()
}

/// The span in which a refund that has waited is sent: its caller may be gone, and still it is part
/// of the caller's trace.
pub(super) async fn span_of_dispatch(shared: &EngineCore, refund: &Refund) -> Span {
    let span = info_span!("dispatch", refund = %refund.id(), account = %refund.account, trace_id = Empty);
    in_trace_of(shared, refund, span).await
}

/// The span in which something is told of a refund that nothing is sent of: it is part of the
/// caller's trace too.
pub(super) async fn span_about(shared: &EngineCore, refund: &Refund) -> Span {
    let span = info_span!(
        "refund", refund = %refund.id(), account = %refund.account, attempt = attempts_of(refund), trace_id = Empty
    );
    in_trace_of(shared, refund, span).await
}

/// The span in which a refund that is not settled is gone on with. Entered, it is [linked](link) to
/// the refund's trace.
pub(super) fn span_of_reconcile(lane: &AccountRuntime, refund: &Refund) -> Span {
    info_span!(
        "reconcile", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(refund), trace_id = Empty
    )
}

async fn in_trace_of(shared: &EngineCore, refund: &Refund, span: Span) -> Span {
    traces::continue_from(&span, parent_trace(shared, refund).await.as_deref(), refund.id());
    span
}

/// Links the span that is entered now, a trace of its own, to the trace that a refund was recorded
/// in.
async fn link(shared: &EngineCore, refund: &Refund) {
    let origin = parent_trace(shared, refund).await;
    traces::link(origin.as_deref());
    traces::record_refund_trace_id(&Span::current(), origin.as_deref(), refund.id());
}

async fn parent_trace(shared: &EngineCore, refund: &Refund) -> Option<String> {
    // A torn trace is all that is lost where the ledger cannot be asked; the work that follows says
    // so itself.
    shared.ledger.trace_parent_of(refund.id()).await.unwrap_or_default()
}

/// Goes on with a refund that is IN_DOUBT or SUBMITTED, and due.
pub(super) async fn reconcile(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    refund: Refund,
    place: OwnedSemaphorePermit,
) {
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
                looked = lookup_and_record(shared, lane, refund, GATEWAY) => looked,
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
        tokio::time::sleep(LEDGER_ERROR_BACKOFF).await;
    }
}

/// Asks the provider what became of a refund and records what it shows, because somebody asked for
/// it.
///
/// Where that proves that one more attempt is safe, it is made at once, as after a scheduled
/// lookup.
pub(super) async fn reconcile_now(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    refund: Refund,
    actor: &str,
) -> Result<Refund, EngineError> {
    // Its log lines are of the call's own trace.
    if traces::is_on() {
        traces::link(parent_trace(shared, &refund).await.as_deref());
    }
    // Never closed, so it can only be waited for.
    let place = lane.lookups.acquire().await.map_err(|_| EngineError::Draining)?;
    let span =
        info_span!("lookup", refund = %refund.id(), account = %lane.account.name, attempt = attempts_of(&refund));
    let (refund, is_safe) = lookup_and_record(shared, lane, refund, actor).instrument(span).await?;
    drop(place);
    // It may be due at another moment than before.
    lane.reconcile_notify.notify_one();
    if is_safe
        && lane.may_send()
        && let Some(reconciling) = lane.try_begin_reconcile(refund.id())
    {
        let (owner, owned_lane, proven) = (shared.clone(), lane.clone(), refund.clone());
        // The caller asked for a lookup, and has its answer; the attempt is shown by the refund
        // itself.
        let span = span_of_reconcile(lane, &refund);
        let work = async move {
            let _in_hand = reconciling;
            if let Err(problem) = resend(&owner, &owned_lane, proven, true).await {
                warn!(%problem, "could not send the refund again");
            }
        };
        shared.tasks.spawn(work.instrument(span));
    }
    Ok(refund)
}

/// Tries an account that is shut, by a look at a refund that waits.
pub(super) async fn probe(shared: &EngineCore, lane: &AccountRuntime, refund: &Refund) {
    let span = info_span!("circuit_probe", refund = %refund.id(), account = %lane.account.name, trace_id = Empty);
    let tried = async {
        link(shared, refund).await;
        lane.turn().await;
        let lookup = lookup(lane, refund).await;
        renew_refused_login(lane, &lookup);
        let sign = signal_of_lookup(refund, &lookup);
        let answered = sign != Signal::Failure;
        lane.record_probe(&sign, true);
        info!(answered, open = !lane.is_open(), "tried an account that is shut");
    };
    tried.instrument(span).await;
}

/// What the look led to, and whether it has shown that one more attempt is safe.
async fn lookup_and_record(
    shared: &EngineCore,
    lane: &AccountRuntime,
    mut refund: Refund,
    actor: &str,
) -> Result<(Refund, bool), LedgerError> {
    lane.turn().await;
    let asked = shared.clock.now();
    let taken = match decide::may_take_too_long(&refund, asked) {
        true => shared.ledger.entered_state_at(refund.id(), State::Submitted).await?,
        false => None,
    };
    let lookup = lookup(lane, &refund).await;
    renew_refused_login(lane, &lookup);
    lane.record_probe(&signal_of_lookup(&refund, &lookup), false);
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
                log_lookup(&refund, &recorded, &lookup);
                return Ok((recorded, resend));
            }
            // Another look was recorded first and settled nothing: what this one found must not be
            // lost.
            Err(LedgerError::StaleRevision { present }) if present.has_same_attempt(&refund) => refund = *present,
            // It has moved on in the meantime: what this look found is of the past.
            Err(LedgerError::StaleRevision { present }) => return Ok((*present, false)),
            // A later refund of the same target exists, so the order cannot show whose refund it
            // was.
            Err(LedgerError::TargetHasRefund { .. }) => {
                let next = asked.saturating_add(shared.settings.schedule.then_every);
                let follow_up = Some(next).filter(|next| refund.is_followed(*next));
                return Ok((shared.reschedule(&refund, follow_up, false).await?, false));
            }
            Err(error) => return Err(error),
        }
    }
}

async fn lookup(lane: &AccountRuntime, refund: &Refund) -> Lookup {
    let (adapter, asked, turns) = (lane.account.adapter.clone(), refund.clone(), lane.limiter.clone());
    match tokio::spawn(async move { adapter.lookup(&asked, &*turns).await }.in_current_span()).await {
        Ok(lookup) => lookup,
        Err(_) => Lookup::unavailable("the adapter panicked while reading the provider's answer"),
    }
}

/// Sends the same request once more, where that is still safe when its turn has come: by the retry
/// contract, or because a lookup has just proven that no attempt had an effect.
async fn resend(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    refund: Refund,
    is_proven: bool,
) -> Result<(), EngineError> {
    let slot = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return Ok(()),
        slot = lane.slots.clone().acquire_owned() => slot.map_err(|_| EngineError::Draining)?,
    };
    lane.turn().await;
    if !(is_proven || shared.may_resend(lane, &refund)) || shared.draining.is_cancelled() {
        return Ok(());
    }
    let Some(era) = lane.try_acquire_probe() else { return Ok(()) };
    // Records and sends the credential that was compared: with a secret that is renewed in between
    // the key would be another one.
    let credential = if is_proven { lane.account.adapter.credential(refund.id()) } else { refund.credential.clone() };
    let begun = begin_attempt(shared, lane, &refund, era, credential).await?;
    let Some(dispatched) = begun else { return Ok(()) };
    let span = span_of_attempt(lane, &dispatched);
    // After a long stall of the disk or the machine, or with a renewed secret, what was safe when
    // the attempt began may no longer be so.
    if !is_proven && !shared.may_resend(lane, &dispatched) {
        lane.release(era);
        return Ok(abandon_attempt(shared, lane, dispatched, refund).instrument(span).await?);
    }
    attempt(shared, lane, dispatched, era).instrument(span).await;
    drop(slot);
    Ok(())
}

/// Records one more attempt, whose key is bound to `credential`, of a refund that took its turn in
/// `era`. None if the refund has moved on meanwhile.
pub(super) async fn begin_attempt(
    shared: &EngineCore,
    lane: &AccountRuntime,
    refund: &Refund,
    era: Generation,
    credential: Option<String>,
) -> Result<Option<Refund>, LedgerError> {
    // An attempt belongs to one place: it is never made from an account that is somewhere else by
    // now.
    if lane.account.destination() != refund.destination() {
        lane.release(era);
        return Ok(None);
    }
    match shared.record(refund, vec![Event::Dispatched { credential }], None, GATEWAY).await {
        Ok(dispatched) => Ok(Some(dispatched)),
        Err(error) => {
            lane.release(era);
            match error {
                LedgerError::StaleRevision { .. } | LedgerError::IllegalTransition(_) => Ok(None),
                error => Err(error),
            }
        }
    }
}

/// Puts a refund back in doubt whose attempt is on disk and must not be sent any more.
async fn abandon_attempt(
    shared: &EngineCore,
    lane: &AccountRuntime,
    dispatched: Refund,
    before: Refund,
) -> Result<(), LedgerError> {
    let reason = before.doubt.map_or(DoubtReason::Contradiction, |doubt| doubt.reason);
    let Decision { events, next_check, .. } =
        decide::after_delay(&dispatched, reason, shared.rules(lane, &dispatched), shared.clock.now());
    let refund = shared.record(&dispatched, events, next_check, GATEWAY).await?;
    log_outcome(&refund);
    Ok(())
}

async fn attempt(shared: &Arc<EngineCore>, lane: &AccountRuntime, refund: Refund, era: Generation) {
    // A panic in an adapter is an unknown outcome and not a lost attempt.
    let sent = lane.account.adapter.refund(&refund.intent, refund.credential.as_deref());
    let outcome = match AssertUnwindSafe(sent).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: "the adapter panicked; what the provider did is not known".to_owned(),
        },
    };
    let is_open = lane.note(era, signal_of(&refund, &outcome));
    let Decision { events, next_check, .. } =
        decide::after_attempt(&refund, outcome, shared.rules(lane, &refund), shared.clock.now());
    match shared.record(&refund, events, next_check, GATEWAY).await {
        Ok(recorded) => {
            // The drivers' next look must not come later than this refund is due.
            match recorded.state {
                State::Pending => lane.bell.notify_one(),
                State::InDoubt | State::Submitted | State::NeedsReview => lane.reconcile_notify.notify_one(),
                _ => {}
            }
            log_outcome(&recorded);
            if is_open {
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
fn signal_of(refund: &Refund, outcome: &Outcome) -> Signal {
    match outcome {
        Outcome::NotSent { error, .. } if error.category == ErrorCategory::CredentialsRefused => {
            Signal::CredentialsRefused
        }
        // No byte left: the provider was not reached.
        Outcome::NotSent { error, .. } if error.http_status == 0 => Signal::Failure,
        Outcome::Refused { error, .. } if error.code == NOT_THIS_ACCOUNTS => {
            Signal::ForeignTarget(refund.intent.target.references().concat())
        }
        // The provider looked at the request itself, so it has taken the credentials.
        Outcome::Refunded(_) | Outcome::Accepted(_) | Outcome::Refused { .. } | Outcome::NotSent { .. } => {
            Signal::Healthy
        }
        Outcome::Unknown { .. } => Signal::Failure,
    }
}

/// What a look tells of the account that it was made for.
fn signal_of_lookup(refund: &Refund, lookup: &Lookup) -> Signal {
    match lookup {
        Lookup::Found(_)
        | Lookup::NotFound { .. }
        | Lookup::Unavailable { heard: AccountSignal::NoTarget | AccountSignal::NotDispatched, .. } => Signal::Healthy,
        Lookup::Unavailable { heard: AccountSignal::NotOurs, .. } => {
            Signal::ForeignTarget(refund.intent.target.references().concat())
        }
        // Only a refused attempt makes refunds wait as CREDENTIALS_REFUSED; a refused lookup does
        // not.
        Lookup::Unavailable { heard: AccountSignal::Nothing | AccountSignal::LoginRefused, .. } => Signal::Failure,
    }
}

/// Has a refused secret read from its file again at once: it may have been replaced there. Sectigo
/// answers a wrong login like an order of another account.
fn renew_refused_login(lane: &AccountRuntime, lookup: &Lookup) {
    if let Lookup::Unavailable { heard: AccountSignal::LoginRefused | AccountSignal::NotOurs, .. } = lookup {
        lane.account.secret.refused();
    }
}

/// As [`log_outcome`].
fn log_lookup(before: &Refund, refund: &Refund, lookup: &Lookup) {
    let state = refund.state.as_str();
    // Those before this one, of the present doubt.
    let lookups = before.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    match lookup {
        _ if refund.state == State::NeedsReview && before.state != State::NeedsReview => log_review(refund),
        _ if refund.corrected_time != before.corrected_time => {
            let status = refund.provider_status.as_deref();
            error!(state, status, "the provider reports a refund that it, or a person, had said no to: money moved");
        }
        Lookup::Unavailable { .. } => warn!(state, lookups, "the provider did not tell what became of the refund"),
        _ => info!(state, lookups, "looked the refund up at its provider"),
    }
}

fn log_review(refund: &Refund) {
    let state = refund.state.as_str();
    let (reason, code) = (reason_of(refund), code_of(refund));
    error!(state, reason, code, "the gateway cannot find out what became of the refund: a person must");
}

/// No word of the provider: it may name people. Its code and kind say enough, and the refund itself
/// has the rest. Where no byte left there is neither, and the words are the gateway's own.
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
