//! Where the space is small, all of it: each provider, each class of outcome, each change of an
//! account's place, and a process that ends at every single write, at every two of
//! them, and at each of the three places where it can have something on the wire.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::plan::{
    AccountKind, CrashAt, DiskHarm, Habits, Harm, ItemFate, ItemPlan, Op, OrderKind, Outage, Plan, Step, TargetPlan,
    Who, WireHarm, WriteHarm,
};
use crate::run::run;
use crate::setups::{Behind, Named, Setup, Spot};
use crate::sim::lock;

/// What a process can do at a write.
const ENDS: [WriteHarm; 4] =
    [WriteHarm::CrashBefore, WriteHarm::CrashAfter, WriteHarm::FailsAndIsLost, WriteHarm::FailsAndIsKept];

/// Whether every run was fine.
pub(crate) fn run_all(threads: usize) -> bool {
    let scenarios = scenarios();
    let next = AtomicUsize::new(0);
    let (runs, broken) = (AtomicUsize::new(0), Mutex::new(Vec::<(String, Plan, String)>::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, plan)) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for plan in variants(plan) {
                        runs.fetch_add(1, Ordering::Relaxed);
                        if let Some(violation) = run(&plan).violations.into_iter().next() {
                            lock(&broken).push((name.clone(), plan, violation));
                        }
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner().unwrap();
    broken.sort_by(|one, other| one.0.cmp(&other.0));
    let runs = runs.into_inner();
    println!(
        "{:<28}{} scenarios, {runs} runs, {} with violations",
        "a crash at every write",
        scenarios.len(),
        broken.len()
    );
    for (name, _, violation) in &broken {
        println!("{:<28}{name}: {violation}", "");
    }
    if let Some((_, plan, violation)) = broken.first() {
        crate::show_short(plan, violation.split(':').next().unwrap_or_default());
    }
    broken.is_empty()
}

/// The scenario as it is, and with every end of its process.
fn variants(plan: &Plan) -> Vec<Plan> {
    let writes = run(plan).writes;
    let with = |disk: Vec<DiskHarm>| Plan { disk, ..plan.clone() };
    let mut variants = vec![plan.clone()];
    for nth in 0..writes {
        // A change of places has its own second start, and many writes.
        let ends = if plan.setups.is_empty() { &ENDS[..] } else { &ENDS[..2] };
        variants.extend(ends.iter().map(|harm| with(vec![DiskHarm { nth, harm: *harm }])));
        let pairs = (nth + 1..writes).filter(|_| plan.setups.is_empty()).map(|second| {
            let after = |nth| DiskHarm { nth, harm: WriteHarm::CrashAfter };
            with(vec![after(nth), after(second)])
        });
        variants.extend(pairs);
    }
    for at in [CrashAt::BeforeItLeaves, CrashAt::OnItsWay, CrashAt::BeforeTheAnswerIsRead] {
        for (moving, nth) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
            let crash = WireHarm { target: 0, moving, nth, harm: Harm::Crash { at } };
            let mut harms = plan.harms.clone();
            harms.retain(|harm| (harm.moving, harm.nth) != (moving, nth));
            harms.push(crash);
            variants.push(Plan { harms, ..plan.clone() });
        }
    }
    variants
}

fn scenarios() -> Vec<(String, Plan)> {
    let mut scenarios = Vec::new();
    for who in Who::ALL {
        for (outcome, target, harms, steps) in outcomes(who) {
            let plan = Plan {
                seed: scenarios.len() as u64,
                habits: Habits { sectigo_deduplicates: false, ..Habits::USUAL },
                targets: vec![target],
                steps,
                harms,
                ..Plan::USUAL
            };
            scenarios.push((format!("{who:?}, {outcome}"), plan));
        }
        for (change, plan) in changes(who) {
            let plan = Plan { seed: scenarios.len() as u64, ..plan };
            scenarios.push((format!("{who:?}, {change}"), plan));
        }
    }
    scenarios
}

