//! What callers, operators and providers do in a run, one operation at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use recoup::domain::event::{ItemResolution, Resolution};
use recoup::domain::ids::{AccountName, RefundId};
use recoup::domain::money::Money;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use recoup::engine::{CreateCommand, Engine, EngineError, ReassignCommand, ResolveCommand};
use tokio::time::Instant;

use crate::history::Told;
use crate::oracle;
use crate::places;
use crate::plan::{ItemFate, Op, Plan, TargetPlan, Who};
use crate::sim::{Sim, lock, micros};
use crate::world;

/// A caller's deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What `refund` asks for. Another variant is other content under the same id.
pub(crate) fn intent(plan: &Plan, refund: u8, target: u8, variant: u8) -> Intent {
    let planned = &plan.targets[usize::from(target)];
    let other = i32::from(variant == 2);
    let wanted = match planned {
        TargetPlan::Order { .. } => {
            Target::Sectigo(SectigoTarget::new(&world::order_number(target), 10 + other).unwrap())
        }
        TargetPlan::Items { items } => {
            let asked = (0..).zip(items).filter(|(_, item)| item.fate != ItemFate::Privacy);
            let mut ids: Vec<i32> = asked.map(|(place, _)| world::item_id(target, place)).collect();
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
        0 => planned.who().account_name(),
        _ => planned.who().second_account(),
    };
    Intent { id: id(refund), account, target: wanted, labels }
}

pub(crate) fn id(refund: u8) -> RefundId {
    RefundId::parse(&format!("r{refund}")).unwrap()
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Create { .. } => "create",
            Op::Check { .. } => "check",
            Op::Wait { .. } => "wait",
            Op::Cancel { .. } => "cancel",
            Op::Reconcile { .. } => "reconcile",
            Op::Resolve { .. } => "resolve",
            Op::Reassign { .. } => "reassign",
            Op::Get { .. } => "get",
            Op::List => "list",
            Op::Settle { .. } => "provider goes on",
            Op::Correct { .. } => "paid after a no",
            Op::Foreign { .. } => "refunded by others",
            Op::ForeignKey { .. } => "key used by others",
            Op::Outage { .. } => "outage",
            Op::Leap { .. } => "leap",
            Op::Skew { .. } => "clock set",
            Op::Crash { .. } => "kill",
            Op::Restart { .. } => "restart",
        }
    }
}

