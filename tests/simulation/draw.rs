//! Draws a plan from a seed. Seeds differ in how many faults there are, how often the process ends
//! and how quickly the operations follow each other.

use crate::people;
use crate::plan::{
    AccountKind, CrashAt, DiskFault, Fault, ItemFate, ItemPlan, Lie, Op, OrderKind, Outage, Plan, ProviderBehaviour,
    ProviderKind, Step, TargetPlan, WireFault, WriteFault,
};
use crate::rng::SeededRng;
use crate::setups;

/// The plan of a seed.
pub(crate) fn draw(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed, &[0]);
    let liar = rng.percent(6);
    let mut behaviour = behaviour(&mut rng, liar);
    let targets: Vec<TargetPlan> = (0..rng.between(1, 4)).map(|_| target(&mut rng)).collect();
    // name.com documents that it refuses an item that was refunded. A provider that fails in the
    // middle of a request, remembers nothing under the key and refunds the items again would
    // violate that.
    let breaks_off = |item: &ItemPlan| item.fate == ItemFate::RegistryDown;
    behaviour.namecom_deduplicates |=
        targets.iter().any(|target| matches!(target, TargetPlan::Items { items } if items.iter().any(breaks_off)));
    let refunds = rng.between(1, 6) as u8;
    let mut plan = Plan { seed, behaviour, targets, ..Plan::USUAL };
    let assigned: Vec<u8> = (0..refunds).map(|_| rng.index(plan.targets.len()) as u8).collect();
    plan.steps = steps(&mut rng, &assigned, &plan.targets);
    // After the clock was set back unseen, the gateway cannot know how old a key is. Then name.com
    // must refuse the refunded items.
    plan.behaviour.namecom_deduplicates |= plan.sets_clock_back();
    if rng.percent(8) {
        one_doubt_is_looked_up_often(&mut rng, &mut plan);
    }
    let max_faults = rng.weighted(&[(15, 0), (50, 2), (25, 5), (10, 10)]);
    for _ in 0..rng.between(0, max_faults) {
        let fault = wire_fault(&mut rng, &plan.targets, liar);
        plan.wire_faults.push(fault);
    }
    let writes = u64::from(refunds) * 5 + 4;
    let max_disk_faults = rng.weighted(&[(45, 0), (40, 1), (15, 3)]);
    for _ in 0..rng.between(0, max_disk_faults) {
        let fault = rng.weighted(&[
            (30, WriteFault::CrashBefore),
            (30, WriteFault::CrashAfter),
            (12, WriteFault::FailsAndIsLost),
            (8, WriteFault::FailsAndIsKept),
            (10, WriteFault::Busy),
            (10, WriteFault::Slow { ms: 20_000 }),
        ]);
        plan.disk_faults.push(DiskFault { nth: rng.between(0, writes) as u32, fault });
    }
    // From a stream of its own, so that nothing else that is drawn from the seed depends on it.
    let mut rng = SeededRng::new(seed, &[9]);
    if rng.percent(6) {
        lookups_are_overtaken(&mut rng, &mut plan);
    }
    // Each of these has a stream of its own, too.
    let mut rng = SeededRng::new(seed, &[10]);
    if rng.percent(50) {
        setups::change(&mut rng, &mut plan);
    }
    let mut rng = SeededRng::new(seed, &[11]);
    if rng.percent(8) {
        absence_is_interrupted(&mut rng, &mut plan);
    }
    let mut rng = SeededRng::new(seed, &[12]);
    if rng.percent(15) {
        rejections_are_corrected(&mut rng, &mut plan);
    }
    let mut rng = SeededRng::new(seed, &[13]);
    if rng.percent(12) {
        rows_stand_beside_a_message(&mut rng, &mut plan);
    }
    let mut rng = SeededRng::new(seed, &[14]);
    if rng.percent(15) {
        accounts_are_paused(&mut rng, &mut plan);
    }
    let mut rng = SeededRng::new(seed, &[15]);
    if rng.percent(40) {
        people::draw(&mut rng, &mut plan);
    }
    plan
}

fn behaviour(rng: &mut SeededRng, liar: bool) -> ProviderBehaviour {
    ProviderBehaviour {
        sectigo_deduplicates: rng.percent(50),
        namecom_deduplicates: rng.percent(60),
        namecom_remembers_refusals: rng.percent(25),
        namecom_requests_per_second: rng.weighted(&[(90, 20), (10, 1)]),
        sectigo_calls_per_minute: rng.weighted(&[(90, None), (10, Some(2))]),
        sectigo_status_lag_s: rng.weighted(&[(80, 0), (10, 300), (10, 7_200)]),
        debitsuccess_completes_after_s: rng.weighted(&[(60, None), (30, Some(20)), (10, Some(4_000))]),
        leg_ms: rng.weighted(&[(50, 40), (40, 400), (10, 8_000)]),
        commit_ms: rng.weighted(&[(50, 3), (40, 30), (10, 1_000)]),
        max_in_flight: rng.weighted(&[(30, 1), (40, 2), (30, 8)]),
        rate_limited: rng.percent(50),
        liar,
    }
}

