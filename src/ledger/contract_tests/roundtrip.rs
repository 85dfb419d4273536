//! Whatever happened to a refund, what is read after a restart is what `Refund::apply` computed.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::approval::{Approval, Approver};
use crate::domain::clock::Timestamp;
use crate::domain::event::{Decided, Event, Observation, RecordSeen, Resolution};
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError,
};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use crate::ledger::{CreateOutcome, LedgerError, NewRefund, RecordEvents};

fn money() -> impl Strategy<Value = Money> {
    let currency = select(vec!["USD", "AUD", "NZD", "EUR"]);
    (currency, any::<i64>())
        .prop_map(|(code, minor_units)| Money { currency: Currency::parse(code).unwrap(), minor_units })
}

fn target() -> impl Strategy<Value = Target> {
    let sectigo = ("[A-Za-z0-9._-]{1,64}", 1..=11)
        .prop_map(|(order, reason)| Target::Sectigo(SectigoTarget::new(&order, reason).unwrap()));
    let namecom = (1..i32::MAX, proptest::collection::btree_set(1..i32::MAX, 1..8)).prop_map(|(order, items)| {
        let items: Vec<i32> = items.into_iter().collect();
        Target::Namecom(NamecomTarget::new(order, &items).unwrap())
    });
    let debitsuccess =
        ("[A-Za-z0-9]{1,15}", "([a-z]([ -~]{0,20}[a-z])?)?", 1_i64..9_999_999_999, "[ -~äß\n]{0,40}x", "\\PC{0,30}")
            .prop_map(|(own, external, minor_units, description, initiator)| {
                Target::Debitsuccess(
                    DebitsuccessTarget::new(DebitsuccessFields {
                        account_reference_no: &own,
                        external_account_reference_no: &external,
                        amount: Some(("AUD", minor_units)),
                        description: &description,
                        request_initiator: &initiator,
                    })
                    .unwrap(),
                )
            });
    prop_oneof![sectigo, namecom, debitsuccess]
}

fn intents() -> impl Strategy<Value = Intent> {
    let labels = btree_map(any::<String>(), any::<String>(), 0..4);
    ("[A-Za-z0-9-]{1,50}", "[a-z0-9-]{1,63}", target(), labels, option::of(money())).prop_map(
        |(id, account, target, labels, expected_amount)| Intent {
            id: RefundId::parse(&id).unwrap(),
            account: AccountName::parse(&account).unwrap(),
            target,
            labels,
            expected_amount,
        },
    )
}

fn provider_error() -> impl Strategy<Value = ProviderError> {
    (any::<String>(), any::<String>(), any::<u16>(), select(ErrorCategory::ALL.to_vec()))
        .prop_map(|(code, message, http_status, category)| ProviderError { code, message, http_status, category })
}

fn items() -> impl Strategy<Value = Vec<ItemResult>> {
    let one = (any::<String>(), select(ItemState::ALL.to_vec()), option::of(money()), any::<String>(), any::<bool>())
        .prop_map(|(item_id, state, refunded_amount, message, requested)| ItemResult {
            item_id,
            state,
            refunded_amount,
            message,
            requested,
        });
    vec(one, 0..4)
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<i32>().prop_map(|second| Timestamp::from_seconds(i64::from(second)))
}

fn event() -> impl Strategy<Value = Event> {
    let text = || option::of(any::<String>());
    prop_oneof![
        6 => Just(Event::Dispatched { credential: None }),
        2 => (provider_error(), any::<i32>()).prop_map(|(error, second)| Event::NotSent {
            error,
            retry_at: Timestamp::from_seconds(i64::from(second)),
        }),
        1 => (text(), text(), option::of(money()), items(), option::of(provider_error()), any::<bool>()).prop_map(
            |(reference, status, amount, items, error, replayed)| Event::Refunded(Confirmation {
                reference, status, amount, items, error, replayed, ..Confirmation::default()
            })
        ),
        2 => (text(), text(), option::of(money()), items(), any::<bool>()).prop_map(
            |(reference, status, amount, items, replayed)| Event::Accepted(Acceptance {
                reference, status, amount, items, replayed, ..Acceptance::default()
            })
        ),
        1 => (provider_error(), items(), option::of(time())).prop_map(|(error, items, follow_until)| {
            Event::Refused { error, items, follow_until }
        }),
        3 => (select(DoubtReason::ALL.to_vec()), any::<String>(), option::of(provider_error()), any::<bool>()).prop_map(
            |(reason, evidence, error, not_processed)| Event::Doubted { reason, evidence, error, not_processed }
        ),
        1 => Just(Event::Interrupted),
        2 => (
            any::<String>(),
            select(vec![RecordSeen::Unanswered, RecordSeen::Absent, RecordSeen::Present]),
            items(),
            option::of("[a-z]{1,9}"),
            option::of("[a-z]{1,9}"),
        )
            .prop_map(|(evidence, record, items, status, status_note)| {
                Event::Checked(Observation { evidence, record, items, status, status_note })
            }),
        2 => (
            select(vec![
                Resolution::Refunded { amount: None, items: Vec::new() },
                Resolution::NotRefunded,
                Resolution::SendAgain,
            ]),
            any::<bool>(),
            option::of(time()),
            option::of(time()),
        )
            .prop_map(|(resolution, take_over, reserve_until, follow_until)| {
                Event::Resolved(Decided {
                    take_over,
                    reserve_until,
                    follow_until,
                    credential: Some("digest".to_owned()),
                    ..Decided::new(resolution, "ticket 7")
                })
            }),
        1 => ("[a-c]", "[a-c]").prop_map(|(account, login)| Event::Reassigned {
            account: AccountName::parse(&account).unwrap(),
            place: place(&login),
            evidence: "the same account".to_owned(),
        }),
        1 => time().prop_map(|caution_until| Event::Corrected {
            confirmation: Confirmation { status: Some("Completed".to_owned()), ..Confirmation::default() },
            caution_until,
        }),
        1 => any::<String>().prop_map(|evidence| Event::Escalated { evidence, foreign_record: false }),
        1 => Just(Event::Cancelled),
        1 => Just(Event::Expired),
        4 => ("[a-c]", "[a-c]", any::<String>(), any::<bool>()).prop_map(|(caller, owner, comment, is_last)| {
            Event::Approved { by: Approver { caller, owner }, comment, is_last }
        }),
        1 => ("[a-c]", "[a-c]", any::<String>()).prop_map(|(caller, owner, comment)| {
            Event::Rejected { by: Approver { caller, owner }, comment }
        }),
    ]
}

