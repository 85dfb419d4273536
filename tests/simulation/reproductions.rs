//! Bugs that the simulation has found, as short plans that show them. Each is run again with every
//! change.

use crate::plan::{
    CrashAt, DiskHarm, Habits, Harm, ItemFate, ItemPlan, Lie, Op, OrderKind, Outage, Plan, Step, TargetPlan, Who,
    WireHarm, WriteHarm,
};

/// A bug that is no more.
struct Reproduction {
    what: &'static str,
    plan: fn() -> Plan,
}

const ALL: [Reproduction; 5] = [
    Reproduction { what: "a doubt whose looks are never answered is never shown to a person", plan: never_answered },
    Reproduction {
        what: "an account half open waits for ever, where only a refund in doubt could try it",
        plan: half_open,
    },
    Reproduction { what: "the amount of the first items is told as that of all", plan: amount_on_the_way },
    Reproduction { what: "after the clock was set back an old key looks young", plan: clock_set_back },
    Reproduction { what: "a key dies while its next use is being recorded", plan: dies_while_recorded },
];

/// Whether none of them is back.
pub(crate) fn run_all() -> bool {
    let mut fine = true;
    for Reproduction { what, plan } in ALL {
        let violations = crate::run::run(&plan()).violations;
        for violation in &violations {
            println!("again: {what}: {violation}");
        }
        fine &= violations.is_empty();
    }
    println!("{:<28}{}", "found bugs run again", ALL.len());
    fine
}

/// The order is another account's, and the process ends before its no is heard: every look is
/// refused.
fn never_answered() -> Plan {
    let harms = vec![moving(0, Harm::Crash { at: CrashAt::OnItsWay })];
    plan(TargetPlan::Order { kind: OrderKind::SomebodyElses }, harms, vec![step(10, create())])
}

/// A person has it sent again while the credentials are not accepted; nothing else waits for the
/// account.
fn half_open() -> Plan {
    let steps = vec![
        step(10, create()),
        step(1_000, Op::Outage { who: Who::Debitsuccess, kind: Outage::Credentials, for_s: 5 }),
        step(100, Op::Resolve { refund: 0, send_again: true, take_over: false }),
    ];
    let harms = vec![moving(0, Harm::Lie { lie: Lie::Already })];
    let target = TargetPlan::Amount { minor: 1_999, kind: crate::plan::AccountKind::Plain };
    let plan = plan(target, harms, steps);
    Plan { habits: Habits { liar: true, ..plan.habits }, ..plan }
}

/// One item is paid out at once, with its privacy, and the other one later.
fn amount_on_the_way() -> Plan {
    let fates = [ItemFate::Refunded, ItemFate::Privacy, ItemFate::Initialized];
    let items = fates.map(|fate| ItemPlan { price_minor: 435, fate });
    plan(TargetPlan::Items { items: items.to_vec() }, Vec::new(), vec![step(10, create())])
}

/// The clock is set back by more than a key lives, and for as long nothing can be asked.
fn clock_set_back() -> Plan {
    let steps = vec![step(10, create()), step(500, Op::Skew { seconds: -4_000 }), step(500, Op::Leap { minutes: 70 })];
    let items = vec![ItemPlan { price_minor: 29, fate: ItemFate::Refunded }];
    plan(TargetPlan::Items { items }, vec![moving(0, Harm::LostBefore { timeout: false })], steps)
}

/// It is decided to use the key again, and the disk takes so long over it that the key is dead when
/// it may leave.
fn dies_while_recorded() -> Plan {
    let steps = vec![step(10, create()), step(11_000, Op::Skew { seconds: 4_000 })];
    let items = vec![ItemPlan { price_minor: 29, fate: ItemFate::Refunded }];
    let plan = plan(TargetPlan::Items { items }, vec![moving(0, Harm::LostAfter { timeout: false })], steps);
    // The start, the refund, its doubt, and then the second attempt.
    let disk = vec![DiskHarm { nth: 3, harm: WriteHarm::Slow { ms: 5_000 } }];
    Plan { disk, ..plan }
}

fn plan(target: TargetPlan, harms: Vec<WireHarm>, steps: Vec<Step>) -> Plan {
    Plan { seed: 1, targets: vec![target], steps, harms, ..Plan::USUAL }
}

fn create() -> Op {
    Op::Create { refund: 0, target: 0, variant: 0, wait_ms: 500, similar: false, leaves_ms: None }
}

fn step(after_ms: u64, op: Op) -> Step {
    Step { after_ms, op }
}

fn moving(nth: u32, harm: Harm) -> WireHarm {
    WireHarm { target: 0, moving: true, nth, harm }
}
