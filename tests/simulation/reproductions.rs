//! Bugs that the simulation has found, as short plans that reproduce them. All of them are run
//! again with every change.

use crate::plan::{
    CrashAt, DiskFault, Fault, ItemFate, ItemPlan, Lie, Op, OrderKind, Outage, Plan, ProviderBehaviour, ProviderKind,
    Step, TargetPlan, WireFault, WriteFault,
};

/// A bug that was fixed.
struct Reproduction {
    what: &'static str,
    plan: fn() -> Plan,
}

const ALL: [Reproduction; 5] = [
    Reproduction {
        what: "a doubt whose lookups are never answered is never left to the operator",
        plan: never_answered,
    },
    Reproduction {
        what: "a half-open breaker waits for ever, where only a refund in doubt could probe it",
        plan: half_open,
    },
    Reproduction { what: "the amount of the first items is reported as the amount of all", plan: amount_on_the_way },
    Reproduction { what: "after the clock was set back an old key seems young", plan: clock_set_back },
    Reproduction { what: "a key expires while its next use is being recorded", plan: expires_while_recorded },
];

/// Runs all of them. Returns whether none of the bugs is back.
pub(crate) fn run_all() -> bool {
    let mut fine = true;
    for Reproduction { what, plan } in ALL {
        let violations = crate::run::run(&plan()).violations;
        for violation in &violations {
            println!("the bug is back: {what}: {violation}");
        }
        fine &= violations.is_empty();
    }
    println!("{:<28}{}", "found bugs run again", ALL.len());
    fine
}

/// The order belongs to another account, and the process ends before it reads the refusal: every
/// lookup is refused.
fn never_answered() -> Plan {
    let wire_faults = vec![refund_fault(0, Fault::Crash { at: CrashAt::OnItsWay })];
    plan(TargetPlan::Order { kind: OrderKind::OfAnotherAccount }, wire_faults, vec![step(10, create())])
}

/// The operator has a refund sent again while the credentials are refused; nothing else waits for
/// the account.
fn half_open() -> Plan {
    let steps = vec![
        step(10, create()),
        step(1_000, Op::Outage { provider: ProviderKind::Debitsuccess, kind: Outage::Credentials, for_s: 5 }),
        step(100, Op::Resolve { refund: 0, send_again: true, take_over: false }),
    ];
    let wire_faults = vec![refund_fault(0, Fault::Lie { lie: Lie::Already })];
    let target = TargetPlan::Amount { minor: 1_999, kind: crate::plan::AccountKind::Plain };
    let plan = plan(target, wire_faults, steps);
    Plan { behaviour: ProviderBehaviour { liar: true, ..plan.behaviour }, ..plan }
}

/// One item is paid immediately, together with its privacy item, and the other one later.
fn amount_on_the_way() -> Plan {
    let fates = [ItemFate::Refunded, ItemFate::Privacy, ItemFate::Initialized];
    let items = fates.map(|fate| ItemPlan { price_minor: 435, fate });
    plan(TargetPlan::Items { items: items.to_vec() }, Vec::new(), vec![step(10, create())])
}

/// The clock is set back by more than the lifetime of a key, and no lookup is answered for as long.
fn clock_set_back() -> Plan {
    let steps = vec![
        step(10, create()),
        step(500, Op::SkewClock { seconds: -4_000 }),
        step(500, Op::AdvanceClock { minutes: 70 }),
    ];
    let items = vec![ItemPlan { price_minor: 29, fate: ItemFate::Refunded }];
    plan(TargetPlan::Items { items }, vec![refund_fault(0, Fault::LostBefore { timeout: false })], steps)
}

/// The gateway decides to use a key again, and the commit takes so long that the key has expired
/// before the request may be sent.
fn expires_while_recorded() -> Plan {
    let steps = vec![step(10, create()), step(11_000, Op::SkewClock { seconds: 4_000 })];
    let items = vec![ItemPlan { price_minor: 29, fate: ItemFate::Refunded }];
    let plan = plan(TargetPlan::Items { items }, vec![refund_fault(0, Fault::LostAfter { timeout: false })], steps);
    // The writes before it: the start, the refund and its doubt. Then comes the second attempt.
    let disk_faults = vec![DiskFault { nth: 3, fault: WriteFault::Slow { ms: 5_000 } }];
    Plan { disk_faults, ..plan }
}

fn plan(target: TargetPlan, wire_faults: Vec<WireFault>, steps: Vec<Step>) -> Plan {
    Plan { seed: 1, targets: vec![target], steps, wire_faults, ..Plan::USUAL }
}

fn create() -> Op {
    Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 500, similar: false, gives_up_after_ms: None }
}

fn step(after_ms: u64, op: Op) -> Step {
    Step { after_ms, op }
}

fn refund_fault(nth: u32, fault: Fault) -> WireFault {
    WireFault { target: 0, moves_money: true, nth, fault }
}
