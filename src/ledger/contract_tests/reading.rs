//! Pages do not shift, filters agree with a plain search, and due refunds are found in their order.

use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::authority::Authority;
use crate::domain::event::{Decided, Event, Observation, RecordSeen, Resolution};
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::outcome::Acceptance;
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, Target};
use crate::ledger::{DueKind, DueQuery, ListQuery, ListedRefund, NewRefund, RecordEvents};

#[rstest]
#[tokio::test]
async fn pages_are_stable_while_refunds_are_recorded(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for number in 0..25 {
        bench.new_refund(sectigo(&format!("r{number}"), &format!("{number}"))).await;
    }
    let mut seen = Vec::new();
    let mut before_ordinal = None;
    loop {
        let page = bench.ledger.list(ListQuery { before_ordinal, limit: 4, ..ListQuery::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        before_ordinal = Some(last.ordinal);
        seen.extend(page.iter().map(|listed| listed.refund.id().as_str().to_owned()));
        let id = format!("late-{}", seen.len());
        bench.new_refund(sectigo(&id, &id)).await;
    }
    assert_eq!(seen, (0..25).rev().map(|number| format!("r{number}")).collect::<Vec<_>>());
}

#[derive(Debug, Clone)]
struct Filter {
    states: Vec<State>,
    account: Option<usize>,
    visible: Option<Vec<usize>>,
    created_by: Option<usize>,
    reference: Option<usize>,
    from: Option<u64>,
    before: Option<u64>,
    before_ordinal: Option<u64>,
    limit: u32,
}

const ACCOUNTS: [&str; 3] = ["certs", "debits", "unknown"];
const CALLERS: [&str; 3] = ["shop", "desk", "unknown"];
const REFERENCES: [&str; 3] = ["o3", "DS1", "ext-1"];

fn filter() -> impl Strategy<Value = Filter> {
    let states = proptest::collection::vec(proptest::sample::select(State::ALL.to_vec()), 0..4);
    let some = |range: std::ops::Range<u64>| proptest::option::of(range);
    let choice = || proptest::option::weighted(0.3, 0_usize..3);
    let visible = proptest::option::of(proptest::collection::vec(0_usize..3, 0..3));
    let who = (choice(), visible, choice());
    (states, who, choice(), some(0..40), some(0..40), some(0..40), 0_u32..40).prop_map(
        |(states, (account, visible, created_by), reference, from, before, before_ordinal, limit)| Filter {
            states,
            account,
            visible,
            created_by,
            reference,
            from,
            before,
            before_ordinal,
            limit,
        },
    )
}

#[rstest]
fn every_filter_agrees_with_a_plain_search(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let bench = LedgerBench::new(backend);
    let at = |second: u64| NOW.saturating_add(Duration::from_secs(second));
    let all = runtime.block_on(async {
        for number in 0..36_u64 {
            let state = State::ALL[usize::try_from(number).unwrap() % State::ALL.len()];
            let intent = match number % 4 {
                0 => debitsuccess(&format!("r{number}"), "DS1", 100 + i64::try_from(number).unwrap()),
                1 => {
                    let fields = DebitsuccessFields {
                        account_reference_no: "DS1",
                        external_account_reference_no: "ext-1",
                        amount: Some(("AUD", 100 + i64::try_from(number).unwrap())),
                        description: "Both references",
                        request_initiator: "agent",
                    };
                    let target = Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap());
                    intent(&format!("r{number}"), "debits", target)
                }
                _ => sectigo(&format!("r{number}"), &format!("o{number}")),
            };
            // A clock that is set back now and then.
            let actor = called_by([None, Some("shop"), Some("desk")][usize::try_from(number % 3).unwrap()]);
            let by = Authority { actor, ..create_for(state, intent.clone()).by };
            let refund = bench.new_refund_by(NewRefund { by, now: at(number * 7 % 36), ..create(intent) }).await;
            let refund = bench.record(&refund, &events_to(state)).await.unwrap();
            if number % 5 == 0 && matches!(state, State::Submitted | State::InDoubt | State::NeedsReview) {
                let to = ACCOUNTS.into_iter().find(|account| *account != refund.account.as_str()).unwrap();
                bench.ledger.reassign(reassign_to(&refund, to)).await.unwrap();
            }
        }
        bench.ledger.list(ListQuery { limit: 1_000, ..ListQuery::default() }).await.unwrap()
    });
    assert_eq!(all.len(), 36);
    let cases = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(cases)
        .run(&filter(), |filter| {
            let account = filter.account.map(|index| AccountName::parse(ACCOUNTS[index]).unwrap());
            let named = |index: &usize| AccountName::parse(ACCOUNTS[*index]).unwrap();
            let visible = filter.visible.map(|indexes| indexes.iter().map(named).collect::<Vec<_>>());
            let query = ListQuery {
                created_by: filter.created_by.map(|index| CALLERS[index].to_owned()),
                visible_accounts: visible.clone(),
                states: filter.states.clone(),
                account: account.clone(),
                target_reference: filter.reference.map(|index| REFERENCES[index].to_owned()),
                created_from: filter.from.map(at),
                created_before: filter.before.map(at),
                before_ordinal: filter.before_ordinal,
                limit: filter.limit,
            };
            let wanted = |listed: &&ListedRefund| {
                let Refund { intent, account: present, created_by, state, create_time, .. } = &listed.refund;
                (filter.states.is_empty() || filter.states.contains(state))
                    && account.as_ref().is_none_or(|account| account == present)
                    && query.created_by.as_ref().is_none_or(|caller| Some(caller) == created_by.as_ref())
                    && visible.as_ref().is_none_or(|seen| seen.contains(present) || seen.contains(&intent.account))
                    && query.target_reference.as_ref().is_none_or(|text| intent.target.references().contains(text))
                    && query.created_from.is_none_or(|from| *create_time >= from)
                    && query.created_before.is_none_or(|before| *create_time < before)
                    && query.before_ordinal.is_none_or(|before| listed.ordinal < before)
            };
            let limit = usize::try_from(filter.limit).unwrap();
            let expected: Vec<ListedRefund> = all.iter().filter(wanted).take(limit).cloned().collect();
            prop_assert_eq!(runtime.block_on(bench.ledger.list(query)).unwrap(), expected);
            Ok(())
        })
        .unwrap();
}

#[rstest]
#[tokio::test]
async fn dispatch_is_due_now_unless_put_off_oldest_first(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let certs = at("certs");
    let at = |second| NOW.saturating_add(Duration::from_secs(second));
    assert_eq!(bench.ledger.next_due(DueKind::Dispatch, &certs).await, Ok(None));
    let put_off = |second| Event::NotSent { error: error(429), retry_at: at(second) };

    let first = bench.new_refund(sectigo("first", "1")).await;
    bench.record(&first, &[Event::Dispatched { credential: None }, put_off(50)]).await.unwrap();
    let second = bench.new_refund(sectigo("second", "2")).await;
    bench.record(&second, &[Event::Dispatched { credential: None }, put_off(20)]).await.unwrap();
    assert_eq!(bench.ledger.next_due(DueKind::Dispatch, &certs).await, Ok(Some(at(20))));
    bench.ledger.create(NewRefund { now: at(5), ..create(sectigo("third", "3")) }).await.unwrap();
    bench.refund_in(State::Succeeded, "4").await;
    bench.new_refund(namecom("elsewhere", &[1])).await;

    assert_eq!(bench.ledger.next_due(DueKind::Dispatch, &certs).await, Ok(Some(at(5))));
    let due = async |second, limit| {
        let destination = certs.clone();
        let query = DueQuery { kind: DueKind::Dispatch, destination, at: at(second), skip: 0, limit };
        let due = bench.ledger.due(query).await.unwrap();
        due.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(due(0, 10).await, ["third"], "recorded, so it may be sent whatever the clock says");
    assert_eq!(due(20, 10).await, ["second", "third"]);
    assert_eq!(due(50, 10).await, ["first", "second", "third"]);
    assert_eq!(due(50, 2).await, ["first", "second"]);
    assert_eq!(due(50, 0).await, Vec::<String>::new());
}

#[rstest]
#[tokio::test]
async fn lookups_without_a_time_come_first(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let certs = at("certs");
    let at = |second| NOW.saturating_add(Duration::from_secs(second));
    assert_eq!(bench.ledger.next_due(DueKind::Lookup, &certs).await, Ok(None));
    let open = async |intent: Intent, state, next_check| {
        let refund = bench.new_refund(intent).await;
        let record = RecordEvents { next_check, ..record(&refund, &events_to(state)) };
        bench.ledger.record(record).await.unwrap();
    };
    open(sectigo("late", "1"), State::InDoubt, Some(at(50))).await;
    open(sectigo("soon", "2"), State::Submitted, Some(at(20))).await;
    assert_eq!(bench.ledger.next_due(DueKind::Lookup, &certs).await, Ok(Some(at(20))));
    open(sectigo("at-once", "3"), State::InDoubt, None).await;
    open(namecom("elsewhere", &[1]), State::InDoubt, Some(at(2))).await;
    for state in [State::Pending, State::Dispatching, State::Succeeded, State::Cancelled] {
        bench.refund_in(state, state.as_str()).await;
    }

    assert_eq!(bench.ledger.next_due(DueKind::Lookup, &certs).await, Ok(Some(at(1))), "due since its last change");
    let due = async |second, limit| {
        let query = DueQuery { kind: DueKind::Lookup, destination: certs.clone(), at: at(second), skip: 0, limit };
        let due = bench.ledger.due(query).await.unwrap();
        due.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(due(0, 10).await, ["at-once"]);
    assert_eq!(due(19, 10).await, ["at-once"]);
    assert_eq!(due(20, 10).await, ["at-once", "soon"]);
    assert_eq!(due(50, 10).await, ["at-once", "soon", "late"]);
    assert_eq!(due(50, 2).await, ["at-once", "soon"]);
}

#[rstest]
#[tokio::test]
async fn pending_refunds_are_found_by_age_even_when_put_off(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let (account, certs) = (at("certs").account, at("certs"));
    let at = |second| NOW.saturating_add(Duration::from_secs(second));
    assert_eq!(bench.ledger.oldest_pending(&account).await, Ok(None));
    bench.refund_in(State::Succeeded, "done").await;
    for (id, second) in [("young", 9), ("old", 3), ("put-off", 5)] {
        bench.ledger.create(NewRefund { now: at(second), ..create(sectigo(id, id)) }).await.unwrap();
    }
    let put_off = bench.ledger.get(&RefundId::parse("put-off").unwrap()).await.unwrap().unwrap();
    let later = Event::NotSent { error: error(429), retry_at: at(500) };
    bench.record(&put_off, &[Event::Dispatched { credential: None }, later]).await.unwrap();
    bench.new_refund(namecom("elsewhere", &[1])).await;

    assert_eq!(bench.ledger.oldest_pending(&account).await, Ok(Some(at(3))));
    let pending = async |until, skip, limit| {
        let query = DueQuery { kind: DueKind::Expiry, destination: certs.clone(), at: at(until), skip, limit };
        let due = bench.ledger.due(query).await.unwrap();
        due.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pending(2, 0, 10).await, Vec::<String>::new());
    assert_eq!(pending(5, 0, 10).await, ["old", "put-off"]);
    assert_eq!(pending(9, 0, 10).await, ["old", "put-off", "young"]);
    assert_eq!(pending(9, 0, 1).await, ["old"]);
    assert_eq!(pending(9, 1, 1).await, ["put-off"]);
    assert_eq!(bench.ledger.next_due(DueKind::Expiry, &certs).await, Ok(Some(at(3))));
}

#[rstest]
#[tokio::test]
async fn the_last_entry_into_a_state_is_from_another_state(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let at = |second| NOW.saturating_add(Duration::from_secs(second));
    let mut refund = bench.new_refund(sectigo("a", "1")).await;
    let checked = || Event::Checked(Observation::new("not finished", RecordSeen::Present));
    let again = Event::Resolved(Decided::new(Resolution::SendAgain, "looked"));
    let accepted = || Event::Accepted(Acceptance::default());
    let events = [
        (1, Event::Dispatched { credential: None }, None),
        (2, accepted(), Some(2)),
        (3, checked(), Some(2)),
        (4, Event::Escalated { evidence: "gone".to_owned(), foreign_record: false }, Some(2)),
        (5, again, Some(2)),
        (6, accepted(), Some(6)),
        (7, checked(), Some(6)),
    ];
    for (second, event, expected) in events {
        refund =
            bench.ledger.record(RecordEvents { now: at(second), ..record(&refund, &[event]) }).await.unwrap().outcome;
        let entered = bench.ledger.entered_state_at(refund.id(), State::Submitted).await;
        assert_eq!(entered, Ok(expected.map(at)), "after {second} s");
    }
}
