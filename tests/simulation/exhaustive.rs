//! Every combination, where there are few: each provider, each class of outcome, each change of an
//! account's site, and a process that ends at every single write, at every two writes, and at each
//! of the three points where it can have a request on the wire.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::people::RulesPlan;
use crate::plan::{
    AccountKind, CrashAt, DiskFault, Fault, ItemFate, ItemPlan, Op, OrderKind, Outage, PROVIDERS, Plan,
    ProviderBehaviour, ProviderKind, Step, TargetPlan, WireFault, WriteFault,
};
use crate::run::run;
use crate::setups::{AccountNaming, AccountSetup, PerProvider, SharedBooks, Site};
use crate::sim::lock;

/// The faults that end a process at a write.
const ENDS: [WriteFault; 4] =
    [WriteFault::CrashBefore, WriteFault::CrashAfter, WriteFault::FailsAndIsLost, WriteFault::FailsAndIsKept];

/// Runs everything. Returns whether there was no violation.
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

/// The scenario without a crash, and with every crash of its process.
fn variants(plan: &Plan) -> Vec<Plan> {
    let writes = run(plan).writes;
    let with = |disk_faults: Vec<DiskFault>| Plan { disk_faults, ..plan.clone() };
    let mut variants = vec![plan.clone()];
    for nth in 0..writes {
        // A change of the site has a second start of its own, and many writes.
        let ends = if plan.setups.is_empty() { &ENDS[..] } else { &ENDS[..2] };
        variants.extend(ends.iter().map(|fault| with(vec![DiskFault { nth, fault: *fault }])));
        let pairs = (nth + 1..writes).filter(|_| plan.setups.is_empty()).map(|second| {
            let after = |nth| DiskFault { nth, fault: WriteFault::CrashAfter };
            with(vec![after(nth), after(second)])
        });
        variants.extend(pairs);
    }
    for at in [CrashAt::BeforeItLeaves, CrashAt::OnItsWay, CrashAt::BeforeTheAnswerIsRead] {
        for (moves_money, nth) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
            let crash = WireFault { target: 0, moves_money, nth, fault: Fault::Crash { at } };
            let mut wire_faults = plan.wire_faults.clone();
            wire_faults.retain(|fault| (fault.moves_money, fault.nth) != (moves_money, nth));
            wire_faults.push(crash);
            variants.push(Plan { wire_faults, ..plan.clone() });
        }
    }
    variants
}

fn scenarios() -> Vec<(String, Plan)> {
    let mut scenarios = Vec::new();
    for provider in PROVIDERS {
        for Scenario { name, target, wire_faults, steps } in outcomes(provider) {
            let plan = Plan {
                seed: scenarios.len() as u64,
                behaviour: ProviderBehaviour { sectigo_deduplicates: false, ..ProviderBehaviour::USUAL },
                targets: vec![target],
                steps,
                wire_faults,
                ..Plan::USUAL
            };
            scenarios.push((format!("{provider:?}, {name}"), plan));
        }
        for (name, plan) in approvals(provider) {
            let plan = Plan { seed: scenarios.len() as u64, ..plan };
            scenarios.push((format!("{provider:?}, {name}"), plan));
        }
        for (change, plan) in changes(provider) {
            let plan = Plan { seed: scenarios.len() as u64, ..plan };
            scenarios.push((format!("{provider:?}, {change}"), plan));
        }
    }
    scenarios
}

/// Others decide about a refund, and a limit is reached.
fn approvals(provider: ProviderKind) -> Vec<(String, Plan)> {
    let decide = |caller, reject| Op::Decide { refund: 0, caller, reject, stale_etag: false };
    let (own, others) = (decide(1, false), [decide(3, false), decide(5, false)]);
    let cancel = Op::Cancel { refund: 0, old_etag: false, gives_up_after_ms: None };
    let second = Op::Create { refund: 1, target: 0, variant: 0, wait_ms: 0, similar: true, gives_up_after_ms: None };
    let later = Op::AdvanceClock { minutes: 1_500 };
    let histories = [
        ("approved by two", vec![own, others[0], others[0], others[1]]),
        ("approved late", vec![later, others[0], others[1]]),
        ("approved and rejected", vec![others[0], decide(5, true), others[1]]),
        ("approved and cancelled at once", vec![others[0], others[1], cancel]),
        ("not approved in time", vec![own, others[0], later, later, later, others[1]]),
        ("the limit is reached, and free again", vec![second, cancel, second, others[0], others[1]]),
    ];
    let plan = |steps: &[Op]| Plan {
        behaviour: ProviderBehaviour { sectigo_deduplicates: false, ..ProviderBehaviour::USUAL },
        targets: vec![usual_target(provider)],
        steps: created(steps),
        rules: Some(RulesPlan {
            daily_count: Some(1),
            approve_from: Some(0),
            needed: 2,
            expire_s: 200_000,
            ..RulesPlan::NONE
        }),
        ..Plan::USUAL
    };
    histories.into_iter().map(|(name, steps)| (name.to_owned(), plan(&steps))).collect()
}

