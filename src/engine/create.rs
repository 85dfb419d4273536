//! CreateRefund: records a refund and sends it, or finds the one that has its id, and waits for an
//! outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, debug, debug_span, info};

use crate::domain::authority::Authority;
use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::engine::account::AccountRuntime;
use crate::engine::attempt;
use crate::engine::circuit_breaker::Generation;
use crate::engine::commands::{CreateCommand, CreateResult};
use crate::engine::core::{EngineCore, WaitingFor};
use crate::engine::error::EngineError;
use crate::engine::outcome_log::event_number;
use crate::engine::visibility;
use crate::engine::waiters::Waiter;
use crate::ledger::{CreateOutcome, FirstAttempt, Health, NewRefund, Recorded, Ticket};
use crate::telemetry::traces;

/// What the first attempt of a refund needs, which is on disk and not sent yet.
struct Unsent {
    account: Arc<AccountRuntime>,
    refund: Refund,
    slot: OwnedSemaphorePermit,
    generation: Generation,
}

/// See [`crate::engine::Engine::create`].
pub(super) async fn create(
    core: &Arc<EngineCore>,
    command: CreateCommand,
    may_wait: impl FnOnce() -> bool,
) -> Result<CreateResult, EngineError> {
    let (answer_by, wait_until) = (command.answer_by, command.wait_until);
    let ticket = Ticket::default();
    // Registered before anything is recorded, so that waiting needs no further read of the refund.
    let waiter = core.waiters.register(&command.intent.id);
    let (report, mut recorded) = oneshot::channel();
    // A task of its own: a caller that leaves must not interrupt the work between commit and send.
    core.spawn(create_detached(core.clone(), command, ticket.clone(), report));
    let recorded = match timeout_at(answer_by, &mut recorded).await {
        Ok(reported) => reported,
        Err(_) if ticket.cancel() => return Err(EngineError::Deadline),
        // The ledger has begun: what it did decides, not the clock.
        Err(_) => recorded.await,
    };
    let recorded = match recorded {
        Ok(recorded) => recorded?,
        // The task may have died after the commit. Repeating the call finds out.
        Err(_) => return Err(EngineError::Panicked),
    };
    let refund = wait_for_outcome(core, recorded.refund, waiter, wait_until, may_wait).await;
    Ok(CreateResult { refund, replayed: recorded.replayed })
}

/// See [`crate::engine::Engine::dry_run`].
pub(super) async fn dry_run(core: &EngineCore, command: CreateCommand) -> Result<CreateResult, EngineError> {
    let (by, intent) = (command.by.clone(), command.intent.clone());
    if let Some(existing) = find_existing(core, &by, &intent).await? {
        return Ok(CreateResult { refund: existing, replayed: true });
    }
    let account = account_for(core, &by, &intent)?;
    match core.ledger.dry_run(new_refund(core, account, command, false, Ticket::default())).await {
        Ok(CreateOutcome::New(refund)) => Ok(CreateResult { refund, replayed: false }),
        Ok(CreateOutcome::Known(refund)) => {
            Ok(CreateResult { refund: visibility::match_existing(&by, refund, &intent)?, replayed: true })
        }
        Err(error) => Err(visibility::conceal_creation(core, &by, &intent.id, error).await),
    }
}

/// Records a refund, reports it to the caller, and goes on with its first attempt if a slot was
/// free. The report waits for no provider, and the attempt for no caller: it may have left.
async fn create_detached(
    core: Arc<EngineCore>,
    command: CreateCommand,
    ticket: Ticket,
    report: oneshot::Sender<Result<CreateResult, EngineError>>,
) {
    let (result, unsent) = match record(&core, command, ticket).await {
        Ok((result, unsent)) => (Ok(result), unsent),
        Err(error) => (Err(error), None),
    };
    drop(report.send(result));
    if let Some(Unsent { account, refund, slot, generation }) = unsent {
        attempt::carry_out(&core, &account, refund, slot, generation).await;
    }
}

