//! ResolveRefund: a person's decision, recorded, and carried out where it is to send again.

use std::sync::Arc;

use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::contract::default_settle_time;
use crate::domain::event::{Decided, Event, ItemResolution, Resolution};
use crate::domain::money::Money;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::engine::{EngineCore, EngineError, ResolveCommand, step};
use crate::ledger::LedgerError;

/// See [`crate::engine::Engine::resolve`].
pub(super) async fn resolve(shared: Arc<EngineCore>, command: ResolveCommand) -> Result<Refund, EngineError> {
    let refund = shared.get(&command.id).await?;
    if command.etag != refund.etag() {
        return Err(EngineError::EtagMismatch { present: refund.etag() });
    }
    let is_taken_over = command.take_over && matches!(refund.state, State::InDoubt | State::Submitted);
    if refund.state != State::NeedsReview && !is_taken_over {
        return Err(EngineError::NotInReview(refund.state));
    }
    check(&refund, &command)?;
    if command.resolution == Resolution::SendAgain {
        return send_again(&shared, refund, command).await;
    }
    let event = Event::Resolved(Decided {
        take_over: is_taken_over,
        reserve_until: reserved_until(&shared, &refund, &command.resolution),
        follow_until: followed_until(&shared, &refund, &command.resolution),
        ..Decided::new(command.resolution, command.evidence)
    });
    record(&shared, &refund, event, &command.actor).await
}

async fn send_again(shared: &Arc<EngineCore>, refund: Refund, command: ResolveCommand) -> Result<Refund, EngineError> {
    let lane = shared.configured_account(&refund)?.clone();
    // Takes a slot before the attempt is recorded, so that a recorded attempt is sent at once.
    let slot = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return Err(EngineError::Draining),
        slot = lane.slots.clone().acquire_owned() => slot.map_err(|_| EngineError::Draining)?,
    };
    lane.turn().await;
    if shared.draining.is_cancelled() {
        return Err(EngineError::Draining);
    }
    let era = lane.era();
    let credential = lane.account.refunds.credential(refund.id());
    let event = Event::Resolved(Decided { credential, ..Decided::new(Resolution::SendAgain, command.evidence) });
    let refund = record(shared, &refund, event, &command.actor).await?;
    step::spawn_attempt(shared, &lane, refund.clone(), slot, era);
    Ok(refund)
}

async fn record(shared: &EngineCore, refund: &Refund, event: Event, actor: &str) -> Result<Refund, EngineError> {
    let next_check = match &event {
        Event::Resolved(Decided { follow_until: Some(until), .. }) => {
            Some(shared.clock.now().saturating_add(shared.settings.schedule.then_every)).filter(|next| next < until)
        }
        _ => None,
    };
    match shared.record(refund, vec![event], next_check, actor).await {
        Err(LedgerError::StaleRevision { present }) => Err(EngineError::EtagMismatch { present: present.etag() }),
        recorded => Ok(recorded?),
    }
}

/// What was not given back stays reserved until an effect of the last attempt can be ruled out: the
/// person may be right today while the request is still queued at the provider. If the account is
/// gone, the provider's default settle time applies.
fn reserved_until(shared: &EngineCore, refund: &Refund, resolution: &Resolution) -> Option<Timestamp> {
    let leaves_some = match resolution {
        Resolution::NotRefunded => true,
        Resolution::Refunded { items, .. } => items.iter().any(|item| !item.refunded),
        Resolution::SendAgain => false,
    };
    let settle_time = shared
        .configured_account(refund)
        .map_or_else(|_| default_settle_time(refund.provider()), |lane| lane.account.contract.settle_time);
    let until = refund.settling_since()?.saturating_add(settle_time);
    Some(until).filter(|until| leaves_some && *until > shared.clock.now())
}

/// A record that may be another caller's corrects no decision.
fn followed_until(shared: &EngineCore, refund: &Refund, resolution: &Resolution) -> Option<Timestamp> {
    let follow_up = shared.settings.rejection_follow_up;
    let is_followed = *resolution == Resolution::NotRefunded && !refund.foreign_record && !follow_up.is_zero();
    is_followed.then(|| shared.clock.now().saturating_add(follow_up))
}

/// Reports everything that is wrong with a decision.
fn check(refund: &Refund, command: &ResolveCommand) -> Result<(), EngineError> {
    let mut faults = Vec::new();
    if let Resolution::Refunded { amount, items } = &command.resolution {
        if let Some(amount) = amount {
            check_amount("refunded_amount", refund, *amount, &mut faults);
        }
        if !items.is_empty() {
            check_items(refund, items, &mut faults);
            check_sum(*amount, items, &mut faults);
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(EngineError::Invalid(faults)) }
}

fn check_amount(field: &str, refund: &Refund, amount: Money, faults: &mut Vec<FieldViolation>) {
    if amount.minor_units <= 0 {
        faults.push(FieldViolation::new(format!("{field}.minor_units"), "must be above zero"));
    }
    let currency = refund.place.currency;
    if amount.currency != currency {
        let right = format!("must be the account's currency, {currency}");
        faults.push(FieldViolation::new(format!("{field}.currency_code"), right));
    } else if let Some(requested) = refund.intent.target.requested_amount()
        && amount.minor_units > requested.minor_units
    {
        let right = format!("must be at most what was asked for, {requested}");
        faults.push(FieldViolation::new(format!("{field}.minor_units"), right));
    }
}

fn check_items(refund: &Refund, items: &[ItemResolution], faults: &mut Vec<FieldViolation>) {
    let requested = refund.intent.target.item_ids();
    if requested.is_empty() {
        faults.push(FieldViolation::new("items", "must be empty: only a refund of name.com has items"));
        return;
    }
    for (index, item) in items.iter().enumerate() {
        let field = format!("items[{index}]");
        if !requested.contains(&item.item_id) {
            faults.push(FieldViolation::new(format!("{field}.item_id"), "must be one of the items asked for"));
        } else if items.iter().take(index).any(|before| before.item_id == item.item_id) {
            faults.push(FieldViolation::new(format!("{field}.item_id"), "must name each item once"));
        }
        match item.amount {
            Some(amount) if item.refunded => check_amount(&format!("{field}.refunded_amount"), refund, amount, faults),
            Some(_) => faults.push(FieldViolation::new(
                format!("{field}.refunded_amount"),
                "must be left out for an item that was not refunded",
            )),
            None => {}
        }
    }
    let missing: Vec<&str> =
        requested.iter().filter(|id| !items.iter().any(|item| item.item_id == **id)).map(String::as_str).collect();
    if !missing.is_empty() {
        faults.push(FieldViolation::new(
            "items",
            format!("must name every item asked for: {} missing", missing.join(", ")),
        ));
    }
    if items.iter().all(|item| !item.refunded) {
        faults.push(FieldViolation::new(
            "items",
            "must hold a refunded item: RESOLUTION_NOT_REFUNDED says that there is none",
        ));
    }
}

/// The amount and the sum of the items must agree.
fn check_sum(amount: Option<Money>, items: &[ItemResolution], faults: &mut Vec<FieldViolation>) {
    let refunded: Option<Vec<i64>> =
        items.iter().filter(|item| item.refunded).map(|item| item.amount.map(|amount| amount.minor_units)).collect();
    let (Some(amount), Some(refunded)) = (amount, refunded) else { return };
    let sum = refunded.into_iter().fold(0_i64, i64::saturating_add);
    if sum != amount.minor_units {
        faults.push(FieldViolation::new("refunded_amount", "must be the sum of the refunded items"));
    }
}
