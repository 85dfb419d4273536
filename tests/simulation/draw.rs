//! Draws a plan from a seed. Each seed has a temper of its own: how much goes wrong, how often the
//! process ends, how close calls lie together.

use crate::plan::{
    AccountKind, CrashAt, DiskHarm, Habits, Harm, ItemFate, ItemPlan, Lie, Op, OrderKind, Outage, Plan, Step,
    TargetPlan, Who, WireHarm, WriteHarm,
};
use crate::rng::Dice;
use crate::setups;

/// The plan of a seed.
pub(crate) fn draw(seed: u64) -> Plan {
    let mut dice = Dice::new(seed, &[0]);
    let liar = dice.percent(6);
    let mut habits = habits(&mut dice, liar);
    let targets: Vec<TargetPlan> = (0..dice.between(1, 4)).map(|_| target(&mut dice)).collect();
    // Documented: an item that was refunded is refused. A provider that breaks off in the middle of
    // a call, remembers nothing of it under the key and refunds its items again obeys no document.
    let breaks_off = |item: &ItemPlan| item.fate == ItemFate::RegistryDown;
    habits.namecom_deduplicates |=
        targets.iter().any(|target| matches!(target, TargetPlan::Items { items } if items.iter().any(breaks_off)));
    let refunds = dice.between(1, 6) as u8;
    let mut plan = Plan { seed, habits, targets, ..Plan::USUAL };
    let assigned: Vec<u8> = (0..refunds).map(|_| dice.place(plan.targets.len()) as u8).collect();
    plan.steps = steps(&mut dice, &assigned, &plan.targets);
    // After a clock was set back while nobody looked, nobody can tell how old a key is; then it is
    // the items that name.com looks at.
    plan.habits.namecom_deduplicates |= plan.sets_clock_back();
    if dice.percent(8) {
        doubt_from_all_sides(&mut dice, &mut plan);
    }
    let violence = dice.weighted(&[(15, 0), (50, 2), (25, 5), (10, 10)]);
    for _ in 0..dice.between(0, violence) {
        let harm = wire_harm(&mut dice, &plan.targets, liar);
        plan.harms.push(harm);
    }
    let writes = u64::from(refunds) * 5 + 4;
    let trouble = dice.weighted(&[(45, 0), (40, 1), (15, 3)]);
    for _ in 0..dice.between(0, trouble) {
        let harm = dice.weighted(&[
            (30, WriteHarm::CrashBefore),
            (30, WriteHarm::CrashAfter),
            (12, WriteHarm::FailsAndIsLost),
            (8, WriteHarm::FailsAndIsKept),
            (10, WriteHarm::Busy),
            (10, WriteHarm::Slow { ms: 20_000 }),
        ]);
        plan.disk.push(DiskHarm { nth: dice.between(0, writes) as u32, harm });
    }
    // Of a row of its own: what else is drawn from a seed does not depend on it.
    let mut dice = Dice::new(seed, &[9]);
    if dice.percent(6) {
        looks_are_overtaken(&mut dice, &mut plan);
    }
    // Each of these has a row of its own, too.
    let mut dice = Dice::new(seed, &[10]);
    if dice.percent(50) {
        setups::change(&mut dice, &mut plan);
    }
    let mut dice = Dice::new(seed, &[11]);
    if dice.percent(8) {
        absence_is_interrupted(&mut dice, &mut plan);
    }
    let mut dice = Dice::new(seed, &[12]);
    if dice.percent(15) {
        rejections_are_corrected(&mut dice, &mut plan);
    }
    let mut dice = Dice::new(seed, &[13]);
    if dice.percent(12) {
        rows_stand_beside_a_message(&mut dice, &mut plan);
    }
    plan
}

fn habits(dice: &mut Dice, liar: bool) -> Habits {
    Habits {
        sectigo_deduplicates: dice.percent(50),
        namecom_deduplicates: dice.percent(60),
        namecom_remembers_refusals: dice.percent(25),
        namecom_requests_per_second: dice.weighted(&[(90, 20), (10, 1)]),
        sectigo_calls_per_minute: dice.weighted(&[(90, None), (10, Some(2))]),
        sectigo_status_lag_s: dice.weighted(&[(80, 0), (10, 300), (10, 7_200)]),
        debitsuccess_completes_after_s: dice.weighted(&[(60, None), (30, Some(20)), (10, Some(4_000))]),
        leg_ms: dice.weighted(&[(50, 40), (40, 400), (10, 8_000)]),
        commit_ms: dice.weighted(&[(50, 3), (40, 30), (10, 1_000)]),
        in_flight: dice.weighted(&[(30, 1), (40, 2), (30, 8)]),
        paced: dice.percent(50),
        liar,
    }
}

