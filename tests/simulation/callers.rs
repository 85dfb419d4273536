//! The operations of callers, operators and providers, one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use recoup::domain::authority::Authority;
use recoup::domain::event::{ItemResolution, Resolution};
use recoup::domain::ids::{AccountName, RefundId};
use recoup::domain::money::Money;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use recoup::engine::{CreateCommand, Engine, EngineError, ReassignCommand, ResolveCommand};
use recoup::ledger::Ledger as _;
use tokio::time::Instant;

use crate::history::CallResult;
use crate::oracle;
use crate::people;
use crate::places;
use crate::plan::{ItemFate, Op, Plan, ProviderKind, TargetPlan};
use crate::setups::SimulatedProvider as _;
use crate::sim::{Sim, lock, micros};
use crate::world;

/// A caller's deadline.
const DEADLINE: Duration = Duration::from_secs(30);

/// The content of a create request. Another variant is other content under the same id.
pub(crate) fn intent(plan: &Plan, refund: u8, target: u8, variant: u8) -> Intent {
    let planned = &plan.targets[usize::from(target)];
    let other = i32::from(variant == 2);
    let wanted = match planned {
        TargetPlan::Order { .. } => {
            Target::Sectigo(SectigoTarget::new(&world::order_number(target), 10 + other).unwrap())
        }
        TargetPlan::Items { items } => {
            let requested = (0..).zip(items).filter(|(_, item)| item.fate != ItemFate::Privacy);
            let mut ids: Vec<i32> = requested.map(|(place, _)| world::item_id(target, place)).collect();
            if variant == 2 && ids.len() > 1 {
                ids.truncate(1);
            }
            Target::Namecom(NamecomTarget::new(world::order_id(target), &ids).unwrap())
        }
        TargetPlan::Amount { minor, .. } => {
            let reference = world::account_reference(target);
            let fields = DebitsuccessFields {
                account_reference_no: &reference,
                external_account_reference_no: "",
                amount: Some(("AUD", minor + i64::from(other))),
                description: "Charged twice",
                request_initiator: "",
            };
            Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap())
        }
    };
    let labels = BTreeMap::from([("ticket".to_owned(), format!("T-{}", u8::from(variant == 1)))]);
    let account = match plan.at_second_account >> refund & 1 {
        0 => planned.provider().account_name(),
        _ => planned.provider().second_account(),
    };
    Intent { id: id(refund), account, target: wanted, labels, expected_amount: None }
}

pub(crate) fn id(refund: u8) -> RefundId {
    RefundId::parse(&format!("r{refund}")).unwrap()
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Create { .. } => "create",
            Op::DryRun { .. } => "dry run",
            Op::Wait { .. } => "wait",
            Op::Cancel { .. } => "cancel",
            Op::Reconcile { .. } => "reconcile",
            Op::Resolve { .. } => "resolve",
            Op::Reassign { .. } => "reassign",
            Op::Decide { .. } => "approve or reject",
            Op::Get { .. } => "get",
            Op::List => "list",
            Op::Pause { .. } => "pause",
            Op::Resume { .. } => "resume",
            Op::Settle { .. } => "provider decides",
            Op::Correct { .. } => "paid after a rejection",
            Op::RefundByOthers { .. } => "refunded by others",
            Op::KeyUsedByOthers { .. } => "key used by others",
            Op::Outage { .. } => "outage",
            Op::AdvanceClock { .. } => "clock advanced",
            Op::SkewClock { .. } => "clock set",
            Op::Crash { .. } => "kill",
            Op::Restart { .. } => "restart",
        }
    }
}