/// The account is elsewhere from the second start on.
fn changes(who: Who) -> Vec<(String, Plan)> {
    let usual = Spot::usual(who);
    let moved = Spot { host: 1, ..usual };
    let elsewhere = [
        ("the host is another one", Setup::from(moved), true),
        ("the login is another one", Setup::from(Spot { login: 1, ..usual }), true),
        ("the host is another one, and no word of it", Setup { former: false, ..Setup::from(moved) }, true),
        ("it is a sandbox", Setup { former: false, ..Setup::from(moved) }, false),
        ("its name is another one", Setup { named: Named::Second, ..Setup::from(usual) }, true),
    ];
    let harms = [
        ("after a lost answer", Harm::LostAfter { timeout: false }),
        ("after a lost request", Harm::LostBefore { timeout: false }),
        ("and it was never sent", Harm::NotSent),
    ];
    let mut changes = Vec::new();
    for (change, setup, is_one) in elsewhere {
        for (name, harm) in harms {
            let plan = Plan {
                habits: Habits { sectigo_deduplicates: false, namecom_deduplicates: false, ..Habits::USUAL },
                targets: vec![usual_target(who)],
                steps: asked(&[Op::Restart { drain_s: 1, down_s: 1 }]),
                harms: vec![WireHarm { target: 0, moving: true, nth: 0, harm }],
                setups: vec![setup],
                behind: Behind { one_behind_hosts: [is_one; 3], one_behind_logins: [is_one; 3], keys_are_bound: true },
                ..Plan::USUAL
            };
            changes.push((format!("{change}, {name}"), plan));
        }
    }
    changes
}

fn usual_target(who: Who) -> TargetPlan {
    match who {
        Who::Sectigo => TargetPlan::Order { kind: OrderKind::Plain },
        Who::Namecom => items(&[ItemFate::Refunded, ItemFate::Privacy]),
        Who::Debitsuccess => TargetPlan::Amount { minor: 1_999, kind: AccountKind::Plain },
    }
}

