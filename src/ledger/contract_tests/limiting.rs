//! Limits are judged in the transaction that records the refund.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::authority::{AccountLimits, Authority, CallerLimits};
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::limits::Limit;
use crate::domain::money::Currency;
use crate::ledger::{CreateOutcome, LedgerError, NewRefund, Recorded};

const HOUR: Duration = Duration::from_secs(3_600);

fn after(hours: u32) -> Timestamp {
    NOW.saturating_add(HOUR * hours)
}

/// At most so many refunds of a caller a day.
fn count_of(caller: &str, count: u64) -> Authority {
    ruled(caller, CallerLimits { daily_count: Some(count), ..CallerLimits::default() }, |_| {})
}

fn order(number: usize, by: Authority, now: Timestamp) -> NewRefund {
    NewRefund { by, now, ..create(sectigo(&format!("r{number}"), &number.to_string())) }
}

fn full<T>(result: &Result<T, LedgerError>) -> Option<Limit> {
    match result {
        Err(LedgerError::QuotaExceeded { limit, .. }) => Some(*limit),
        _ => None,
    }
}

#[rstest]
#[tokio::test]
async fn of_racing_refunds_as_many_are_recorded_as_the_limit_allows(
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let creations = (0..64).map(|number| bench.ledger.create(order(number, count_of("shop", 10), NOW)));
    let answers = futures_util::future::join_all(creations).await;
    let is_new = |answer: &&Result<_, _>| matches!(answer, Ok(Recorded { outcome: CreateOutcome::New(_), .. }));
    assert_eq!(answers.iter().filter(is_new).count(), 10);
    assert_eq!(answers.iter().filter(|answer| full(answer) == Some(Limit::DailyCount)).count(), 54);
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 10);
    // A replay is neither counted nor refused, at any limit.
    for limit in [10, 1, 0] {
        let replay = bench.create(order(0, count_of("shop", limit), NOW)).await;
        assert!(matches!(replay, Ok(CreateOutcome::Known(_))), "{replay:?}");
    }
    assert_eq!(bench.count("SELECT refunds FROM spending"), 10);
    // The limit holds after a restart, and each caller has its own.
    let bench = bench.reopened();
    assert_eq!(full(&bench.create(order(64, count_of("shop", 10), after(1))).await), Some(Limit::DailyCount));
    let expected = LedgerError::QuotaExceeded {
        limit: Limit::DailyCount,
        subject: "caller:shop".to_owned(),
        retry_after: HOUR * 24,
    };
    assert_eq!(bench.ledger.dry_run(order(64, count_of("shop", 10), after(1))).await, Err(expected));
    assert!(bench.create(order(65, count_of("desk", 10), after(1))).await.is_ok());
    assert!(bench.create(order(66, count_of("shop", 10), after(25))).await.is_ok(), "a day and the hour later");
}

/// What never left is given back, once; everything else stays counted.
#[rstest]
#[case::cancelled(vec![Event::Cancelled], true)]
#[case::expired(vec![Event::Expired], true)]
#[case::refused(vec![Event::Dispatched { credential: None }, refused()], false)]
#[case::in_doubt(vec![Event::Dispatched { credential: None }, doubted()], false)]
#[case::not_refunded(vec![Event::Dispatched { credential: None }, doubted()], false)]
#[tokio::test]
async fn what_never_left_is_given_back(
    #[case] events: Vec<Event>,
    #[case] is_given_back: bool,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund_by(order(0, count_of("shop", 1), NOW)).await;
    assert_eq!(full(&bench.create(order(1, count_of("shop", 1), NOW)).await), Some(Limit::DailyCount));
    bench.record(&refund, &events).await.unwrap();
    let answer = bench.create(order(1, count_of("shop", 1), NOW)).await;
    assert_eq!(answer.is_ok(), is_given_back, "{answer:?}");
    assert!(bench.create(order(2, count_of("shop", 1), NOW)).await.is_err());
}

/// A refund that waits for approval counts, from its creation on.
#[rstest]
#[tokio::test]
async fn what_waits_for_approval_counts(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let mut by = count_of("shop", 1);
    let approvals = approved_by(1).rules.approvals.clone();
    std::sync::Arc::make_mut(&mut by.rules).approvals = approvals;
    let waiting = bench.new_refund_by(order(0, by.clone(), NOW)).await;
    assert_eq!(full(&bench.create(order(1, by.clone(), NOW)).await), Some(Limit::DailyCount));
    bench.record(&waiting, &[Event::Expired]).await.unwrap();
    assert!(bench.create(order(1, by, NOW)).await.is_ok());
}