/// Makes one call, to its end.
pub(crate) async fn call(sim: Arc<Sim>, engine: Engine, op: Op) {
    let plan = &sim.plan;
    let now = Instant::now();
    match op {
        Op::Create { refund, target, variant, wait_ms, similar, gives_up_after_ms } => {
            let requested = intent(plan, refund, target, variant);
            let creator = people::creator(refund);
            if people::is_revoked(&sim, creator) {
                return;
            }
            let known = match sim.ledger() {
                Some(ledger) => ledger.get(&requested.id).await.ok().flatten(),
                None => None,
            };
            let was_known = known.is_some_and(|known| known.intent == requested);
            let command = CreateCommand {
                intent: requested.clone(),
                allow_similar: similar,
                by: people::authority(&sim, creator),
                answer_by: now + DEADLINE,
                wait_until: now + Duration::from_millis(wait_ms),
                trace_parent: None,
            };
            let create = async {
                let created = engine.create(command).await;
                if let Err(EngineError::Ledger(error)) = &created {
                    people::judge_replay(&sim, id(refund).as_str(), was_known, error);
                }
                let created = created?;
                Ok((created.refund, created.replayed))
            };
            record(&sim, "create", refund, Some(requested), gives_up_after_ms, create).await;
        }
        Op::DryRun { refund, target } => {
            let command = CreateCommand {
                intent: intent(plan, refund, target, 0),
                allow_similar: false,
                by: people::authority(&sim, people::creator(refund)),
                answer_by: now + DEADLINE,
                wait_until: now,
                trace_parent: None,
            };
            let seen = engine.dry_run(command).await.map_err(|error| error.to_string());
            sim.trace(format_args!("dry run r{refund}: {}", seen.map_or_else(|error| error, |_| "ok".to_owned())));
        }
        Op::Wait { refund, wait_ms, gives_up_after_ms } => {
            let wait = async {
                let seen = engine.get(&id(refund)).await?;
                let until = now + Duration::from_millis(wait_ms);
                Ok((engine.wait(&id(refund), seen.revision, until).await?, false))
            };
            record(&sim, "wait", refund, None, gives_up_after_ms, wait).await;
        }
        Op::Cancel { refund, old_etag, gives_up_after_ms } => {
            let cancel = async {
                let by = people::authority(&sim, people::creator(refund));
                let etag = if old_etag { Some(engine.get(&id(refund)).await?.etag()) } else { None };
                if old_etag {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                Ok((engine.cancel(&id(refund), etag.as_deref(), by).await?, false))
            };
            record(&sim, "cancel", refund, None, gives_up_after_ms, cancel).await;
        }
        Op::Reconcile { refund, gives_up_after_ms } => {
            let by = people::authority(&sim, "operator");
            let reconcile = async { Ok((engine.reconcile(&id(refund), by).await?, false)) };
            record(&sim, "reconcile", refund, None, gives_up_after_ms, reconcile).await;
        }
        Op::Resolve { refund, send_again, take_over } => {
            resolve(&sim, &engine, &id(refund), send_again, take_over, true).await;
        }
        Op::Reassign { refund, second, stale_etag } => {
            let Ok(refund) = engine.get(&id(refund)).await else { return };
            let provider = refund.provider();
            let account = if second { provider.second_account() } else { provider.account_name() };
            let by = people::decider(&sim, &refund);
            reassign(&sim, &engine, &refund, account, stale_etag, by).await;
        }
        Op::Decide { refund, caller, reject, stale_etag } => {
            let Ok(refund) = engine.get(&id(refund)).await else { return };
            people::decide(&sim, &engine, &refund, people::name(caller), reject, stale_etag).await;
        }
        Op::Get { refund } => {
            let get = async { Ok((engine.get(&id(refund)).await?, false)) };
            record(&sim, "get", refund, None, None, get).await;
        }
        Op::List => oracle::judge_views(&sim, &engine).await,
        Op::Pause { provider, second } => pause(&sim, &engine, account_of(provider, second)).await,
        Op::Resume { provider, second } => resume(&sim, &engine, account_of(provider, second)).await,
        _ => {}
    }
}

fn account_of(provider: ProviderKind, second: bool) -> AccountName {
    if second { provider.second_account() } else { provider.account_name() }
}

/// Pauses an account. From the moment at which the operator knows of it, nothing may be sent.
async fn pause(sim: &Sim, engine: &Engine, account: AccountName) {
    let paused = engine.pause(account.clone(), "as planned".to_owned(), Authority::unrestricted()).await;
    sim.trace(format_args!("paused {account}: {paused:?}"));
    if paused.is_ok() {
        lock(&sim.history).pause_known(account, sim.last_event());
    }
}

/// Resumes an account. From the moment at which the operator asks for it, it may send.
pub(crate) async fn resume(sim: &Sim, engine: &Engine, account: AccountName) {
    lock(&sim.history).resume_asked(&account, sim.last_event());
    let resumed = engine.resume(account.clone(), Authority::unrestricted()).await;
    sim.trace(format_args!("resumed {account}: {resumed:?}"));
}

/// Records the result of a call, or that its caller gave up.
async fn record(
    sim: &Sim,
    what: &'static str,
    refund: u8,
    requested: Option<Intent>,
    gives_up_after_ms: Option<u64>,
    call: impl Future<Output = Result<(Refund, bool), EngineError>>,
) {
    let number = lock(&sim.history).begin(what, id(refund).as_str(), requested);
    sim.trace(format_args!("call {number} {what} r{refund}"));
    let result = match gives_up_after_ms {
        None => call.await,
        Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), call).await {
            Ok(result) => result,
            Err(_) => return sim.trace(format_args!("call {number} {what} r{refund}: the caller gave up")),
        },
    };
    let result = match result {
        Ok((refund, replayed)) => {
            sim.trace(format_args!(
                "call {number} {what}: {} {} revision {}{}",
                refund.id().as_str(),
                refund.state,
                refund.revision,
                if replayed { " replayed" } else { "" }
            ));
            CallResult::Refund(Box::new(refund))
        }
        Err(error) => {
            sim.trace(format_args!("call {number} {what} r{refund}: {error}"));
            CallResult::Error(error)
        }
    };
    lock(&sim.history).end(number, result);
}