/// One call of a caller, to its end.
pub(crate) async fn call(sim: Arc<Sim>, engine: Engine, op: Op) {
    let plan = &sim.plan;
    let now = Instant::now();
    match op {
        Op::Create { refund, target, variant, wait_ms, similar, leaves_ms } => {
            let asked = intent(plan, refund, target, variant);
            let command = CreateCommand {
                intent: asked.clone(),
                allow_similar: similar,
                actor: "caller".to_owned(),
                answer_by: now + ANSWER_WITHIN,
                wait_until: now + Duration::from_millis(wait_ms),
                trace_parent: None,
            };
            let create = async {
                let created = engine.create(command).await?;
                Ok((created.refund, created.replayed))
            };
            tell(&sim, "create", refund, Some(asked), leaves_ms, create).await;
        }
        Op::Check { refund, target } => {
            let command = CreateCommand {
                intent: intent(plan, refund, target, 0),
                allow_similar: false,
                actor: "caller".to_owned(),
                answer_by: now + ANSWER_WITHIN,
                wait_until: now,
                trace_parent: None,
            };
            let seen = engine.dry_run(command).await.map_err(|error| error.to_string());
            sim.trace(format_args!("check r{refund}: {}", seen.map_or_else(|error| error, |_| "ok".to_owned())));
        }
        Op::Wait { refund, wait_ms, leaves_ms } => {
            let wait = async {
                let seen = engine.get(&id(refund)).await?;
                let until = now + Duration::from_millis(wait_ms);
                Ok((engine.wait(&id(refund), seen.revision, until).await?, false))
            };
            tell(&sim, "wait", refund, None, leaves_ms, wait).await;
        }
        Op::Cancel { refund, old_etag, leaves_ms } => {
            let cancel = async {
                let etag = if old_etag { Some(engine.get(&id(refund)).await?.etag()) } else { None };
                if old_etag {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                Ok((engine.cancel(&id(refund), etag.as_deref(), "caller").await?, false))
            };
            tell(&sim, "cancel", refund, None, leaves_ms, cancel).await;
        }
        Op::Reconcile { refund, leaves_ms } => {
            let look = async { Ok((engine.reconcile(&id(refund), "operator").await?, false)) };
            tell(&sim, "reconcile", refund, None, leaves_ms, look).await;
        }
        Op::Resolve { refund, send_again, take_over } => {
            resolve(&sim, &engine, &id(refund), send_again, take_over).await;
        }
        Op::Reassign { refund, second, stale_etag } => {
            let Ok(refund) = engine.get(&id(refund)).await else { return };
            let of = Who::ALL.into_iter().find(|who| who.provider() == refund.provider());
            let Some(of) = of else { return };
            let account = if second { of.second_account() } else { of.account_name() };
            reassign(&sim, &engine, &refund, account, stale_etag).await;
        }
        Op::Get { refund } => {
            let get = async { Ok((engine.get(&id(refund)).await?, false)) };
            tell(&sim, "get", refund, None, None, get).await;
        }
        Op::List => oracle::judge_views(&sim, &engine).await,
        _ => {}
    }
}

/// Notes down what a call came to, or that nobody waited for it.
async fn tell(
    sim: &Sim,
    what: &'static str,
    refund: u8,
    asked: Option<Intent>,
    leaves_ms: Option<u64>,
    call: impl Future<Output = Result<(Refund, bool), EngineError>>,
) {
    let number = lock(&sim.history).begin(what, id(refund).as_str(), asked);
    sim.trace(format_args!("call {number} {what} r{refund}"));
    let told = match leaves_ms {
        None => call.await,
        Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), call).await {
            Ok(told) => told,
            Err(_) => return sim.trace(format_args!("call {number} {what} r{refund}: the caller left")),
        },
    };
    let told = match told {
        Ok((refund, replayed)) => {
            sim.trace(format_args!(
                "call {number} {what}: {} {} revision {}{}",
                refund.id().as_str(),
                refund.state,
                refund.revision,
                if replayed { " replayed" } else { "" }
            ));
            Told::Refund(Box::new(refund))
        }
        Err(error) => {
            sim.trace(format_args!("call {number} {what} r{refund}: {error}"));
            Told::Error(error)
        }
    };
    lock(&sim.history).end(number, told);
}

/// A person lets a refund go on at an account that is known to have the same books. False: it does
/// not go on there.
async fn reassign(sim: &Arc<Sim>, engine: &Engine, refund: &Refund, account: AccountName, stale: bool) -> bool {
    if !places::same_books(sim, refund).iter().any(|at| at.account == account) {
        return false;
    }
    let etag = if stale { "0-0".to_owned() } else { refund.etag() };
    let (id, actor) = (refund.id().clone(), "operator".to_owned());
    let number = lock(&sim.history).begin("reassign", id.as_str(), None);
    sim.trace(format_args!("call {number} reassign {} to {account}", id.as_str()));
    let evidence = "both hosts show the same orders".to_owned();
    let told = match engine.reassign(ReassignCommand { id, etag, account, evidence, actor }).await {
        Ok(refund) => Told::Refund(Box::new(refund)),
        Err(error) => Told::Error(error),
    };
    if let Told::Error(error) = &told {
        sim.trace(format_args!("call {number} reassign: {error}"));
    }
    let is_done = matches!(told, Told::Refund(_));
    if is_done && stale {
        sim.wrong("a stale etag is refused", format_args!("{} was reassigned", refund.id().as_str()));
    }
    lock(&sim.history).end(number, told);
    is_done
}

/// A person sees to a refund whose account is not there: it goes on at another one, or ends as the
/// books say.
pub(crate) async fn unblock(sim: &Arc<Sim>, engine: &Engine, refund: &Refund) {
    let mut dice = sim.dice(&[5, refund.revision, u64::from(refund.attempt_count)]);
    let accounts = places::same_books(sim, refund);
    if !accounts.is_empty() && dice.percent(70) {
        let account = accounts[dice.place(accounts.len())].account.clone();
        if reassign(sim, engine, refund, account, false).await {
            return;
        }
    }
    if refund.state == State::Pending {
        let number = lock(&sim.history).begin("cancel", refund.id().as_str(), None);
        let told = match engine.cancel(refund.id(), None, "operator").await {
            Ok(refund) => Told::Refund(Box::new(refund)),
            Err(error) => Told::Error(error),
        };
        lock(&sim.history).end(number, told);
    } else {
        resolve(sim, engine, refund.id(), false, true).await;
    }
}

