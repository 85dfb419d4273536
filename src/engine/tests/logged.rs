//! The log lines about suspended accounts, a ledger that fails and moved refunds, and their traces.

use std::sync::atomic::Ordering;

use rstest::rstest;

use super::*;
use crate::domain::authority::Authority;
use crate::engine::circuit_breaker::Permission;

const SUSPENDED: &str = "provider not responding: account suspended, its refunds stay PENDING";
const REFUSED: &str = "the provider refuses the account's credentials: its refunds stay PENDING";
const READ_ONLY: &str = "the provider answers the account's lookups and refuses its refunds: they stay PENDING";
const RECOVERED: &str = "the provider answers the account again";

fn order(id: &str, number: u32) -> Intent {
    intent(id, Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap()))
}

async fn logs(log: &Log, text: &str) {
    let waits = async {
        while log.lines_with(text).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.unwrap_or_else(|_| panic!("never: {text}"));
}

#[rstest]
#[case::suspended(vec![AccountSignal::Failure; 5], SUSPENDED)]
#[case::refused(vec![AccountSignal::CredentialsRefused], REFUSED)]
#[tokio::test]
async fn an_account_that_is_suspended_and_recovers_is_logged_once_each(
    #[case] signals: Vec<AccountSignal>,
    #[case] suspended: &str,
) {
    let log = Log::begin();
    let engine = Bench::new().engine().await;
    let account = only_account(&engine);
    account.has_recovered.store(false, Ordering::Release);
    let last = signals.len();
    for (count, signal) in (1..).zip(signals) {
        assert_eq!(record_signal(&account, signal), count == last, "the last one suspends it");
    }
    assert!(!record_signal(&account, AccountSignal::Failure), "it is suspended already");
    assert_eq!(engine.breaker_states()[0].1, "open");
    account.record_lookup(AccountSignal::Healthy, true);
    assert_eq!(engine.breaker_states()[0].1, "half_open");
    record_signal(&account, AccountSignal::Healthy);
    assert_eq!((account.permission(), engine.breaker_states()[0].1), (Permission::All, "closed"));
    for (line, level, count) in [
        (SUSPENDED, "ERROR", usize::from(suspended == SUSPENDED)),
        (REFUSED, "ERROR", usize::from(suspended == REFUSED)),
        (READ_ONLY, "ERROR", 0),
        (RECOVERED, "INFO", 1),
    ] {
        let lines = log.lines_with(line);
        assert_eq!(lines.len(), count, "{line}: {lines:?}");
        assert!(lines.iter().all(|line| line.contains(level) && line.contains("account=main")), "{lines:?}");
    }
}

/// The first refusal after an outage is the answer to the trial: lookups are answered.
#[tokio::test]
async fn a_read_only_account_is_logged_as_such() {
    let log = Log::begin();
    let account = only_account(&Bench::new().engine().await);
    for _ in 0..5 {
        record_signal(&account, AccountSignal::Failure);
    }
    account.record_lookup(AccountSignal::Healthy, true);
    record_signal(&account, AccountSignal::CredentialsRefused);
    assert_eq!([SUSPENDED, READ_ONLY, REFUSED].map(|line| log.lines_with(line).len()), [1, 1, 0]);
}

#[tokio::test]
async fn a_query_of_due_refunds_that_fails_is_logged_and_repeated() {
    let log = Log::begin();
    let bench = Bench::new();
    *bench.ledger.failing_dispatch_queries.lock().unwrap() = 1;
    let refund = bench.refund(sectigo("r"), &[]).await;
    let engine = bench.engine().await;
    logs(&log, "could not read from the ledger what is due; retrying").await;
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Succeeded);
}

/// A refund may wait for days, so it is looked up in a separate trace that names its caller's.
#[rstest]
#[case::in_doubt(true)]
#[case::as_a_probe(false)]
#[tokio::test]
async fn a_later_lookup_is_logged_with_the_callers_trace(#[case] is_in_doubt: bool) {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let log = Log::begin();
    let bench = Bench::new();
    let events = if is_in_doubt { doubted().to_vec() } else { backed_off().to_vec() };
    let trace_parent = Some(format!("00-{TRACE}-b7ad6b7169203331-01"));
    bench.traced_refund(sectigo("r"), &events, trace_parent).await;
    let answer = bench.next_lookup();
    bench.clock.advance(Duration::from_secs(10));
    let engine = bench.engine().await;
    if !is_in_doubt {
        let account = only_account(&engine);
        record_signal(&account, AccountSignal::CredentialsRefused);
        account.credentials_changed();
    }
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::not_found("Processed")).unwrap();
    let line = if is_in_doubt { "looked the refund up at its provider" } else { "probed suspended account" };
    logs(&log, line).await;
    let lines = log.lines_with(line);
    assert!(lines[0].contains(&format!("trace_id={TRACE}")), "{lines:?}");
    assert_eq!(lines[0].contains("answered=true"), !is_in_doubt, "{lines:?}");
}

/// One line gives the number of moved refunds. The first hundred that could not move are named.
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
        bench.refund(order(&format!("r{number}"), number + 1), &backed_off()).await;
    }
    // Their orders are other refunds', under the new login.
    for number in free..free + blocked {
        let create = NewRefund {
            intent: order(&format!("taken{number}"), number + 1),
            place: new.clone(),
            related: RelatedLogins::default(),
            dispatch: None,
            allow_similar: false,
            by: Authority::unrestricted(),
            now: NOW,
            ticket: Ticket::default(),
            trace_parent: None,
        };
        bench.ledger.inner.create(create).await.unwrap();
    }
    bench
        .engine_with(ProviderKind::Sectigo, Currency::USD, |account| {
            account.place = new;
            account.former = vec![place()];
        })
        .await;
    let lines = log.lines_with("moved refunds from a former place to the account's present one");
    assert_eq!(lines.len(), usize::from(free + blocked > 0), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains(&format!("moved={free} left={blocked}"))), "{lines:?}");
    let named = log.lines_with("another refund conflicts, and it waits");
    assert_eq!(named.len(), usize::try_from(blocked.min(100)).unwrap());
    assert!(named.iter().all(|line| line.contains("WARN") && line.contains("refund=r")), "{named:?}");
    let waiting = log.lines_with("refunds of an account that is gone or has changed are neither sent nor looked up");
    assert_eq!(waiting.len(), usize::from(blocked > 0), "{waiting:?}");
}
