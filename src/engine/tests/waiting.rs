//! What a refund waits for, as callers see it.

use rstest::rstest;

use super::*;
use crate::domain::event::{Observation, RecordSeen};

/// Backed off until this many seconds from now.
fn backed_off_for(seconds: u64) -> Vec<Event> {
    let [dispatched, not_sent] = backed_off();
    let Event::NotSent { error, .. } = not_sent else { panic!("{not_sent:?}") };
    vec![dispatched, Event::NotSent { error, retry_at: NOW.saturating_add(Duration::from_secs(seconds)) }]
}

fn after_lookup(record: RecordSeen) -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    vec![dispatched, doubted, Event::Checked(Observation::new("looked", record))]
}

fn in_review() -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    let unheard = Event::Checked(Observation::new("looked", RecordSeen::Unanswered));
    vec![
        dispatched,
        doubted,
        unheard,
        Event::Escalated { evidence: "outcome unknown".to_owned(), foreign_record: false },
    ]
}

fn refunded() -> Vec<Event> {
    vec![Event::Dispatched { credential: None }, Event::Refunded(Confirmation::default())]
}

const TURN: Option<WaitingFor> = Some(WaitingFor::Turn);
const BACKOFF: Option<WaitingFor> = Some(WaitingFor::Backoff);
const PROVIDER: Option<WaitingFor> = Some(WaitingFor::Provider);
const CREDENTIALS: Option<WaitingFor> = Some(WaitingFor::Credentials);

/// Expected while the account serves, is suspended, and has its credentials refused.
#[rstest]
#[case::recorded(vec![], [TURN, PROVIDER, CREDENTIALS])]
#[case::backed_off(backed_off_for(1), [BACKOFF, PROVIDER, CREDENTIALS])]
#[case::backed_off_until_now(backed_off_for(0), [TURN, PROVIDER, CREDENTIALS])]
#[case::in_doubt(doubted().to_vec(), [None, None, None])]
#[case::not_on_record(after_lookup(RecordSeen::Absent), [None, None, None])]
#[case::without_a_usable_lookup(after_lookup(RecordSeen::Unanswered), [None, PROVIDER, CREDENTIALS])]
#[case::in_review(in_review(), [None, None, None])]
#[case::done(refunded(), [None, None, None])]
#[tokio::test]
async fn a_refund_shows_what_it_waits_for(#[case] events: Vec<Event>, #[case] expected: [Option<WaitingFor>; 3]) {
    let engine = Bench::new().engine().await;
    let account = only_account(&engine);
    let refund = Refund::new(sectigo("r"), place(), NOW);
    let refund = events.iter().fold(refund, |refund, event| refund.apply(event, NOW).unwrap());
    assert_eq!(engine.waiting_for(&refund), expected[0], "the account serves");
    for _ in 0..5 {
        record_signal(&account, AccountSignal::Failure);
    }
    assert_eq!(engine.waiting_for(&refund), expected[1], "the account is suspended");
    account.record_lookup(AccountSignal::Healthy, true);
    record_signal(&account, AccountSignal::CredentialsRefused);
    assert_eq!(engine.waiting_for(&refund), expected[2], "its credentials are refused");
}

#[tokio::test]
async fn only_refunds_whose_account_has_moved_count_as_waiting_for_it() {
    let bench = Bench::new();
    bench.refund(sectigo("r"), &backed_off()).await;
    assert_eq!(bench.engine().await.waiting_for_account().await.unwrap(), BTreeMap::new());
    let elsewhere = |account: &mut Account| account.place.login = "new".to_owned();
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, elsewhere).await;
    assert_eq!(engine.waiting_for_account().await.unwrap().into_values().collect::<Vec<_>>(), [1]);
}