/// A limit that is new counts what was recorded before it, and one that was lifted for a while what
/// was recorded meanwhile.
#[rstest]
#[tokio::test]
async fn a_new_limit_counts_the_day_before_it(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let free = || ruled("shop", CallerLimits::default(), |_| {});
    for number in 0..3 {
        bench.new_refund_by(order(number, free(), after(20 * u32::try_from(number).unwrap()))).await;
    }
    assert_eq!(bench.count("SELECT count(*) FROM spending"), 0, "without a limit nothing is written");
    // The first is more than a day old at 40 hours.
    assert_eq!(full(&bench.create(order(3, count_of("shop", 2), after(40))).await), Some(Limit::DailyCount));
    bench.new_refund_by(order(3, count_of("shop", 3), after(40))).await;
    assert_eq!(full(&bench.create(order(4, count_of("shop", 3), after(41))).await), Some(Limit::DailyCount));
    bench.new_refund_by(order(4, free(), after(41))).await;
    assert_eq!(bench.count("SELECT count(*) FROM spending"), 0, "the limit was lifted");
    assert_eq!(full(&bench.create(order(5, count_of("shop", 4), after(42))).await), Some(Limit::DailyCount));
    bench.new_refund_by(order(5, count_of("shop", 5), after(42))).await;
}

/// Whatever the clock does, what was recorded counts.
#[rstest]
#[tokio::test]
async fn a_clock_that_is_set_back_frees_nothing(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.new_refund_by(order(0, count_of("shop", 2), after(10))).await;
    bench.new_refund_by(order(1, count_of("shop", 2), after(50))).await;
    let back = NOW.saturating_sub(HOUR * 5);
    assert_eq!(full(&bench.create(order(2, count_of("shop", 2), back)).await), Some(Limit::DailyCount));
    assert_eq!(full(&bench.create(order(2, count_of("shop", 2), after(20))).await), Some(Limit::DailyCount));
    bench.new_refund_by(order(2, count_of("shop", 3), back)).await;
    assert_eq!(full(&bench.create(order(3, count_of("shop", 3), after(10))).await), Some(Limit::DailyCount));
    assert!(bench.create(order(3, count_of("shop", 3), after(74))).await.is_ok());
}

#[rstest]
#[tokio::test]
async fn amounts_count_in_their_currency(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let aud = Currency::parse("AUD").unwrap();
    let limits =
        CallerLimits { refund_max: [(aud, 700)].into(), daily_max: [(aud, 1_000)].into(), ..CallerLimits::default() };
    let request = |id: &str, account: &str, minor_units: i64| {
        let by = ruled("shop", limits.clone(), |_| {});
        let place = crate::domain::place::Place { currency: aud, ..place("demo") };
        NewRefund { by, place, ..create(debitsuccess(id, account, minor_units)) }
    };
    let exceeded = Err(LedgerError::LimitExceeded { limit: Limit::RefundMax });
    assert_eq!(bench.create(request("a", "DS1", 701)).await, exceeded);
    bench.new_refund_by(request("a", "DS1", 700)).await;
    assert_eq!(full(&bench.create(request("b", "DS2", 301)).await), Some(Limit::DailyMax));
    bench.new_refund_by(request("b", "DS2", 300)).await;
    assert_eq!(full(&bench.create(request("c", "DS3", 1)).await), Some(Limit::DailyMax));
    // Of an order, nothing says how much it is; the currency has no entry either.
    let order = order(9, ruled("shop", limits.clone(), |_| {}), NOW);
    assert_eq!(bench.create(order).await, Err(LedgerError::LimitExceeded { limit: Limit::RefundMax }));
}

/// All callers together, and what the account assumes for an order that names no amount.
#[rstest]
#[tokio::test]
async fn an_account_counts_all_callers_together(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let by = |caller: &str, assumed_amount: Option<i64>| {
        ruled(caller, CallerLimits::default(), |rules| {
            let limits = AccountLimits { daily_max: usd(100), daily_count: Some(9), assumed_amount };
            rules.accounts.insert(at("certs").account, limits);
        })
    };
    let refund = bench.new_refund_by(order(0, by("shop", Some(60)), NOW)).await;
    assert_eq!(refund.assumed_amount.map(|amount| amount.minor_units), Some(60));
    let expected = |limit| Err(LedgerError::LimitExceeded { limit });
    assert_eq!(full(&bench.create(order(1, by("desk", Some(60)), NOW)).await), Some(Limit::AccountDailyMax));
    assert_eq!(bench.create(order(1, by("desk", None), NOW)).await, expected(Limit::AccountDailyMax));
    assert_eq!(bench.create(order(1, by("desk", Some(101)), NOW)).await, expected(Limit::AccountDailyMax));
    // What was assumed for the first one does not change with the file.
    bench.new_refund_by(order(1, by("desk", Some(40)), NOW)).await;
    let other = NewRefund { by: by("desk", Some(60)), ..create(namecom("other", &[1])) };
    assert!(bench.create(other).await.is_ok(), "another account");
}