fn target(dice: &mut Dice) -> TargetPlan {
    match dice.weighted(&[(1, Who::Sectigo), (1, Who::Namecom), (1, Who::Debitsuccess)]) {
        Who::Sectigo => TargetPlan::Order {
            kind: dice.weighted(&[
                (70, OrderKind::Plain),
                (5, OrderKind::PeriodOver),
                (5, OrderKind::AlreadyRefunded),
                (5, OrderKind::MultiDomain),
                (5, OrderKind::SomebodyElses),
                (5, OrderKind::FailsBefore),
                (5, OrderKind::FailsAfter),
            ]),
        },
        Who::Namecom => {
            let count = dice.weighted(&[(50, 1), (30, 2), (20, 3)]);
            let mut items: Vec<ItemPlan> = (0..count).map(|_| item(dice)).collect();
            if items.iter().all(|item| item.fate == ItemFate::Privacy) {
                items[0].fate = ItemFate::Refunded;
            }
            // A privacy item goes with the registration before it.
            if items[0].fate == ItemFate::Privacy {
                items.reverse();
            }
            if items[0].fate == ItemFate::Privacy {
                items[0].fate = ItemFate::Refunded;
            }
            TargetPlan::Items { items }
        }
        Who::Debitsuccess => TargetPlan::Amount {
            minor: price(dice),
            kind: dice.weighted(&[
                (70, AccountKind::Plain),
                (6, AccountKind::Poor),
                (6, AccountKind::NotActive),
                (6, AccountKind::Deadlock),
                (12, AccountKind::Rejects),
            ]),
        },
    }
}

fn item(dice: &mut Dice) -> ItemPlan {
    let fate = dice.weighted(&[
        (60, ItemFate::Refunded),
        (7, ItemFate::Failed),
        (3, ItemFate::Canceled),
        (8, ItemFate::Initialized),
        (5, ItemFate::RegistryDown),
        (9, ItemFate::Privacy),
        (4, ItemFate::NotEligible),
        (4, ItemFate::WindowOver),
    ]);
    ItemPlan { price_minor: price(dice), fate }
}

/// Many of them are amounts that no binary float holds.
fn price(dice: &mut Dice) -> i64 {
    match dice.between(0, 3) {
        0 => dice.between(2, 99) as i64,
        1 => dice.between(100, 9_999) as i64,
        2 => dice.between(10_000, 999_999) as i64,
        _ => dice.between(100_000_000, 999_999_999) as i64,
    }
}