fn target(rng: &mut SeededRng) -> TargetPlan {
    match rng.weighted(&[(1, ProviderKind::Sectigo), (1, ProviderKind::Namecom), (1, ProviderKind::Debitsuccess)]) {
        ProviderKind::Sectigo => TargetPlan::Order {
            kind: rng.weighted(&[
                (70, OrderKind::Plain),
                (5, OrderKind::PeriodOver),
                (5, OrderKind::AlreadyRefunded),
                (5, OrderKind::MultiDomain),
                (5, OrderKind::OfAnotherAccount),
                (5, OrderKind::FailsBefore),
                (5, OrderKind::FailsAfter),
            ]),
        },
        ProviderKind::Namecom => {
            let count = rng.weighted(&[(50, 1), (30, 2), (20, 3)]);
            let mut items: Vec<ItemPlan> = (0..count).map(|_| item(rng)).collect();
            if items.iter().all(|item| item.fate == ItemFate::Privacy) {
                items[0].fate = ItemFate::Refunded;
            }
            // A privacy item is refunded together with the registration before it.
            if items[0].fate == ItemFate::Privacy {
                items.reverse();
            }
            if items[0].fate == ItemFate::Privacy {
                items[0].fate = ItemFate::Refunded;
            }
            TargetPlan::Items { items }
        }
        ProviderKind::Debitsuccess => TargetPlan::Amount {
            minor: price(rng),
            kind: rng.weighted(&[
                (70, AccountKind::Plain),
                (6, AccountKind::TooLittleCollected),
                (6, AccountKind::NotActive),
                (6, AccountKind::Deadlock),
                (12, AccountKind::Rejects),
            ]),
        },
    }
}

fn item(rng: &mut SeededRng) -> ItemPlan {
    let fate = rng.weighted(&[
        (60, ItemFate::Refunded),
        (7, ItemFate::Failed),
        (3, ItemFate::Canceled),
        (8, ItemFate::Initialized),
        (5, ItemFate::RegistryDown),
        (9, ItemFate::Privacy),
        (4, ItemFate::NotEligible),
        (4, ItemFate::WindowOver),
    ]);
    ItemPlan { price_minor: price(rng), fate }
}

/// Many of these amounts have no exact binary float.
fn price(rng: &mut SeededRng) -> i64 {
    match rng.between(0, 3) {
        0 => rng.between(2, 99) as i64,
        1 => rng.between(100, 9_999) as i64,
        2 => rng.between(10_000, 999_999) as i64,
        _ => rng.between(100_000_000, 999_999_999) as i64,
    }
}

fn steps(rng: &mut SeededRng, assigned: &[u8], targets: &[TargetPlan]) -> Vec<Step> {
    let mut steps = Vec::new();
    let pace = rng.weighted(&[(40, 30), (40, 2_000), (20, 60_000)]);
    let refund = |rng: &mut SeededRng| rng.index(assigned.len()) as u8;
    let any_target = |rng: &mut SeededRng| rng.index(targets.len()) as u8;
    let leaves = |rng: &mut SeededRng| rng.percent(15).then(|| rng.between(0, 500));
    for number in 0..assigned.len() as u8 {
        let create = Op::Create {
            refund: number,
            target: assigned[usize::from(number)],
            variant: 0,
            wait_ms: rng.weighted(&[(50, 0), (30, 1_000), (20, 20_000)]),
            similar: rng.percent(50),
            gives_up_after_ms: leaves(rng),
        };
        steps.push(Step { after_ms: rng.between(0, pace), op: create });
    }
    for _ in 0..rng.between(0, 14) {
        let one = refund(rng);
        let its_target = assigned[usize::from(one)];
        let op = match rng.between(0, 99) {
            0..=15 => Op::Create {
                refund: one,
                target: its_target,
                variant: rng.weighted(&[(70, 0), (15, 1), (15, 2)]),
                wait_ms: rng.between(0, 2_000),
                similar: rng.percent(50),
                gives_up_after_ms: leaves(rng),
            },
            16..=18 => Op::DryRun { refund: one, target: any_target(rng) },
            19..=25 => Op::Wait { refund: one, wait_ms: rng.between(0, 30_000), gives_up_after_ms: leaves(rng) },
            26..=33 => Op::Cancel { refund: one, old_etag: rng.percent(50), gives_up_after_ms: leaves(rng) },
            34..=47 => Op::Reconcile { refund: one, gives_up_after_ms: leaves(rng) },
            48..=54 => Op::Resolve { refund: one, send_again: rng.percent(50), take_over: false },
            55..=59 => Op::Get { refund: one },
            60..=64 => Op::List,
            65..=68 => Op::Settle { target: its_target, yes: rng.percent(70) },
            69..=70 => Op::RefundByOthers { target: its_target },
            71..=72 => Op::KeyUsedByOthers { refund: one, target: its_target },
            73..=78 => Op::Outage {
                provider: rng.weighted(&[
                    (1, ProviderKind::Sectigo),
                    (1, ProviderKind::Namecom),
                    (1, ProviderKind::Debitsuccess),
                ]),
                kind: rng.weighted(&[
                    (1, Outage::Refuses),
                    (1, Outage::Silent),
                    (1, Outage::Credentials),
                    (1, Outage::Maintenance),
                    (1, Outage::Flaps),
                ]),
                for_s: rng.weighted(&[(50, 90), (30, 1_200), (20, 30_000)]),
            },
            79..=89 => Op::AdvanceClock { minutes: rng.weighted(&[(40, 1), (30, 11), (15, 70), (15, 1_500)]) },
            90..=91 => Op::SkewClock { seconds: rng.weighted(&[(1, 30), (1, 4_000), (1, -30), (1, -4_000)]) },
            92..=95 => Op::Crash { down_s: rng.weighted(&[(60, 1), (30, 700), (10, 90_000)]) },
            _ => Op::Restart { drain_s: rng.between(0, 30), down_s: rng.weighted(&[(60, 1), (40, 700)]) },
        };
        let place = rng.between(0, steps.len() as u64) as usize;
        steps.insert(place, Step { after_ms: rng.between(0, pace), op });
    }
    steps
}

