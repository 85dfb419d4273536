//! Callers with owners, limits and approvals, and the oracle about them: it computes from the plan
//! what the access file demands, and not by the gateway's code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use recoup::domain::approval::Verdict;
use recoup::domain::authority::{
    AccountLimits, AccountSet, Actor, Amounts, ApprovalRule, Authority, CallerLimits, CallerRules, Rules,
};
use recoup::domain::event::EventKind;
use recoup::domain::history::EventRecord;
use recoup::domain::ids::ProviderKind;
use recoup::domain::limits::Limit;
use recoup::domain::money::Currency;
use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::engine::{ApprovalCommand, Engine};
use recoup::ledger::sqlite::SqliteLedger;
use recoup::ledger::{CreateOutcome, Ledger, LedgerError, ListQuery, NewRefund, Recorded};

use crate::history::CallResult;
use crate::places;
use crate::plan::{Op, Outage, PROVIDERS, Plan, Step};
use crate::rng::SeededRng;
use crate::setups::SimulatedProvider as _;
use crate::sim::{Sim, lock, micros};

/// What the access file of a run says. Amounts are hundredths, of USD and of AUD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RulesPlan {
    /// There is no access file before this start.
    pub(crate) from_start: u64,
    /// The callers and accounts have no limits before this start.
    pub(crate) limited_from_start: u64,
    /// The caller `shop` may not create refunds from this start on.
    pub(crate) revoked_from_start: u64,
    pub(crate) refund_max: Option<i64>,
    pub(crate) daily_max: Option<i64>,
    pub(crate) daily_count: Option<u64>,
    pub(crate) account_daily_count: Option<u64>,
    pub(crate) assumed_amount: Option<i64>,
    /// Refunds of this amount or more are approved by others.
    pub(crate) approve_from: Option<i64>,
    pub(crate) similar: bool,
    pub(crate) needed: u32,
    pub(crate) expire_s: u64,
}

/// Each caller with its owner.
const CALLERS: [(&str, &str); 7] = [
    ("shop", "shop"),
    ("till", "shop"),
    ("desk", "desk"),
    ("finance", "money"),
    ("treasury", "money"),
    ("audit", "audit"),
    ("operator", "operator"),
];

const DAY: i64 = 24 * 3_600_000_000;
const HOUR: i64 = 3_600_000_000;

impl RulesPlan {
    /// No rule, and no limit.
    pub(crate) const NONE: RulesPlan = RulesPlan {
        from_start: 0,
        limited_from_start: 0,
        revoked_from_start: u64::MAX,
        refund_max: None,
        daily_max: None,
        daily_count: None,
        account_daily_count: None,
        assumed_amount: Some(2_000),
        approve_from: None,
        similar: false,
        needed: 1,
        expire_s: 4_000,
    };

    fn rules(&self, start: u64) -> Rules {
        let is_limited = start >= self.limited_from_start;
        let amounts = |amount: Option<i64>| -> Amounts {
            let both = ["USD", "AUD"].map(|code| Currency::parse(code).unwrap());
            amount.into_iter().flat_map(|amount| both.map(|currency| (currency, amount))).collect()
        };
        let limits = |is_creator: bool| match is_limited && is_creator {
            true => CallerLimits {
                refund_max: amounts(self.refund_max),
                daily_max: amounts(self.daily_max),
                daily_count: self.daily_count,
            },
            false => CallerLimits::default(),
        };
        let caller = |(name, owner): (&str, &str)| {
            let rules = CallerRules {
                owner: owner.to_owned(),
                may_create: name != "shop" || start < self.revoked_from_start,
                accounts: AccountSet::All,
                limits: limits(matches!(name, "shop" | "desk")),
            };
            (name.to_owned(), rules)
        };
        let account = AccountLimits {
            daily_max: Amounts::new(),
            daily_count: self.account_daily_count.filter(|_| is_limited),
            assumed_amount: self.assumed_amount,
        };
        let names = PROVIDERS
            .into_iter()
            .flat_map(|provider: ProviderKind| [provider.account_name(), provider.second_account()]);
        let rule = ApprovalRule {
            name: "large".to_owned(),
            accounts: AccountSet::All,
            at_least: amounts(self.approve_from),
            similar: self.similar,
            needed: self.needed,
            expire_after: Duration::from_secs(self.expire_s),
        };
        Rules {
            callers: CALLERS.into_iter().map(caller).collect(),
            accounts: names.map(|name| (name, account.clone())).collect(),
            approvals: if self.approve_from.is_some() || self.similar { vec![rule] } else { Vec::new() },
        }
    }
}