/// One commit: the refund, its reservation, and its first attempt if a slot is free.
async fn record(
    core: &EngineCore,
    command: CreateCommand,
    ticket: Ticket,
) -> Result<(CreateResult, Option<Unsent>), EngineError> {
    // Before every reason to refuse the call: a refund that is on disk is returned in any case.
    let (by, intent) = (command.by.clone(), command.intent.clone());
    if let Some(existing) = find_existing(core, &by, &intent).await? {
        return Ok((CreateResult { refund: existing, replayed: true }, None));
    }
    if core.draining.is_cancelled() {
        return Err(EngineError::Draining);
    }
    let account = account_for(core, &by, &intent)?.clone();
    let generation = account.generation();
    let slot = account.try_acquire_for_new();
    let create = new_refund(core, &account, command, slot.is_some(), ticket);
    let commit = debug_span!("commit", step = "create");
    let Recorded { outcome, sequence } = match core.ledger.create(create).instrument(commit).await {
        Ok(recorded) => recorded,
        Err(error) => return Err(visibility::conceal_creation(core, &by, &intent.id, error).await),
    };
    let refund = match outcome {
        CreateOutcome::Known(refund) => {
            let refund = visibility::match_existing(&by, refund, &intent)?;
            return Ok((CreateResult { refund, replayed: true }, None));
        }
        CreateOutcome::New(refund) => refund,
    };
    let (id, name, sequence) = (refund.id(), account.name(), event_number(sequence));
    let unsent = if let Some(approval) = &refund.approval {
        let rule = &approval.rule;
        info!(refund = %id, account = %name, sequence, rule, "refund recorded: it waits for an approval");
        None
    // Without a slot, or where the ledger found the account paused, the refund is PENDING.
    } else if let Some(slot) = slot.filter(|_| refund.state == State::Dispatching) {
        // Its outcome is the refund's one line at INFO.
        debug!(refund = %id, account = %name, sequence, "refund recorded");
        Some(Unsent { account, refund: refund.clone(), slot, generation })
    } else {
        let waiting_for = core.waiting_for(&refund).map(WaitingFor::as_str);
        info!(refund = %id, account = %name, sequence, waiting_for, "refund recorded: it is not sent at once");
        account.has_backlog.store(true, Ordering::Release);
        account.dispatch_notify.notify_one();
        None
    };
    Ok((CreateResult { refund, replayed: false }, unsent))
}

/// The refund that a request repeats.
///
/// It is found without the ledger's writer, and even if the configuration would refuse the request
/// now: its account is gone, or the account's currency has changed. A ledger that has stopped
/// writing is read too, because an error would say that nothing was recorded. A ledger that does
/// not verify is not: its write error says why.
async fn find_existing(core: &EngineCore, by: &Authority, intent: &Intent) -> Result<Option<Refund>, EngineError> {
    if matches!(*core.ledger.health().borrow(), Health::Corrupt(_)) && account_for(core, by, intent).is_ok() {
        return Ok(None);
    }
    let Some(refund) = core.ledger.get(&intent.id).await? else { return Ok(None) };
    Ok(Some(visibility::match_existing(by, refund, intent)?))
}

/// The account of an intent, if the configuration allows the intent at all.
fn account_for<'a>(
    core: &'a EngineCore,
    by: &Authority,
    intent: &Intent,
) -> Result<&'a Arc<AccountRuntime>, EngineError> {
    let account = core.account_for(by, &intent.account)?;
    let (of, target) = (account.configured.provider, intent.target.provider());
    if of != target {
        return Err(EngineError::AccountMismatch { account: intent.account.clone(), of, target });
    }
    account.configured.check_target(&intent.target).map_err(|violation| EngineError::Invalid(vec![violation]))?;
    let currency = account.configured.place.currency;
    if intent.expected_amount.is_some_and(|expected| expected.currency != currency) {
        let problem = format!("must be {currency}, the account's currency");
        return Err(EngineError::Invalid(vec![FieldViolation::new("expected_amount.currency_code", problem)]));
    }
    Ok(account)
}

fn new_refund(
    core: &EngineCore,
    account: &AccountRuntime,
    command: CreateCommand,
    dispatch: bool,
    ticket: Ticket,
) -> NewRefund {
    NewRefund {
        dispatch: dispatch
            .then(|| FirstAttempt { credential: account.configured.refunds.credential(&command.intent.id) }),
        intent: command.intent,
        place: account.configured.place.clone(),
        related: account.related.clone(),
        allow_similar: command.allow_similar,
        by: command.by,
        now: core.clock.now(),
        ticket,
        trace_parent: traces::current().or(command.trace_parent),
    }
}

/// Waits for an outcome: until the refund has left PENDING and DISPATCHING, or cannot do so before
/// `until`, or its account is suspended. How long a suspension lasts is unknown, and callers that
/// wait for one provider must not use up the room of others.
///
/// If the ledger cannot be read, returns the refund as the caller has it: it is on disk.
async fn wait_for_outcome(
    core: &EngineCore,
    refund: Refund,
    mut waiter: Waiter,
    until: Instant,
    may_wait: impl FnOnce() -> bool,
) -> Refund {
    let done = |refund: &Refund| match refund.state {
        State::Dispatching => false,
        State::Pending => {
            let is_after_until =
                |at: Timestamp| Instant::now() + at.saturating_duration_since(core.clock.now()) > until;
            // A missing or changed account delays the refund like a suspended one.
            let is_suspended = core.account_of(refund).map_or(true, |account| account.is_held());
            is_suspended || core.draining.is_cancelled() || refund.not_before.is_some_and(is_after_until)
        }
        _ => true,
    };
    if done(&refund) || Instant::now() >= until || !may_wait() {
        return refund;
    }
    let mut wait = async || {
        tokio::select! {
            biased;
            seen = waiter.until(refund.clone(), until, done) => seen,
            () = core.ledger_stopped.cancelled() => core.get(refund.id()).await.unwrap_or_else(|_| refund.clone()),
        }
    };
    tokio::select! {
        biased;
        seen = wait() => seen,
        // What is PENDING now stays so until the next start; what is on the wire has the drain's
        // time.
        () = core.draining.cancelled() => wait().await,
    }
}