fn steps(dice: &mut Dice, assigned: &[u8], targets: &[TargetPlan]) -> Vec<Step> {
    let mut steps = Vec::new();
    let pace = dice.weighted(&[(40, 30), (40, 2_000), (20, 60_000)]);
    let refund = |dice: &mut Dice| dice.place(assigned.len()) as u8;
    let any_target = |dice: &mut Dice| dice.place(targets.len()) as u8;
    let leaves = |dice: &mut Dice| dice.percent(15).then(|| dice.between(0, 500));
    for number in 0..assigned.len() as u8 {
        let create = Op::Create {
            refund: number,
            target: assigned[usize::from(number)],
            variant: 0,
            wait_ms: dice.weighted(&[(50, 0), (30, 1_000), (20, 20_000)]),
            similar: dice.percent(50),
            leaves_ms: leaves(dice),
        };
        steps.push(Step { after_ms: dice.between(0, pace), op: create });
    }
    for _ in 0..dice.between(0, 14) {
        let one = refund(dice);
        let its_target = assigned[usize::from(one)];
        let op = match dice.between(0, 99) {
            0..=15 => Op::Create {
                refund: one,
                target: its_target,
                variant: dice.weighted(&[(70, 0), (15, 1), (15, 2)]),
                wait_ms: dice.between(0, 2_000),
                similar: dice.percent(50),
                leaves_ms: leaves(dice),
            },
            16..=18 => Op::Check { refund: one, target: any_target(dice) },
            19..=25 => Op::Wait { refund: one, wait_ms: dice.between(0, 30_000), leaves_ms: leaves(dice) },
            26..=33 => Op::Cancel { refund: one, old_etag: dice.percent(50), leaves_ms: leaves(dice) },
            34..=47 => Op::Reconcile { refund: one, leaves_ms: leaves(dice) },
            48..=54 => Op::Resolve { refund: one, send_again: dice.percent(50), take_over: false },
            55..=59 => Op::Get { refund: one },
            60..=64 => Op::List,
            65..=68 => Op::Settle { target: its_target, yes: dice.percent(70) },
            69..=70 => Op::Foreign { target: its_target },
            71..=72 => Op::ForeignKey { refund: one, target: its_target },
            73..=78 => Op::Outage {
                who: dice.weighted(&[(1, Who::Sectigo), (1, Who::Namecom), (1, Who::Debitsuccess)]),
                kind: dice.weighted(&[
                    (1, Outage::Refuses),
                    (1, Outage::Silent),
                    (1, Outage::Credentials),
                    (1, Outage::Maintenance),
                    (1, Outage::Flaps),
                ]),
                for_s: dice.weighted(&[(50, 90), (30, 1_200), (20, 30_000)]),
            },
            79..=89 => Op::Leap { minutes: dice.weighted(&[(40, 1), (30, 11), (15, 70), (15, 1_500)]) },
            90..=91 => Op::Skew { seconds: dice.weighted(&[(1, 30), (1, 4_000), (1, -30), (1, -4_000)]) },
            92..=95 => Op::Crash { down_s: dice.weighted(&[(60, 1), (30, 700), (10, 90_000)]) },
            _ => Op::Restart { drain_s: dice.between(0, 30), down_s: dice.weighted(&[(60, 1), (40, 700)]) },
        };
        let place = dice.between(0, steps.len() as u64) as usize;
        steps.insert(place, Step { after_ms: dice.between(0, pace), op });
    }
    steps
}

/// One refund whose answers are lost, and people who look at it again and again while the gateway
/// does.
fn doubt_from_all_sides(dice: &mut Dice, plan: &mut Plan) {
    let Some((refund, target)) = first_refund(plan) else { return };
    for nth in 0..dice.between(1, 3) as u32 {
        let timeout = dice.percent(50);
        let harm = if dice.percent(70) { Harm::LostBefore { timeout } } else { Harm::LostAfter { timeout } };
        plan.harms.push(WireHarm { target, moving: true, nth, harm });
    }
    for nth in 0..8 {
        if dice.percent(50) {
            let ms = dice.weighted(&[(1, 1_000), (1, 10_000), (1, 40_000)]);
            plan.harms.push(WireHarm { target, moving: false, nth, harm: Harm::Slow { ms } });
        }
    }
    for _ in 0..dice.between(2, 5) {
        plan.steps.push(Step { after_ms: dice.between(0, 60_000), op: Op::Leap { minutes: dice.between(4, 12) } });
        for _ in 0..dice.between(1, 4) {
            let look = Op::Reconcile { refund, leaves_ms: None };
            plan.steps.push(Step { after_ms: dice.between(0, 30_000), op: look });
        }
    }
}

/// One refund that never arrives, and somebody who asks for it all the time: some looks take so
/// long that the next attempt leaves, and is answered, before what they saw is known.
fn looks_are_overtaken(dice: &mut Dice, plan: &mut Plan) {
    let Some((refund, target)) = first_refund(plan) else { return };
    plan.habits.in_flight = 8;
    plan.harms.push(WireHarm { target, moving: true, nth: 0, harm: Harm::LostBefore { timeout: dice.percent(50) } });
    for nth in 0..30 {
        if dice.percent(50) {
            let harm = Harm::Slow { ms: dice.between(10_000, 50_000) };
            plan.harms.push(WireHarm { target, moving: false, nth, harm });
        }
    }
    for _ in 0..dice.between(10, 25) {
        let look = Op::Reconcile { refund, leaves_ms: None };
        plan.steps.push(Step { after_ms: dice.between(0, 90_000), op: look });
    }
}

