//! ResolveRefund: records an operator's decision on a refund, and carries it out if it is to send
//! the refund again.

use std::sync::Arc;

use crate::domain::authority::Actor;
use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::event::{Decided, Event, ItemResolution, Resolution};
use crate::domain::money::Money;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::engine::attempt;
use crate::engine::commands::ResolveCommand;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::engine::second_person;
use crate::ledger::LedgerError;
use crate::providers;

/// See [`crate::engine::Engine::resolve`].
pub(super) async fn resolve(core: Arc<EngineCore>, command: ResolveCommand) -> Result<Refund, EngineError> {
    let refund = core.get_for(&command.by, &command.id).await?;
    if command.etag != refund.etag() {
        return Err(EngineError::EtagMismatch { present: refund.etag() });
    }
    let is_taken_over = command.take_over && matches!(refund.state, State::InDoubt | State::Submitted);
    if refund.state != State::NeedsReview && !is_taken_over {
        return Err(EngineError::NotInReview(refund.state));
    }
    match command.resolution {
        Resolution::SendAgain => second_person::check_not_involved(&refund, &command.by)?,
        _ => second_person::check_not_creator(&refund, &command.by)?,
    }
    check(&refund, &command)?;
    if command.resolution == Resolution::SendAgain {
        return send_again(&core, refund, command).await;
    }
    let event = Event::Resolved(Decided {
        take_over: is_taken_over,
        reserve_until: reserve_until(&core, &refund, &command.resolution),
        follow_until: follow_until(&core, &refund, &command.resolution),
        ..Decided::new(command.resolution, command.evidence)
    });
    record(&core, &refund, event, &command.by.actor).await
}

async fn send_again(core: &Arc<EngineCore>, refund: Refund, command: ResolveCommand) -> Result<Refund, EngineError> {
    let account = core.account_of(&refund)?.clone();
    if account.is_paused() {
        return Err(EngineError::AccountPaused(account.name().clone()));
    }
    // Takes a slot before the attempt is recorded, so that a recorded attempt is sent immediately.
    let slot = tokio::select! {
        biased;
        () = core.draining.cancelled() => return Err(EngineError::Draining),
        slot = account.attempt_slots.clone().acquire_owned() => slot.map_err(|_| EngineError::Draining)?,
    };
    account.rate_limiter.acquire().await;
    if core.draining.is_cancelled() {
        return Err(EngineError::Draining);
    }
    let generation = account.generation();
    let credential = account.configured.refunds.credential(refund.id());
    let event = Event::Resolved(Decided { credential, ..Decided::new(Resolution::SendAgain, command.evidence) });
    let refund = record(core, &refund, event, &command.by.actor).await?;
    attempt::spawn(core, &account, refund.clone(), slot, generation);
    Ok(refund)
}

async fn record(core: &EngineCore, refund: &Refund, event: Event, actor: &Actor) -> Result<Refund, EngineError> {
    let next_check = match &event {
        Event::Resolved(Decided { follow_until: Some(until), .. }) => {
            Some(core.clock.now().saturating_add(core.settings.schedule.then_every)).filter(|next| next < until)
        }
        _ => None,
    };
    match core.record(refund, vec![event], next_check, actor).await {
        Err(LedgerError::StaleRevision { present }) => Err(EngineError::EtagMismatch { present: present.etag() }),
        Err(LedgerError::AccountPaused(account)) => Err(EngineError::AccountPaused(account)),
        recorded => Ok(recorded?.outcome),
    }
}

/// How long a target that was not refunded stays reserved: until an effect of the last attempt can
/// be ruled out. The operator may be right today while the request is still queued at the provider.
/// If the account is gone, the provider's default settle time applies.
fn reserve_until(core: &EngineCore, refund: &Refund, resolution: &Resolution) -> Option<Timestamp> {
    let leaves_some = match resolution {
        Resolution::NotRefunded => true,
        Resolution::Refunded { items, .. } => items.iter().any(|item| !item.refunded),
        Resolution::SendAgain => false,
    };
    let settle_time = core.account_of(refund).map_or_else(
        |_| providers::defaults_of(refund.provider()).settle_time,
        |account| account.configured.contract.settle_time,
    );
    let until = refund.settling_since()?.saturating_add(settle_time);
    Some(until).filter(|until| leaves_some && *until > core.clock.now())
}