/// One refund whose answers are lost, and callers who reconcile it again and again while the
/// gateway looks it up, too.
fn one_doubt_is_looked_up_often(rng: &mut SeededRng, plan: &mut Plan) {
    let Some((refund, target)) = first_refund(plan) else { return };
    for nth in 0..rng.between(1, 3) as u32 {
        let timeout = rng.percent(50);
        let fault = if rng.percent(70) { Fault::LostBefore { timeout } } else { Fault::LostAfter { timeout } };
        plan.wire_faults.push(WireFault { target, moves_money: true, nth, fault });
    }
    for nth in 0..8 {
        if rng.percent(50) {
            let ms = rng.weighted(&[(1, 1_000), (1, 10_000), (1, 40_000)]);
            plan.wire_faults.push(WireFault { target, moves_money: false, nth, fault: Fault::Slow { ms } });
        }
    }
    for _ in 0..rng.between(2, 5) {
        plan.steps
            .push(Step { after_ms: rng.between(0, 60_000), op: Op::AdvanceClock { minutes: rng.between(4, 12) } });
        for _ in 0..rng.between(1, 4) {
            let lookup = Op::Reconcile { refund, gives_up_after_ms: None };
            plan.steps.push(Step { after_ms: rng.between(0, 30_000), op: lookup });
        }
    }
}

/// One refund that never arrives, and a caller who reconciles it all the time. Some lookups take so
/// long that the next attempt is sent and answered before their result is recorded.
fn lookups_are_overtaken(rng: &mut SeededRng, plan: &mut Plan) {
    let Some((refund, target)) = first_refund(plan) else { return };
    plan.behaviour.max_in_flight = 8;
    plan.wire_faults.push(WireFault {
        target,
        moves_money: true,
        nth: 0,
        fault: Fault::LostBefore { timeout: rng.percent(50) },
    });
    for nth in 0..30 {
        if rng.percent(50) {
            let fault = Fault::Slow { ms: rng.between(10_000, 50_000) };
            plan.wire_faults.push(WireFault { target, moves_money: false, nth, fault });
        }
    }
    for _ in 0..rng.between(10, 25) {
        let lookup = Op::Reconcile { refund, gives_up_after_ms: None };
        plan.steps.push(Step { after_ms: rng.between(0, 90_000), op: lookup });
    }
}

/// A refund at Debitsuccess that arrives late, and stale reads: the record is absent, present, and
/// absent again.
fn absence_is_interrupted(rng: &mut SeededRng, plan: &mut Plan) {
    let Some(target) = plan.targets.iter().position(|target| target.provider() == ProviderKind::Debitsuccess) else {
        return;
    };
    let target = target as u8;
    let create = plan.steps.iter().position(|step| matches!(step.op, Op::Create { target: of, .. } if of == target));
    let Some(place) = create else { return };
    let Op::Create { refund, .. } = plan.steps[place].op else { return };
    plan.wire_faults.retain(|fault| fault.target != target);
    let late = Fault::LateCommit { after_s: rng.between(400, 520) };
    plan.wire_faults.push(WireFault { target, moves_money: true, nth: 0, fault: late });
    for nth in 3..24 {
        if rng.percent(50) {
            let fault = Fault::Stale { by_s: rng.between(300, 599) };
            plan.wire_faults.push(WireFault { target, moves_money: false, nth, fault });
        }
    }
    let lookups: Vec<Step> = (0..rng.between(8, 20))
        .map(|_| Step { after_ms: rng.between(10_000, 150_000), op: Op::Reconcile { refund, gives_up_after_ms: None } })
        .collect();
    plan.steps.splice(place + 1..place + 1, lookups);
}