/// A refund of Debitsuccess that arrives late, and reads that show the past: it is not there, is
/// there, and is not there again.
fn absence_is_interrupted(dice: &mut Dice, plan: &mut Plan) {
    let Some(target) = plan.targets.iter().position(|target| target.who() == Who::Debitsuccess) else { return };
    let target = target as u8;
    let asks = plan.steps.iter().position(|step| matches!(step.op, Op::Create { target: of, .. } if of == target));
    let Some(place) = asks else { return };
    let Op::Create { refund, .. } = plan.steps[place].op else { return };
    plan.harms.retain(|harm| harm.target != target);
    let late = Harm::Late { after_s: dice.between(400, 520) };
    plan.harms.push(WireHarm { target, moving: true, nth: 0, harm: late });
    for nth in 3..24 {
        if dice.percent(50) {
            let harm = Harm::Stale { by_s: dice.between(300, 599) };
            plan.harms.push(WireHarm { target, moving: false, nth, harm });
        }
    }
    let looks: Vec<Step> = (0..dice.between(8, 20))
        .map(|_| Step { after_ms: dice.between(10_000, 150_000), op: Op::Reconcile { refund, leaves_ms: None } })
        .collect();
    plan.steps.splice(place + 1..place + 1, looks);
}

/// Debitsuccess rejects, and pays all the same.
fn rejections_are_corrected(dice: &mut Dice, plan: &mut Plan) {
    let ours = |target: &TargetPlan| target.who() == Who::Debitsuccess;
    let Some(target) = plan.targets.iter().position(ours) else { return };
    let target = target as u8;
    for op in [Op::Settle { target, yes: false }, Op::Leap { minutes: 70 }, Op::Correct { target }] {
        plan.steps.push(Step { after_ms: dice.between(1_000, 200_000), op });
    }
    if dice.percent(50) {
        plan.steps.push(Step { after_ms: dice.between(1_000, 200_000), op: Op::Leap { minutes: 1_500 } });
    }
}

/// name.com answers with rows, under a status and with a message that say something else.
fn rows_stand_beside_a_message(dice: &mut Dice, plan: &mut Plan) {
    let Some(target) = plan.targets.iter().position(|target| target.who() == Who::Namecom) else { return };
    let harm = Harm::Relabelled { code: dice.weighted(&[(4, 409), (1, 400), (1, 423), (1, 500)]) };
    plan.harms.insert(0, WireHarm { target: target as u8, moving: true, nth: 0, harm });
}

fn first_refund(plan: &Plan) -> Option<(u8, u8)> {
    plan.steps.iter().find_map(|step| match step.op {
        Op::Create { refund, target, .. } => Some((refund, target)),
        _ => None,
    })
}

fn wire_harm(dice: &mut Dice, targets: &[TargetPlan], liar: bool) -> WireHarm {
    let target = dice.place(targets.len()) as u8;
    let who = targets[usize::from(target)].who();
    let moving = dice.percent(75);
    let nth = dice.weighted(&[(60, 0), (25, 1), (15, 2)]);
    let done = dice.percent(50);
    let timeout = dice.percent(50);
    let longest_late = crate::run::settle_time(who).as_secs();
    if liar && moving && dice.percent(60) {
        let lie = dice.weighted(&[(1, Lie::Yes), (1, Lie::Replay), (1, Lie::Taken), (1, Lie::Already)]);
        return WireHarm { target, moving, nth, harm: Harm::Lie { lie } };
    }
    let harm = match dice.between(0, 99) {
        0..=11 => Harm::NotSent,
        12..=21 => Harm::LostBefore { timeout },
        22..=38 => Harm::LostAfter { timeout },
        39..=48 => Harm::Late { after_s: dice.between(1, longest_late - 60) },
        49..=53 => Harm::Slow { ms: dice.weighted(&[(50, 5_000), (25, 55_000), (25, 70_000)]) },
        54..=62 => Harm::Status { code: dice.weighted(&[(1, 500), (1, 502), (1, 503), (1, 504)]), done },
        63..=66 => Harm::Garbage { done },
        67..=70 => Harm::Page { done },
        71..=75 => Harm::Cut { percent: dice.between(0, 99) as u8 },
        76..=78 => Harm::Flood { done },
        79..=82 => Harm::Redirect { done },
        83..=86 => Harm::OtherIds,
        87..=91 if !moving => Harm::Stale { by_s: dice.between(1, longest_late) },
        _ => Harm::Crash {
            at: dice.weighted(&[
                (1, CrashAt::BeforeItLeaves),
                (1, CrashAt::OnItsWay),
                (1, CrashAt::BeforeTheAnswerIsRead),
            ]),
        },
    };
    WireHarm { target, moving, nth, harm }
}