/// How long a decision is followed, since the provider may show otherwise. Not at all if its record
/// may be another caller's: that corrects no decision.
fn follow_until(core: &EngineCore, refund: &Refund, resolution: &Resolution) -> Option<Timestamp> {
    let follow_up = core.settings.rejection_follow_up;
    let is_followed = *resolution == Resolution::NotRefunded && !refund.foreign_record && !follow_up.is_zero();
    is_followed.then(|| core.clock.now().saturating_add(follow_up))
}

/// Checks a decision, and reports all its violations together.
fn check(refund: &Refund, command: &ResolveCommand) -> Result<(), EngineError> {
    let mut violations = Vec::new();
    if let Resolution::Refunded { amount, items } = &command.resolution {
        if let Some(amount) = amount {
            check_amount("refunded_amount", refund, *amount, &mut violations);
        }
        if !items.is_empty() {
            check_items(refund, items, &mut violations);
            check_sum(*amount, items, &mut violations);
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(EngineError::Invalid(violations)) }
}

fn check_amount(field: &str, refund: &Refund, amount: Money, violations: &mut Vec<FieldViolation>) {
    if amount.minor_units <= 0 {
        violations.push(FieldViolation::new(format!("{field}.minor_units"), "must be above zero"));
    }
    let currency = refund.place.currency;
    if amount.currency != currency {
        let right = format!("must be the account's currency, {currency}");
        violations.push(FieldViolation::new(format!("{field}.currency_code"), right));
    } else if let Some(requested) = refund.intent.target.requested_amount()
        && amount.minor_units > requested.minor_units
    {
        let right = format!("must be at most what was asked for, {requested}");
        violations.push(FieldViolation::new(format!("{field}.minor_units"), right));
    }
}

fn check_items(refund: &Refund, items: &[ItemResolution], violations: &mut Vec<FieldViolation>) {
    let requested = refund.intent.target.item_ids();
    if requested.is_empty() {
        violations.push(FieldViolation::new("items", "must be empty: the refund has no items"));
        return;
    }
    for (index, item) in items.iter().enumerate() {
        let field = format!("items[{index}]");
        if !requested.contains(&item.item_id) {
            violations.push(FieldViolation::new(format!("{field}.item_id"), "must be one of the items asked for"));
        } else if items.iter().take(index).any(|before| before.item_id == item.item_id) {
            violations.push(FieldViolation::new(format!("{field}.item_id"), "must name each item once"));
        }
        match item.amount {
            Some(amount) if item.refunded => {
                check_amount(&format!("{field}.refunded_amount"), refund, amount, violations)
            }
            Some(_) => violations.push(FieldViolation::new(
                format!("{field}.refunded_amount"),
                "must be left out for an item that was not refunded",
            )),
            None => {}
        }
    }
    let missing: Vec<&str> =
        requested.iter().filter(|id| !items.iter().any(|item| item.item_id == **id)).map(String::as_str).collect();
    if !missing.is_empty() {
        violations.push(FieldViolation::new(
            "items",
            format!("must name every item asked for: {} missing", missing.join(", ")),
        ));
    }
    if items.iter().all(|item| !item.refunded) {
        violations.push(FieldViolation::new(
            "items",
            "must hold a refunded item: RESOLUTION_NOT_REFUNDED says that there is none",
        ));
    }
}

/// The amount must be the sum of the refunded items.
fn check_sum(amount: Option<Money>, items: &[ItemResolution], violations: &mut Vec<FieldViolation>) {
    let refunded: Option<Vec<i64>> =
        items.iter().filter(|item| item.refunded).map(|item| item.amount.map(|amount| amount.minor_units)).collect();
    let (Some(amount), Some(refunded)) = (amount, refunded) else { return };
    let sum = refunded.into_iter().fold(0_i64, i64::saturating_add);
    if sum != amount.minor_units {
        violations.push(FieldViolation::new("refunded_amount", "must be the sum of the refunded items"));
    }
}