type Outcome = (&'static str, TargetPlan, Vec<WireHarm>, Vec<Step>);

/// Every class of the fault table, and every kind of answer.
fn outcomes(who: Who) -> Vec<Outcome> {
    let usual = || usual_target(who);
    let first = |harm| vec![WireHarm { target: 0, moving: true, nth: 0, harm }];
    let mut outcomes = vec![
        ("yes", usual(), vec![], asked(&[])),
        ("no", refused(who), vec![], asked(&[])),
        ("no byte left", usual(), first(Harm::NotSent), asked(&[])),
        ("lost before, time-out", usual(), first(Harm::LostBefore { timeout: true }), asked(&[])),
        ("lost before, reset", usual(), first(Harm::LostBefore { timeout: false }), asked(&[])),
        ("lost after, time-out", usual(), first(Harm::LostAfter { timeout: true }), asked(&[])),
        ("lost after, reset", usual(), first(Harm::LostAfter { timeout: false }), asked(&[])),
        ("late commit", usual(), first(Harm::Late { after_s: 400 }), asked(&[])),
        ("5xx, not done", usual(), first(Harm::Status { code: 503, done: false }), asked(&[])),
        ("5xx, done", usual(), first(Harm::Status { code: 500, done: true }), asked(&[])),
        ("garbage, done", usual(), first(Harm::Garbage { done: true }), asked(&[])),
        ("cut", usual(), first(Harm::Cut { percent: 60 }), asked(&[])),
        ("oversized, done", usual(), first(Harm::Flood { done: true }), asked(&[])),
        ("redirect, not done", usual(), first(Harm::Redirect { done: false }), asked(&[])),
        ("redirect, done", usual(), first(Harm::Redirect { done: true }), asked(&[])),
        ("wrong identifiers", usual(), first(Harm::OtherIds), asked(&[])),
        (
            "lost after, and a stale lookup",
            usual(),
            vec![
                WireHarm { target: 0, moving: true, nth: 0, harm: Harm::LostAfter { timeout: false } },
                WireHarm { target: 0, moving: false, nth: 0, harm: Harm::Stale { by_s: 500 } },
            ],
            asked(&[]),
        ),
        (
            "credentials refused for a while",
            usual(),
            vec![],
            outage_first(Op::Outage { who, kind: Outage::Credentials, for_s: 40 }),
        ),
        ("silence for hours", usual(), vec![], outage_first(Op::Outage { who, kind: Outage::Silent, for_s: 7_200 })),
        (
            "withdrawn while it waits",
            usual(),
            first(Harm::NotSent),
            asked(&[Op::Cancel { refund: 0, old_etag: false, leaves_ms: None }]),
        ),
        (
            "looked at by hand, twice at once",
            usual(),
            first(Harm::LostAfter { timeout: false }),
            asked(&[Op::Reconcile { refund: 0, leaves_ms: None }, Op::Reconcile { refund: 0, leaves_ms: Some(1) }]),
        ),
        (
            "refunded by others meanwhile",
            usual(),
            first(Harm::LostBefore { timeout: false }),
            asked(&[Op::Foreign { target: 0 }]),
        ),
        (
            "sent again by a person",
            usual(),
            first(Harm::LostBefore { timeout: false }),
            asked(&[
                Op::Leap { minutes: 1_500 },
                Op::Leap { minutes: 1_500 },
                Op::Resolve { refund: 0, send_again: true, take_over: false },
            ]),
        ),
    ];
    match who {
        Who::Sectigo => {
            outcomes.push(("it does not know", TargetPlan::Order { kind: OrderKind::FailsAfter }, vec![], asked(&[])))
        }
        Who::Namecom => {
            outcomes.push(("partial", items(&[ItemFate::Refunded, ItemFate::Failed]), vec![], asked(&[])));
            outcomes.push(("begun", items(&[ItemFate::Initialized, ItemFate::Refunded]), vec![], asked(&[])));
            outcomes.push(("broken off", items(&[ItemFate::Refunded, ItemFate::RegistryDown]), vec![], asked(&[])));
        }
        Who::Debitsuccess => {
            let rejected = TargetPlan::Amount { minor: 2_903, kind: AccountKind::Rejects };
            outcomes.push(("taken, and rejected", rejected, vec![], asked(&[Op::Settle { target: 0, yes: false }])));
        }
    }
    outcomes
}

fn refused(who: Who) -> TargetPlan {
    match who {
        Who::Sectigo => TargetPlan::Order { kind: OrderKind::PeriodOver },
        Who::Namecom => items(&[ItemFate::WindowOver]),
        Who::Debitsuccess => TargetPlan::Amount { minor: 500, kind: AccountKind::Poor },
    }
}

fn items(fates: &[ItemFate]) -> TargetPlan {
    // 0.29 and 4.35 are not what they seem in binary.
    let items = fates.iter().zip([29, 435, 1_999]).map(|(fate, price_minor)| ItemPlan { price_minor, fate: *fate });
    TargetPlan::Items { items: items.collect() }
}

/// One refund, and then these, some seconds apart.
fn asked(then: &[Op]) -> Vec<Step> {
    let create = Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 500, similar: false, leaves_ms: None };
    let again = Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 0, similar: false, leaves_ms: None };
    let mut steps = vec![Step { after_ms: 10, op: create }];
    steps.extend(then.iter().map(|op| Step { after_ms: 700, op: *op }));
    steps.push(Step { after_ms: 3_000, op: again });
    steps
}

fn outage_first(outage: Op) -> Vec<Step> {
    let mut steps = vec![Step { after_ms: 5, op: outage }];
    steps.extend(asked(&[]));
    steps
}