/// The operator reassigns a refund to an account that is known to have the same books. Returns
/// whether it was reassigned.
async fn reassign(
    sim: &Arc<Sim>,
    engine: &Engine,
    refund: &Refund,
    account: AccountName,
    stale: bool,
    by: Authority,
) -> bool {
    if !places::same_books(sim, refund).iter().any(|at| at.account == account) {
        return false;
    }
    let etag = if stale { "0-0".to_owned() } else { refund.etag() };
    let id = refund.id().clone();
    let number = lock(&sim.history).begin("reassign", id.as_str(), None);
    sim.trace(format_args!("call {number} reassign {} to {account}", id.as_str()));
    let evidence = "both hosts show the same orders".to_owned();
    let result = CallResult::from(engine.reassign(ReassignCommand { id, etag, account, evidence, by }).await);
    if let CallResult::Error(error) = &result {
        sim.trace(format_args!("call {number} reassign: {error}"));
    }
    let is_done = matches!(result, CallResult::Refund(_));
    if is_done && stale {
        sim.violation("a stale etag is refused", format_args!("{} was reassigned", refund.id().as_str()));
    }
    lock(&sim.history).end(number, result);
    is_done
}

/// The operator handles a refund whose account is not configured: reassigns it, or ends it as the
/// books say.
pub(crate) async fn unblock(sim: &Arc<Sim>, engine: &Engine, refund: &Refund) {
    let mut rng = sim.rng(&[5, refund.revision, u64::from(refund.attempt_count)]);
    let accounts = places::same_books(sim, refund);
    if !accounts.is_empty() && rng.percent(70) {
        let account = accounts[rng.index(accounts.len())].account.clone();
        if reassign(sim, engine, refund, account, false, people::authority(sim, "operator")).await {
            return;
        }
    }
    if refund.state == State::Pending {
        let number = lock(&sim.history).begin("cancel", refund.id().as_str(), None);
        let result = CallResult::from(engine.cancel(refund.id(), None, people::authority(sim, "operator")).await);
        lock(&sim.history).end(number, result);
    } else {
        resolve(sim, engine, refund.id(), false, true, false).await;
    }
}

/// The operator resolves a refund as the provider's books say, unless its outcome is still open.
pub(crate) async fn resolve(
    sim: &Arc<Sim>,
    engine: &Engine,
    id: &RefundId,
    send_again: bool,
    take_over: bool,
    by_anyone: bool,
) {
    let Ok(refund) = engine.get(id).await else { return };
    let is_early = take_over && matches!(refund.state, State::InDoubt | State::Submitted);
    if refund.state != State::NeedsReview && !is_early {
        return;
    }
    let Some(resolution) = resolution_by_books(sim, &refund, send_again && !is_early) else { return };
    let number = lock(&sim.history).begin("resolve", id.as_str(), None);
    sim.trace(format_args!("call {number} resolve {}: {resolution:?}, take over {is_early}", id.as_str()));
    let sends_again = resolution == Resolution::SendAgain;
    if sends_again {
        lock(&sim.history).resends_by_operator.push(id.as_str().to_owned());
    }
    let command = ResolveCommand {
        id: id.clone(),
        etag: refund.etag(),
        resolution,
        evidence: "the provider's books".to_owned(),
        take_over: is_early,
        by: if by_anyone { people::decider(sim, &refund) } else { people::authority(sim, "operator") },
    };
    let result = CallResult::from(engine.resolve(command).await);
    if let CallResult::Error(error) = &result {
        sim.trace(format_args!("call {number} resolve: {error}"));
        if *error == EngineError::OwnRefund && sends_again {
            let resends = &mut lock(&sim.history).resends_by_operator;
            if let Some(last) = resends.iter().rposition(|of| of == id.as_str()) {
                resends.remove(last);
            }
        }
        if let EngineError::Invalid(violations) = error {
            sim.violation("a true resolution is accepted", format_args!("{}: {violations:?}", id.as_str()));
        }
    }
    lock(&sim.history).end(number, result);
}