type History = (Intent, bool, Vec<(Event, i64)>);

#[rstest]
fn what_is_read_is_what_was_computed(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let cases = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let histories = vec((intents(), any::<bool>(), vec((event(), -5_i64..50), 0..14)), 1..6);
    proptest::test_runner::TestRunner::new(cases)
        .run(&histories, |histories| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(check_histories(backend, histories));
            Ok(())
        })
        .unwrap();
}

async fn check_histories(backend: Backend, histories: Vec<History>) {
    let bench = LedgerBench::new(backend);
    let mut expected = BTreeMap::new();
    let mut event_count = 0;
    for (number, (mut intent, dispatch, events)) in histories.into_iter().enumerate() {
        intent.id = RefundId::parse(&format!("{number}{}", intent.id.as_str().get(1..).unwrap())).unwrap();
        // A login for each, because this is not about reservations.
        let at = place(&format!("login {number}"));
        let first = first_attempt(dispatch);
        let by = match number % 3 {
            0 => acting(called_by(None)),
            1 => acting(called_by(Some("shop"))),
            _ => approved_by(2),
        };
        let created_by = by.actor.created_by();
        let approval = (number % 3 == 2).then(|| Approval {
            rule: "large".to_owned(),
            needed: 2,
            expire_time: NOW.saturating_add(Duration::from_secs(3_600)),
            creator_owner: "team".to_owned(),
            decisions: Vec::new(),
        });
        let request = NewRefund { dispatch: first, place: at.clone(), by, ..create(intent.clone()) };
        let mut model = Refund { created_by, ..Refund::new(intent, at, NOW) }.awaiting(approval);
        if dispatch && model.state == State::Pending {
            model = model.apply(&Event::Dispatched { credential: None }, NOW).unwrap();
        }
        assert_eq!(bench.create(request).await, Ok(CreateOutcome::New(model.clone())));
        let mut now = NOW;
        for (event, seconds) in events {
            now = Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
            let answer = bench
                .ledger
                .record(RecordEvents { now, ..record(&model, std::slice::from_ref(&event)) })
                .await
                .map(|recorded| recorded.outcome);
            match model.apply(&event, now) {
                Ok(after) if after.state == State::Cancelled && after.unanswered_attempts > 0 => {
                    assert!(matches!(answer, Err(LedgerError::IllegalTransition(_))));
                }
                Ok(after) => {
                    assert_eq!(answer, Ok(after.clone()));
                    model = after;
                }
                Err(refusal) => assert_eq!(answer, Err(LedgerError::IllegalTransition(refusal))),
            }
        }
        event_count += model.revision;
        expected.insert(model.id().clone(), model);
    }
    let bench = bench.reopened();
    for (id, model) in &expected {
        let found = bench.ledger.get(id).await.unwrap();
        assert_eq!(found.as_ref(), Some(model));
        let begun = format!("{ATTEMPTS} AND ordinal = (SELECT ordinal FROM refunds WHERE id = '{id}')");
        assert_eq!(bench.count(&begun), i64::from(model.attempt_count));
        let history = bench.ledger.events_of(id, 0, 1).await.unwrap();
        assert_eq!(history[0].actor.created_by(), model.created_by);
    }
    assert_eq!(bench.ledger.verify().await, Ok(event_count));
    let folder = tempfile::tempdir().unwrap();
    let audit = bench.ledger.backup(&folder.path().join("copy.db")).await.unwrap();
    let attempts: u64 = expected.values().map(|model| u64::from(model.attempt_count)).sum();
    assert_eq!((audit.findings, audit.attempts), (Vec::new(), attempts));
}