/// The caller who asks for a refund.
pub(crate) fn creator(refund: u8) -> &'static str {
    if refund % 3 == 2 { "desk" } else { "shop" }
}

/// What a caller may do now.
pub(crate) fn authority(sim: &Sim, caller: &str) -> Authority {
    let start = sim.ended_processes();
    match &sim.plan.rules {
        Some(rules) if start >= rules.from_start => {
            let (credential, policy) = (Some("token:1".to_owned()), Some(format!("{start:08x}")));
            let actor = Actor { name: caller.to_owned(), credential, policy };
            Authority { actor, rules: Arc::new(rules.rules(start)) }
        }
        _ => Authority::unrestricted(),
    }
}

/// A person who is asked to resolve or reassign a refund; perhaps one who may not.
pub(crate) fn decider(sim: &Sim, refund: &Refund) -> Authority {
    let mut rng = sim.rng(&[20, refund.revision, u64::from(refund.attempt_count), refund.id().as_str().len() as u64]);
    authority(sim, rng.weighted(&[(1, "till"), (1, "finance"), (1, "audit"), (5, "operator")]))
}

/// Whether the scope refunds:create is gone, so that no call of it reaches the engine.
pub(crate) fn is_revoked(sim: &Sim, caller: &str) -> bool {
    let by = authority(sim, caller);
    by.is_restricted() && !by.rules.may_create(caller)
}

/// One decision on an approval, by any of the callers.
pub(crate) async fn decide(
    sim: &Sim,
    engine: &Engine,
    refund: &Refund,
    caller: &'static str,
    reject: bool,
    stale: bool,
) -> Option<Refund> {
    let id = refund.id().clone();
    let verdict = if reject { Verdict::Rejected } else { Verdict::Approved };
    let etag = if stale { "0-0".to_owned() } else { refund.etag() };
    let by = authority(sim, caller);
    let what = if reject { "reject" } else { "approve" };
    let number = lock(&sim.history).begin(what, id.as_str(), None);
    sim.trace(format_args!("call {number} {what} {} by {caller}", id.as_str()));
    let command = ApprovalCommand { id, etag, verdict, comment: "as the shop says".to_owned(), by };
    let decided = engine.decide_approval(command).await;
    match &decided {
        Ok(refund) => sim.trace(format_args!("call {number} {what}: {}", refund.state)),
        Err(error) => sim.trace(format_args!("call {number} {what}: {error}")),
    }
    let after = decided.as_ref().ok().cloned();
    lock(&sim.history).end(number, CallResult::from(decided));
    after
}

/// At the end, some of what waits is approved, some rejected, and the rest expires.
pub(crate) async fn decide_at_rest(sim: &Sim, engine: &Engine, refund: &Refund) {
    let mut rng = sim.rng(&[21, refund.revision, refund.create_time.as_micros().unsigned_abs()]);
    let fate = rng.between(0, 99);
    let mut present = refund.clone();
    for caller in ["audit", "finance", "operator"] {
        if fate < 85 && present.state == State::AwaitingApproval {
            present = decide(sim, engine, &present, caller, fate >= 70, false).await.unwrap_or(present);
        }
    }
}

/// Every refund of a ledger.
async fn all(ledger: &SqliteLedger) -> Vec<Refund> {
    let query = ListQuery { limit: 1_000, ..ListQuery::default() };
    ledger.list(query).await.unwrap_or_default().into_iter().map(|listed| listed.refund).collect()
}

/// What a refund counts in hundredths, as the plan says. None: nothing says how much it is.
fn amount_of(rules: &RulesPlan, refund: &Refund) -> Option<i64> {
    let target = &refund.intent.target;
    let items = i64::try_from(target.item_ids().len().max(1)).unwrap();
    target.requested_amount().map(|amount| amount.minor_units).or(rules.assumed_amount.map(|amount| amount * items))
}

/// What never left is given back.
fn counts(refund: &Refund) -> bool {
    !(refund.state == State::Cancelled || refund.state == State::Failed && refund.dispatch_time.is_none())
}

