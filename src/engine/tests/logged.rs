//! What an operator reads in the log: a suspended account, a ledger that does not answer, refunds
//! that moved, and in which trace.

use rstest::rstest;

use super::*;
use crate::engine::circuit::{Sign, Stance};

const SUSPENDED: &str = "nothing usable is heard of the provider: the account's refunds wait as PENDING";
const REFUSED: &str = "the provider refuses the account's credentials: its refunds wait as PENDING";
const READ_ONLY: &str = "the provider answers the account's lookups and refuses its refunds: they wait as PENDING";
const RECOVERED: &str = "the provider answers the account again";

fn lane_of(engine: &Engine) -> Arc<Lane> {
    engine.0.lanes.values().next().unwrap().clone()
}

fn order(id: &str, number: u32) -> Intent {
    intent(id, Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap()))
}

async fn logs(log: &Log, text: &str) {
    let waits = async {
        while log.with(text).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.unwrap_or_else(|_| panic!("never: {text}"));
}

#[rstest]
#[case::suspended(vec![Sign::Fails; 5], SUSPENDED, "suspended")]
#[case::refused(vec![Sign::CredentialsRefused], REFUSED, "refused")]
#[tokio::test]
async fn an_account_that_is_suspended_and_recovers_is_logged_once_each(
    #[case] signs: Vec<Sign>,
    #[case] suspended: &str,
    #[case] name: &str,
) {
    let log = Log::begin();
    let engine = Bench::new().engine().await;
    let lane = lane_of(&engine);
    lane.has_recovered.store(false, Ordering::Release);
    let last = signs.len();
    for (count, sign) in (1..).zip(signs) {
        assert_eq!(lane.note(lane.era(), sign), count == last, "the last one suspends it");
    }
    assert!(!lane.note(lane.era(), Sign::Fails), "it is suspended already: {name}");
    assert_eq!(engine.circuits()[0].1, "open");
    lane.note_look(&Sign::Works, true);
    assert_eq!(engine.circuits()[0].1, "half_open");
    lane.note(lane.era(), Sign::Works);
    assert_eq!((lane.stance(), engine.circuits()[0].1), (Stance::Free, "closed"));
    for (line, level, count) in [
        (SUSPENDED, "ERROR", usize::from(suspended == SUSPENDED)),
        (REFUSED, "ERROR", usize::from(suspended == REFUSED)),
        (READ_ONLY, "ERROR", 0),
        (RECOVERED, "INFO", 1),
    ] {
        let lines = log.with(line);
        assert_eq!(lines.len(), count, "{line}: {lines:?}");
        assert!(lines.iter().all(|line| line.contains(level) && line.contains("account=main")), "{lines:?}");
    }
}

/// The first refusal after an outage comes as the answer to the trial: lookups are answered.
#[tokio::test]
async fn an_account_that_may_only_read_is_logged_as_that() {
    let log = Log::begin();
    let lane = lane_of(&Bench::new().engine().await);
    for _ in 0..5 {
        lane.note(lane.era(), Sign::Fails);
    }
    lane.note_look(&Sign::Works, true);
    lane.note(lane.era(), Sign::CredentialsRefused);
    assert_eq!([SUSPENDED, READ_ONLY, REFUSED].map(|line| log.with(line).len()), [1, 1, 0]);
}

#[tokio::test]
async fn a_ledger_that_does_not_say_what_is_due_is_asked_again_and_logged() {
    let log = Log::begin();
    let bench = Bench::new();
    *bench.ledger.mute.lock().unwrap() = 1;
    let refund = bench.refund(sectigo("r"), &[]).await;
    let engine = bench.engine().await;
    logs(&log, "the ledger could not be asked for what is due").await;
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Succeeded);
}

/// A refund that waits for days is looked up in a trace of its own, with the id of its caller's.
#[rstest]
#[case::in_doubt(true)]
#[case::while_the_account_is_tried(false)]
#[tokio::test]
async fn what_is_done_about_a_refund_later_is_logged_with_its_callers_trace(#[case] is_in_doubt: bool) {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let log = Log::begin();
    let bench = Bench::new();
    let events = if is_in_doubt { doubted().to_vec() } else { put_off().to_vec() };
    let trace_parent = Some(format!("00-{TRACE}-b7ad6b7169203331-01"));
    bench.traced_refund(sectigo("r"), &events, trace_parent).await;
    let answer = bench.next_look();
    bench.clock.advance(Duration::from_secs(10));
    let engine = bench.engine().await;
    if !is_in_doubt {
        let lane = lane_of(&engine);
        lane.note(lane.era(), Sign::CredentialsRefused);
        lane.credentials_changed();
    }
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::not_found("Processed")).unwrap();
    let line = if is_in_doubt { "looked the refund up at its provider" } else { "tried an account that is shut" };
    logs(&log, line).await;
    let lines = log.with(line);
    assert!(lines[0].contains(&format!("trace_id={TRACE}")), "{lines:?}");
    assert_eq!(lines[0].contains("answered=true"), !is_in_doubt, "{lines:?}");
}

/// One line says how many refunds moved. The first hundred that could not move are named.
#[rstest]
#[case::none(0, 0)]
#[case::one(1, 0)]
#[case::all_but_one(2, 1)]
#[case::more_than_are_named(0, 102)]
#[tokio::test]
async fn a_start_logs_what_it_moved_and_what_it_could_not_move(#[case] free: u32, #[case] blocked: u32) {
    let log = Log::begin();
    let bench = Bench::new();
    let new = Place { login: "new".to_owned(), ..place() };
    for number in 0..free + blocked {
        bench.refund(order(&format!("r{number}"), number + 1), &put_off()).await;
    }
    // Their orders are other refunds', under the new login.
    for number in free..free + blocked {
        let create = Create {
            intent: order(&format!("taken{number}"), number + 1),
            place: new.clone(),
            related: RelatedLogins::default(),
            dispatch: None,
            allow_similar: false,
            actor: "caller".to_owned(),
            now: NOW,
            claim: Claim::default(),
            trace_parent: None,
        };
        bench.ledger.inner.create(create).await.unwrap();
    }
    bench
        .engine_with(Provider::Sectigo, Currency::USD, |account| {
            account.place = new;
            account.former = vec![place()];
        })
        .await;
    let lines = log.with("refunds of a former place go on at the account's present one");
    assert_eq!(lines.len(), usize::from(free + blocked > 0), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains(&format!("moved={free} left={blocked}"))), "{lines:?}");
    let named = log.with("another one stands in its way");
    assert_eq!(named.len(), usize::try_from(blocked.min(100)).unwrap());
    assert!(named.iter().all(|line| line.contains("WARN") && line.contains("refund=r")), "{named:?}");
    let waiting = log.with("refunds wait for the account that they were recorded for");
    assert_eq!(waiting.len(), usize::from(blocked > 0), "{waiting:?}");
}
