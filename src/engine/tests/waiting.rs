//! What a refund waits for, as callers are shown it.

use rstest::rstest;

use super::*;
use crate::domain::event::{Observation, RecordSeen};
use crate::engine::circuit::Sign;

/// Put off until this many seconds from now.
fn put_off_for(seconds: u64) -> Vec<Event> {
    let [dispatched, not_sent] = put_off();
    let Event::NotSent { error, .. } = not_sent else { panic!("{not_sent:?}") };
    vec![dispatched, Event::NotSent { error, retry_at: NOW.plus(Duration::from_secs(seconds)) }]
}

fn looked_up(record: RecordSeen) -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    vec![dispatched, doubted, Event::Checked(Observation::new("looked", record))]
}

fn in_review() -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    let unheard = Event::Checked(Observation::new("looked", RecordSeen::Unanswered));
    vec![dispatched, doubted, unheard, Event::Escalated { evidence: "not known".to_owned(), foreign_record: false }]
}

fn refunded() -> Vec<Event> {
    vec![Event::Dispatched { credential: None }, Event::Refunded(Confirmation::default())]
}

const TURN: Option<WaitingFor> = Some(WaitingFor::Turn);
const BACKOFF: Option<WaitingFor> = Some(WaitingFor::Backoff);
const PROVIDER: Option<WaitingFor> = Some(WaitingFor::Provider);
const CREDENTIALS: Option<WaitingFor> = Some(WaitingFor::Credentials);

/// While the account serves, while it is suspended, and while its credentials are refused.
#[rstest]
#[case::recorded(vec![], [TURN, PROVIDER, CREDENTIALS])]
#[case::put_off(put_off_for(1), [BACKOFF, PROVIDER, CREDENTIALS])]
#[case::put_off_until_now(put_off_for(0), [TURN, PROVIDER, CREDENTIALS])]
#[case::in_doubt(doubted().to_vec(), [None, None, None])]
#[case::not_on_record(looked_up(RecordSeen::Absent), [None, None, None])]
#[case::without_a_usable_lookup(looked_up(RecordSeen::Unanswered), [None, PROVIDER, CREDENTIALS])]
#[case::in_review(in_review(), [None, None, None])]
#[case::done(refunded(), [None, None, None])]
#[tokio::test]
async fn a_refund_waits_for_what_stands_in_its_way(
    #[case] events: Vec<Event>,
    #[case] expected: [Option<WaitingFor>; 3],
) {
    let engine = Bench::new().engine().await;
    let lane = engine.0.lanes.values().next().unwrap().clone();
    let refund = Refund::new(sectigo("r"), place(), NOW);
    let refund = events.iter().fold(refund, |refund, event| refund.apply(event, NOW).unwrap());
    assert_eq!(engine.waiting_for(&refund), expected[0], "the account serves");
    for _ in 0..5 {
        lane.note(lane.era(), Sign::Fails);
    }
    assert_eq!(engine.waiting_for(&refund), expected[1], "the account is suspended");
    lane.note_look(&Sign::Works, true);
    lane.note(lane.era(), Sign::CredentialsRefused);
    assert_eq!(engine.waiting_for(&refund), expected[2], "its credentials are refused");
}

#[tokio::test]
async fn only_refunds_whose_account_is_elsewhere_count_as_waiting_for_it() {
    let bench = Bench::new();
    bench.refund(sectigo("r"), &put_off()).await;
    assert_eq!(bench.engine().await.waiting_for_account().await.unwrap(), BTreeMap::new());
    let elsewhere = |account: &mut Account| account.place.login = "new".to_owned();
    let engine = bench.engine_with(Provider::Sectigo, Currency::USD, elsewhere).await;
    assert_eq!(engine.waiting_for_account().await.unwrap().into_values().collect::<Vec<_>>(), [1]);
}