/// Judges a creation by the rows as they are when it is committed or refused.
pub(crate) async fn judge_creation(
    sim: &Sim,
    ledger: &SqliteLedger,
    create: &NewRefund,
    created: &Result<Recorded<CreateOutcome>, LedgerError>,
) {
    let id = create.intent.id.as_str();
    if let Err(LedgerError::TargetHasRefund { conflicting }) = created
        && let Ok(Some(other)) = ledger.get(conflicting).await
    {
        let ended = matches!(other.state, State::Cancelled | State::Failed);
        let is_held = other.corrected_time.is_some() || other.reserved_until.is_some_and(|until| until > create.now);
        if ended && !is_held {
            sim.violation(
                "what ended frees its target",
                format_args!("{id} is refused for {conflicting}, {}", other.state),
            );
        }
    }
    let Some(rules) = sim.plan.rules else { return };
    let Some(caller) = create.by.actor.created_by() else { return };
    if sim.ended_processes() < rules.limited_from_start {
        return;
    }
    let refunds: Vec<Refund> = all(ledger).await.into_iter().filter(counts).collect();
    let of_caller = |refund: &&Refund| refund.created_by.as_deref() == Some(caller.as_str());
    let of_account = |refund: &&Refund| refund.intent.account == create.intent.account;
    let sum = |refunds: &[&Refund]| -> i64 {
        // Where callers were not told apart, nothing was assumed either.
        let amount = |refund: &&Refund| match refund.created_by {
            Some(_) => amount_of(&rules, refund).unwrap_or(0),
            None => refund.intent.target.requested_amount().map_or(0, |amount| amount.minor_units),
        };
        refunds.iter().filter(|refund| refund.place.currency == create.place.currency).map(amount).sum()
    };
    match created {
        Ok(Recorded { outcome: CreateOutcome::New(new), .. }) => {
            let at = |refund: &Refund| refund.create_time.as_micros();
            for begin in refunds.iter().map(at) {
                let is_in = |refund: &&Refund| (begin..begin + DAY).contains(&at(refund));
                if !is_in(&new) {
                    continue;
                }
                let ours: Vec<&Refund> = refunds.iter().filter(is_in).filter(of_caller).collect();
                let theirs = refunds.iter().filter(is_in).filter(of_account).count() as u64;
                let exceeds = |limit: Option<u64>, count: u64| limit.is_some_and(|limit| count > limit);
                if exceeds(rules.daily_count, ours.len() as u64)
                    || rules.daily_max.is_some_and(|max| sum(&ours) > max)
                    || exceeds(rules.account_daily_count, theirs)
                {
                    let (count, sum) = (ours.len(), sum(&ours));
                    let what =
                        format_args!("{id}: {count} of {caller} in a day, {sum} in all; {theirs} of the account");
                    sim.violation("never above a limit", what);
                }
            }
            let amount = amount_of(&rules, new);
            if rules.refund_max.or(rules.daily_max).is_some() && amount.is_none()
                || rules.refund_max.zip(amount).is_some_and(|(max, amount)| amount > max)
            {
                sim.violation("never above a limit", format_args!("{id} counts {amount:?} by itself"));
            }
        }
        Err(LedgerError::QuotaExceeded { limit, .. }) => {
            let first_hour = (create.now.as_micros() - DAY).div_euclid(HOUR);
            let is_recent = |refund: &&Refund| refund.create_time.as_micros().div_euclid(HOUR) >= first_hour;
            let ours: Vec<&Refund> = refunds.iter().filter(is_recent).filter(of_caller).collect();
            let theirs = refunds.iter().filter(is_recent).filter(of_account).count() as u64;
            let draft = Refund::new(create.intent.clone(), create.place.clone(), create.now);
            let is_full = match limit {
                Limit::DailyCount => rules.daily_count.is_some_and(|max| ours.len() as u64 >= max),
                Limit::AccountDailyCount => rules.account_daily_count.is_some_and(|max| theirs >= max),
                Limit::DailyMax => {
                    let asked = amount_of(&rules, &draft).unwrap_or(0);
                    rules.daily_max.is_some_and(|max| sum(&ours) + asked > max)
                }
                Limit::RefundMax | Limit::AccountDailyMax => false,
            };
            if !is_full {
                let what = format_args!("{id} is refused for {}, and {} of {caller} count", limit.as_str(), ours.len());
                sim.violation("a limit refuses only what is above it", what);
            }
        }
        _ => {}
    }
}