/// How the books resolve a refund; none while a request is in flight or undecided.
fn resolution_by_books(sim: &Sim, refund: &Refund, send_again: bool) -> Option<Resolution> {
    let target = oracle::target_of(&refund.intent)?;
    let mut world = lock(&sim.world);
    world.deliver(sim, sim.now());
    if world.is_in_flight(target) || world.is_open(target, &sim.plan.targets[usize::from(target)]) {
        return None;
    }
    let effects = oracle::net_effects(&world, refund.id().as_str(), &refund.intent);
    let money = |minor_units: i64| Money { currency: refund.place.currency, minor_units };
    let sum: i64 = effects.iter().filter_map(|entry| entry.effect.amount_minor).sum();
    let items: Vec<ItemResolution> = refund
        .intent
        .target
        .item_ids()
        .into_iter()
        .map(|item_id| {
            let entry = effects.iter().find(|entry| entry.effect.target == item_id);
            let amount = entry.and_then(|entry| entry.effect.amount_minor).filter(|minor| *minor > 0).map(money);
            ItemResolution { item_id, refunded: entry.is_some(), amount }
        })
        .collect();
    let refunded = items.iter().filter(|item| item.refunded).count();
    Some(match (effects.is_empty() || (refunded == 0 && !items.is_empty()), send_again) {
        // All items: either in one answer or item by item.
        (false, _) if refunded == items.len() && sum % 2 == 0 => {
            Resolution::Refunded { amount: (sum > 0).then(|| money(sum)), items: Vec::new() }
        }
        (false, _) => {
            let amount = if items.is_empty() { (sum > 0).then(|| money(sum)) } else { None };
            Resolution::Refunded { amount, items }
        }
        (true, true) => Resolution::SendAgain,
        (true, false) => Resolution::NotRefunded,
    })
}

/// Performs an operation that is not a call to the gateway.
pub(crate) async fn perform(sim: &Sim, op: Op) {
    let now = sim.now();
    match op {
        Op::Settle { target, yes } => {
            lock(&sim.world).settle(&sim.plan, Some(target), yes, now);
            sim.trace(format_args!("the provider decides target {target}: {yes}"));
        }
        Op::Correct { target } => {
            lock(&sim.world).correct(target, now);
            sim.trace(format_args!("the provider pays what it had rejected of target {target}"));
        }
        Op::RefundByOthers { target } => {
            lock(&sim.world).refund_by_others(target, &sim.plan.targets[usize::from(target)], now);
            sim.trace(format_args!("another client refunds target {target}"));
        }
        Op::KeyUsedByOthers { refund, target } => {
            let planned = &sim.plan.targets[usize::from(target)];
            lock(&sim.world).use_key_by_others(id(refund).as_str(), target, planned, now);
            sim.trace(format_args!("another client uses the key of r{refund} for target {target}"));
        }
        Op::Outage { provider, kind, for_s } => {
            let until = now + micros(Duration::from_secs(for_s));
            lock(&sim.world).begin_outage(provider, kind, until);
            sim.count(|figures| *figures.faults.entry("outage").or_default() += 1);
            sim.trace(format_args!("outage of {provider:?}: {kind:?} for {for_s} s"));
        }
        Op::AdvanceClock { minutes } => advance_clock(sim, Duration::from_secs(minutes * 60)).await,
        Op::SkewClock { seconds } => {
            sim.skew_clock(seconds);
            sim.trace(format_args!("the gateway's clock is set by {seconds} s"));
        }
        _ => {}
    }
}

/// Whether nothing is in progress, not even between two steps at the current time.
async fn is_quiet(sim: &Sim) -> bool {
    for _ in 0..8 {
        if sim.is_busy() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Moves all clocks forward together, while nothing is in progress.
pub(crate) async fn advance_clock(sim: &Sim, by: Duration) {
    for _ in 0..400 {
        if is_quiet(sim).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // Timers that are due by now fire once, as for a process that was stopped and continued.
    tokio::time::advance(by).await;
    lock(&sim.world).deliver(sim, sim.now());
    sim.trace(format_args!("clock advanced by {} s", by.as_secs()));
}