/// A person looks into the provider's books, and says what stands in them. One who cannot know yet
/// says nothing.
pub(crate) async fn resolve(sim: &Arc<Sim>, engine: &Engine, id: &RefundId, send_again: bool, take_over: bool) {
    let Ok(refund) = engine.get(id).await else { return };
    let is_early = take_over && matches!(refund.state, State::InDoubt | State::Submitted);
    if refund.state != State::NeedsReview && !is_early {
        return;
    }
    let Some(resolution) = truth(sim, &refund, send_again && !is_early) else { return };
    let number = lock(&sim.history).begin("resolve", id.as_str(), None);
    sim.trace(format_args!("call {number} resolve {}: {resolution:?}, take over {is_early}", id.as_str()));
    if resolution == Resolution::SendAgain {
        lock(&sim.history).sent_by_a_person.push(id.as_str().to_owned());
    }
    let command = ResolveCommand {
        id: id.clone(),
        etag: refund.etag(),
        resolution,
        evidence: "the provider's books".to_owned(),
        take_over: is_early,
        actor: "operator".to_owned(),
    };
    let told = match engine.resolve(command).await {
        Ok(refund) => Told::Refund(Box::new(refund)),
        Err(error) => Told::Error(error),
    };
    if let Told::Error(error) = &told {
        sim.trace(format_args!("call {number} resolve: {error}"));
        if let EngineError::Invalid(faults) = error {
            sim.wrong("a true word is taken", format_args!("{}: {faults:?}", id.as_str()));
        }
    }
    lock(&sim.history).end(number, told);
}

/// What the books say of a refund; none while something of it is on its way or undecided.
fn truth(sim: &Sim, refund: &Refund, send_again: bool) -> Option<Resolution> {
    let target = oracle::target_of(&refund.intent)?;
    let mut world = lock(&sim.world);
    world.deliver(sim, sim.now());
    if world.is_on_its_way(target) || world.is_open(target, &sim.plan.targets[usize::from(target)]) {
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
        // All of them, in one word or item by item.
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

/// What is no call at the gateway, done at once. False: the process ends by it.
pub(crate) async fn happen(sim: &Sim, op: Op) {
    let now = sim.now();
    match op {
        Op::Settle { target, yes } => {
            lock(&sim.world).settle(&sim.plan, Some(target), yes, now);
            sim.trace(format_args!("the provider goes on with target {target}: {yes}"));
        }
        Op::Correct { target } => {
            lock(&sim.world).correct(target, now);
            sim.trace(format_args!("the provider pays what it had rejected of target {target}"));
        }
        Op::Foreign { target } => {
            lock(&sim.world).refund_by_others(target, &sim.plan.targets[usize::from(target)], now);
            sim.trace(format_args!("somebody else refunds target {target}"));
        }
        Op::ForeignKey { refund, target } => {
            let planned = &sim.plan.targets[usize::from(target)];
            lock(&sim.world).use_key_by_others(id(refund).as_str(), target, planned, now);
            sim.trace(format_args!("somebody else uses the key of r{refund} for target {target}"));
        }
        Op::Outage { who, kind, for_s } => {
            let until = now + micros(Duration::from_secs(for_s));
            lock(&sim.world).begin_outage(who, kind, until);
            sim.count(|figures| *figures.harms.entry("outage").or_default() += 1);
            sim.trace(format_args!("outage of {who:?}: {kind:?} for {for_s} s"));
        }
        Op::Leap { minutes } => leap(sim, Duration::from_secs(minutes * 60)).await,
        Op::Skew { seconds } => {
            sim.skew(seconds);
            sim.trace(format_args!("the gateway's clock is set by {seconds} s"));
        }
        _ => {}
    }
}

/// Whether nothing is under way, nor between two steps of this very moment.
async fn is_quiet(sim: &Sim) -> bool {
    for _ in 0..8 {
        if sim.is_busy() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// All clocks go on at once, while nothing is on its way.
pub(crate) async fn leap(sim: &Sim, by: Duration) {
    for _ in 0..400 {
        if is_quiet(sim).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // Timers that are due by now ring once, however long it was: as for a process that was stopped
    // and goes on.
    tokio::time::advance(by).await;
    lock(&sim.world).deliver(sim, sim.now());
    sim.trace(format_args!("leap by {} s", by.as_secs()));
}