/// Debitsuccess rejects a refund, and pays it later.
fn rejections_are_corrected(rng: &mut SeededRng, plan: &mut Plan) {
    let ours = |target: &TargetPlan| target.provider() == ProviderKind::Debitsuccess;
    let Some(target) = plan.targets.iter().position(ours) else { return };
    let target = target as u8;
    for op in [Op::Settle { target, yes: false }, Op::AdvanceClock { minutes: 70 }, Op::Correct { target }] {
        plan.steps.push(Step { after_ms: rng.between(1_000, 200_000), op });
    }
    if rng.percent(50) {
        plan.steps.push(Step { after_ms: rng.between(1_000, 200_000), op: Op::AdvanceClock { minutes: 1_500 } });
    }
}

/// name.com answers with rows under a status and beside a message that contradict them.
fn rows_stand_beside_a_message(rng: &mut SeededRng, plan: &mut Plan) {
    let Some(target) = plan.targets.iter().position(|target| target.provider() == ProviderKind::Namecom) else {
        return;
    };
    let fault = Fault::Relabelled { code: rng.weighted(&[(4, 409), (1, 400), (1, 423), (1, 500)]) };
    plan.wire_faults.insert(0, WireFault { target: target as u8, moves_money: true, nth: 0, fault });
}

/// The operator pauses accounts and resumes most of them, at any moment.
fn accounts_are_paused(rng: &mut SeededRng, plan: &mut Plan) {
    for _ in 0..rng.between(1, 3) {
        let provider = plan.targets[rng.index(plan.targets.len())].provider();
        let second = rng.percent(10);
        let place = rng.between(0, plan.steps.len() as u64) as usize;
        plan.steps.insert(place, Step { after_ms: rng.between(0, 500), op: Op::Pause { provider, second } });
        if rng.percent(80) {
            let later = rng.between(place as u64 + 1, plan.steps.len() as u64) as usize;
            let op = Op::Resume { provider, second };
            plan.steps.insert(later, Step { after_ms: rng.between(0, 60_000), op });
        }
    }
}

fn first_refund(plan: &Plan) -> Option<(u8, u8)> {
    plan.steps.iter().find_map(|step| match step.op {
        Op::Create { refund, target, .. } => Some((refund, target)),
        _ => None,
    })
}

fn wire_fault(rng: &mut SeededRng, targets: &[TargetPlan], liar: bool) -> WireFault {
    let target = rng.index(targets.len()) as u8;
    let provider = targets[usize::from(target)].provider();
    let moves_money = rng.percent(75);
    let nth = rng.weighted(&[(60, 0), (25, 1), (15, 2)]);
    let done = rng.percent(50);
    let timeout = rng.percent(50);
    let max_delay_s = crate::run::settle_time(provider).as_secs();
    if liar && moves_money && rng.percent(60) {
        let lie = rng.weighted(&[(1, Lie::Yes), (1, Lie::Replay), (1, Lie::Taken), (1, Lie::Already)]);
        return WireFault { target, moves_money, nth, fault: Fault::Lie { lie } };
    }
    let fault = match rng.between(0, 99) {
        0..=11 => Fault::NotSent,
        12..=21 => Fault::LostBefore { timeout },
        22..=38 => Fault::LostAfter { timeout },
        39..=48 => Fault::LateCommit { after_s: rng.between(1, max_delay_s - 60) },
        49..=53 => Fault::Slow { ms: rng.weighted(&[(50, 5_000), (25, 55_000), (25, 70_000)]) },
        54..=62 => Fault::Status { code: rng.weighted(&[(1, 500), (1, 502), (1, 503), (1, 504)]), done },
        63..=66 => Fault::Garbage { done },
        67..=70 => Fault::WebPage { done },
        71..=75 => Fault::Truncated { percent: rng.between(0, 99) as u8 },
        76..=78 => Fault::Oversized { done },
        79..=82 => Fault::Redirect { done },
        83..=86 => Fault::WrongIdentifiers,
        87..=91 if !moves_money => Fault::Stale { by_s: rng.between(1, max_delay_s) },
        _ => Fault::Crash {
            at: rng.weighted(&[
                (1, CrashAt::BeforeItLeaves),
                (1, CrashAt::OnItsWay),
                (1, CrashAt::BeforeTheAnswerIsRead),
            ]),
        },
    };
    WireFault { target, moves_money, nth, fault }
}