/// A refund that waits for its approval expires when its rule says so, and no earlier.
pub(crate) fn judge_expiry(sim: &Sim, refund: &Refund) {
    let Some(rules) = sim.plan.rules else { return };
    let id = refund.id().as_str();
    let Some(since) = lock(&sim.history).created_at.get(id).copied() else { return };
    let waited = sim.now() - since + sim.set_forward().max;
    if waited + crate::oracle::SLACK < micros(Duration::from_secs(rules.expire_s)) {
        let what = format_args!("{id} had waited {} s for its approval", waited / 1_000_000);
        sim.violation("an approval has its time", what);
    }
}

/// Records what changes the time in which a refund must be sent.
pub(crate) fn note_approval(sim: &Sim, refund: &Refund) {
    if refund.state == State::Pending {
        places::note_wait(sim, refund);
    }
}

/// Judges the whole run at quiescence: no effect without the needed approvals of distinct owners,
/// none of them the creator's; and no one decides about a refund of their own.
pub(crate) fn judge(sim: &Sim, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let Some(rules) = sim.plan.rules else { return };
    let owner = |event: &EventRecord| {
        let known = CALLERS.into_iter().find(|(name, _)| *name == event.actor.name);
        known.map_or_else(|| event.actor.name.clone(), |(_, owner)| owner.to_owned())
    };
    let has_rules = rules.approve_from.is_some() || rules.similar;
    for (id, refund) in refunds {
        let mut of_refund = events.iter().filter(|event| event.refund.as_str() == *id);
        let Some(created) = of_refund.next() else { continue };
        let by_known = created.actor.policy.is_some();
        let creator = owner(created);
        let is_large =
            rules.approve_from.is_some_and(|from| amount_of(&rules, refund).is_none_or(|amount| amount >= from));
        let is_asked = created.to == State::AwaitingApproval;
        if by_known && is_large && !is_asked || is_asked && !by_known || is_asked && !is_large && !rules.similar {
            sim.violation("a rule that fits asks", format_args!("{id} was recorded as {}", created.to));
        }
        let mut approved: BTreeSet<String> = BTreeSet::new();
        for event in of_refund {
            let who = owner(event);
            match event.kind {
                EventKind::Approved | EventKind::Rejected if event.from != Some(State::AwaitingApproval) => {
                    let what = format_args!("{id} was {} from {:?}", event.kind.as_str(), event.from);
                    sim.violation("approved only while it waits", what);
                }
                EventKind::Approved if who == creator || !approved.insert(who.clone()) => {
                    sim.violation("a second person", format_args!("{who} approved {id}, which {creator} asked for"));
                }
                EventKind::Resolved | EventKind::Reassigned if event.actor.policy.is_some() && has_rules => {
                    let again = event.to == State::Dispatching && approved.contains(&who);
                    if by_known && who == creator || again {
                        sim.violation("a second person", format_args!("{who} decided about {id} of {creator}"));
                    }
                }
                _ => {}
            }
            if event.to == State::Dispatching && is_asked && approved.len() < rules.needed as usize {
                let what = format_args!("{id} was sent, and {} of {} had approved it", approved.len(), rules.needed);
                sim.violation("no effect without approval", what);
            }
        }
    }
    let awaited = refunds.values().filter(|refund| refund.approval.is_some()).count() as u64;
    let approved = events.iter().filter(|event| event.kind == EventKind::Approved).count() as u64;
    sim.count(|figures| {
        figures.awaited += awaited;
        figures.approvals += approved;
    });
}

/// A refund whose creation failed with a limit, although it was recorded before.
pub(crate) fn judge_replay(sim: &Sim, id: &str, was_known: bool, error: &LedgerError) {
    let is_limit = matches!(error, LedgerError::LimitExceeded { .. } | LedgerError::QuotaExceeded { .. });
    if was_known && is_limit {
        sim.violation("a replay is never refused by a limit", format_args!("{id}: {error}"));
    }
    if is_limit {
        sim.count(|figures| figures.refused_by_limit += 1);
    }
}