/// The account is at another site from the second start on.
fn changes(provider: ProviderKind) -> Vec<(String, Plan)> {
    let usual = Site::usual(provider);
    let moved = Site { host: 1, ..usual };
    let elsewhere = [
        ("the host is another one", AccountSetup::from(moved), true),
        ("the login is another one", AccountSetup::from(Site { login: 1, ..usual }), true),
        (
            "the host is another one, and `former` is missing",
            AccountSetup { former: false, ..AccountSetup::from(moved) },
            true,
        ),
        ("it is a sandbox", AccountSetup { former: false, ..AccountSetup::from(moved) }, false),
        ("its name is another one", AccountSetup { naming: AccountNaming::Second, ..AccountSetup::from(usual) }, true),
    ];
    let wire_faults = [
        ("after a lost answer", Fault::LostAfter { timeout: false }),
        ("after a lost request", Fault::LostBefore { timeout: false }),
        ("and it was never sent", Fault::NotSent),
    ];
    let mut changes = Vec::new();
    for (change, setup, is_one) in elsewhere {
        for (name, fault) in wire_faults {
            let plan = Plan {
                behaviour: ProviderBehaviour {
                    sectigo_deduplicates: false,
                    namecom_deduplicates: false,
                    ..ProviderBehaviour::USUAL
                },
                targets: vec![usual_target(provider)],
                steps: created(&[Op::Restart { drain_s: 1, down_s: 1 }]),
                wire_faults: vec![WireFault { target: 0, moves_money: true, nth: 0, fault }],
                setups: vec![setup],
                shared_books: SharedBooks {
                    across_hosts: PerProvider::all(is_one),
                    across_logins: PerProvider::all(is_one),
                    keys_bound_to_credentials: true,
                },
                ..Plan::USUAL
            };
            changes.push((format!("{change}, {name}"), plan));
        }
    }
    changes
}

fn usual_target(provider: ProviderKind) -> TargetPlan {
    match provider {
        ProviderKind::Sectigo => TargetPlan::Order { kind: OrderKind::Plain },
        ProviderKind::Namecom => items(&[ItemFate::Refunded, ItemFate::Privacy]),
        ProviderKind::Debitsuccess => TargetPlan::Amount { minor: 1_999, kind: AccountKind::Plain },
    }
}

/// One refund of one target, and what happens around it.
struct Scenario {
    name: &'static str,
    target: TargetPlan,
    wire_faults: Vec<WireFault>,
    steps: Vec<Step>,
}

impl Scenario {
    fn new(name: &'static str, target: TargetPlan, wire_faults: Vec<WireFault>, steps: Vec<Step>) -> Scenario {
        Scenario { name, target, wire_faults, steps }
    }
}