/// Draws an access file, and people who decide.
pub(crate) fn draw(rng: &mut SeededRng, plan: &mut Plan) {
    let number = |rng: &mut SeededRng| Some(rng.between(1, 3));
    let rules = RulesPlan {
        from_start: rng.weighted(&[(85, 0), (15, 1)]),
        limited_from_start: rng.weighted(&[(75, 0), (25, 1)]),
        revoked_from_start: rng.weighted(&[(80, u64::MAX), (10, 1), (10, 2)]),
        refund_max: rng.weighted(&[(75, None), (25, Some(20_000))]),
        daily_max: rng.weighted(&[(60, None), (20, Some(5_000)), (20, Some(1_000_000))]),
        daily_count: if rng.percent(50) { number(rng) } else { None },
        account_daily_count: if rng.percent(25) { number(rng) } else { None },
        assumed_amount: rng.weighted(&[(70, Some(2_000)), (15, Some(30_000)), (15, None)]),
        approve_from: rng.weighted(&[(30, None), (35, Some(0)), (35, Some(2_000))]),
        similar: rng.percent(30),
        needed: rng.weighted(&[(70, 1), (30, 2)]),
        expire_s: rng.weighted(&[(25, 600), (35, 5_000), (40, 200_000)]),
    };
    plan.rules = Some(rules);
    if rng.percent(20) {
        approved_late(rng, plan);
    }
    let refunds = 1 + plan.steps.iter().filter_map(|step| step.op.refund()).max().unwrap_or(0);
    for refund in 0..refunds {
        for _ in 0..rng.between(0, 4) {
            let op = Op::Decide {
                refund,
                caller: rng.weighted(&[(10, 0), (10, 1), (5, 2), (30, 3), (15, 4), (30, 5)]),
                reject: rng.percent(12),
                stale_etag: rng.percent(8),
            };
            insert(rng, plan, op);
        }
    }
    // Requests that are sent twice at once: the second one finds the first on the disk only inside
    // the transaction.
    let mut place = 0;
    while let Some(step) = plan.steps.get(place).copied() {
        place += 1;
        if matches!(step.op, Op::Create { .. }) && rng.percent(25) {
            plan.steps.insert(place, Step { after_ms: rng.between(0, 2), op: step.op });
            place += 1;
        }
    }
    if rng.percent(20) {
        // All at once, under a limit that has room for one.
        let limits = RulesPlan { refund_max: None, daily_max: None, daily_count: Some(1), ..rules };
        plan.rules = Some(RulesPlan { from_start: 0, limited_from_start: 0, ..limits });
        plan.steps.sort_by_key(|step| !matches!(step.op, Op::Create { .. }));
        for step in plan.steps.iter_mut().filter(|step| matches!(step.op, Op::Create { .. })) {
            step.after_ms = rng.between(0, 2);
        }
    }
    // Late approvals, and processes that end right after one.
    for _ in 0..rng.between(0, 2) {
        let op = match rng.between(0, 2) {
            0 => Op::Crash { down_s: rng.weighted(&[(50, 1), (50, 700)]) },
            _ => Op::AdvanceClock { minutes: rng.weighted(&[(50, 70), (50, 1_500)]) },
        };
        insert(rng, plan, op);
    }
}

/// A refund that is approved after a day, at a provider that cannot be reached then, and a process
/// that starts again: its time to be sent has only begun.
fn approved_late(rng: &mut SeededRng, plan: &mut Plan) {
    plan.rules = plan.rules.map(|rules| RulesPlan { from_start: 0, approve_from: Some(0), expire_s: 200_000, ..rules });
    let created = plan.steps.iter().rposition(|step| matches!(step.op, Op::Create { .. }));
    let Some(place) = created else { return };
    let Op::Create { refund, target, .. } = plan.steps[place].op else { return };
    let provider = plan.targets[usize::from(target)].provider();
    let decide = |caller| Op::Decide { refund, caller, reject: false, stale_etag: false };
    let late = [
        Op::AdvanceClock { minutes: 1_500 },
        Op::Outage { provider, kind: Outage::Refuses, for_s: 1_200 },
        decide(3),
        decide(5),
        Op::Restart { drain_s: 1, down_s: 1 },
    ];
    let steps = late.map(|op| Step { after_ms: rng.between(1_000, 9_000), op });
    plan.steps.splice(place + 1..place + 1, steps);
}

/// The name of a planned caller.
pub(crate) fn name(caller: u8) -> &'static str {
    CALLERS[usize::from(caller) % CALLERS.len()].0
}

fn insert(rng: &mut SeededRng, plan: &mut Plan, op: Op) {
    // Late steps are likelier than early ones.
    let last = plan.steps.len() as u64;
    let place = rng.between(0, last).max(rng.between(0, last)) as usize;
    let after_ms = rng.weighted(&[(50, 100), (30, 5_000), (20, 60_000)]);
    plan.steps.insert(place, Step { after_ms, op });
}

/// When a refund was recorded, in the world's time.
pub(crate) fn note_creation(sim: &Sim, refund: &Refund) {
    lock(&sim.history).created_at.insert(refund.id().as_str().to_owned(), sim.now());
}