/// Every class of the fault table, and every kind of answer.
fn outcomes(provider: ProviderKind) -> Vec<Scenario> {
    let usual = || usual_target(provider);
    let first = |fault| vec![WireFault { target: 0, moves_money: true, nth: 0, fault }];
    let mut outcomes = vec![
        Scenario::new("yes", usual(), vec![], created(&[])),
        Scenario::new("no", refused(provider), vec![], created(&[])),
        Scenario::new("no byte left", usual(), first(Fault::NotSent), created(&[])),
        Scenario::new("lost before, time-out", usual(), first(Fault::LostBefore { timeout: true }), created(&[])),
        Scenario::new("lost before, reset", usual(), first(Fault::LostBefore { timeout: false }), created(&[])),
        Scenario::new("lost after, time-out", usual(), first(Fault::LostAfter { timeout: true }), created(&[])),
        Scenario::new("lost after, reset", usual(), first(Fault::LostAfter { timeout: false }), created(&[])),
        Scenario::new("late commit", usual(), first(Fault::LateCommit { after_s: 400 }), created(&[])),
        Scenario::new("5xx, not done", usual(), first(Fault::Status { code: 503, done: false }), created(&[])),
        Scenario::new("5xx, done", usual(), first(Fault::Status { code: 500, done: true }), created(&[])),
        Scenario::new("garbage, done", usual(), first(Fault::Garbage { done: true }), created(&[])),
        Scenario::new("cut", usual(), first(Fault::Truncated { percent: 60 }), created(&[])),
        Scenario::new("oversized, done", usual(), first(Fault::Oversized { done: true }), created(&[])),
        Scenario::new("redirect, not done", usual(), first(Fault::Redirect { done: false }), created(&[])),
        Scenario::new("redirect, done", usual(), first(Fault::Redirect { done: true }), created(&[])),
        Scenario::new("wrong identifiers", usual(), first(Fault::WrongIdentifiers), created(&[])),
        Scenario::new(
            "lost after, and a stale lookup",
            usual(),
            vec![
                WireFault { target: 0, moves_money: true, nth: 0, fault: Fault::LostAfter { timeout: false } },
                WireFault { target: 0, moves_money: false, nth: 0, fault: Fault::Stale { by_s: 500 } },
            ],
            created(&[]),
        ),
        Scenario::new(
            "credentials refused for a while",
            usual(),
            vec![],
            outage_first(Op::Outage { provider, kind: Outage::Credentials, for_s: 40 }),
        ),
        Scenario::new(
            "silence for hours",
            usual(),
            vec![],
            outage_first(Op::Outage { provider, kind: Outage::Silent, for_s: 7_200 }),
        ),
        Scenario::new(
            "cancelled while it waits",
            usual(),
            first(Fault::NotSent),
            created(&[Op::Cancel { refund: 0, old_etag: false, gives_up_after_ms: None }]),
        ),
        Scenario::new(
            "reconciled by two callers at the same time",
            usual(),
            first(Fault::LostAfter { timeout: false }),
            created(&[
                Op::Reconcile { refund: 0, gives_up_after_ms: None },
                Op::Reconcile { refund: 0, gives_up_after_ms: Some(1) },
            ]),
        ),
        Scenario::new(
            "refunded by others meanwhile",
            usual(),
            first(Fault::LostBefore { timeout: false }),
            created(&[Op::RefundByOthers { target: 0 }]),
        ),
        Scenario::new(
            "sent again by the operator",
            usual(),
            first(Fault::LostBefore { timeout: false }),
            created(&[
                Op::AdvanceClock { minutes: 1_500 },
                Op::AdvanceClock { minutes: 1_500 },
                Op::Resolve { refund: 0, send_again: true, take_over: false },
            ]),
        ),
    ];
    match provider {
        ProviderKind::Sectigo => outcomes.push(Scenario::new(
            "the provider does not know",
            TargetPlan::Order { kind: OrderKind::FailsAfter },
            vec![],
            created(&[]),
        )),
        ProviderKind::Namecom => {
            outcomes.push(Scenario::new(
                "partial",
                items(&[ItemFate::Refunded, ItemFate::Failed]),
                vec![],
                created(&[]),
            ));
            outcomes.push(Scenario::new(
                "one item is only begun",
                items(&[ItemFate::Initialized, ItemFate::Refunded]),
                vec![],
                created(&[]),
            ));
            outcomes.push(Scenario::new(
                "the request fails halfway",
                items(&[ItemFate::Refunded, ItemFate::RegistryDown]),
                vec![],
                created(&[]),
            ));
        }
        ProviderKind::Debitsuccess => {
            let rejected = TargetPlan::Amount { minor: 2_903, kind: AccountKind::Rejects };
            outcomes.push(Scenario::new(
                "accepted, and rejected later",
                rejected,
                vec![],
                created(&[Op::Settle { target: 0, yes: false }]),
            ));
        }
    }
    outcomes
}

fn refused(provider: ProviderKind) -> TargetPlan {
    match provider {
        ProviderKind::Sectigo => TargetPlan::Order { kind: OrderKind::PeriodOver },
        ProviderKind::Namecom => items(&[ItemFate::WindowOver]),
        ProviderKind::Debitsuccess => TargetPlan::Amount { minor: 500, kind: AccountKind::TooLittleCollected },
    }
}

fn items(fates: &[ItemFate]) -> TargetPlan {
    // 0.29 and 4.35 have no exact binary float.
    let items = fates.iter().zip([29, 435, 1_999]).map(|(fate, price_minor)| ItemPlan { price_minor, fate: *fate });
    TargetPlan::Items { items: items.collect() }
}

/// Creates one refund, and performs these operations some seconds apart.
fn created(then: &[Op]) -> Vec<Step> {
    let create = Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 500, similar: false, gives_up_after_ms: None };
    let again = Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 0, similar: false, gives_up_after_ms: None };
    let mut steps = vec![Step { after_ms: 10, op: create }];
    steps.extend(then.iter().map(|op| Step { after_ms: 700, op: *op }));
    steps.push(Step { after_ms: 3_000, op: again });
    steps
}

fn outage_first(outage: Op) -> Vec<Step> {
    let mut steps = vec![Step { after_ms: 5, op: outage }];
    steps.extend(created(&[]));
    steps
}
