//! A refund that a rule wants approved is recorded and not sent, and the rows keep who decided.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::approval::Verdict;
use crate::domain::authority::{AccountSet, ApprovalRule, CallerLimits};
use crate::domain::event::Event;
use crate::domain::state::{IllegalTransition, State};
use crate::ledger::{CreateOutcome, DueKind, DueQuery, LedgerError, NewRefund};

fn after(seconds: u64) -> crate::domain::clock::Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

#[rstest]
#[tokio::test]
async fn a_refund_that_waits_for_approval_has_no_attempt_and_is_not_due(
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let request = || NewRefund { by: approved_by(2), dispatch: first_attempt(true), ..create(sectigo("a", "100")) };
    let dry = bench.ledger.dry_run(request()).await.unwrap();
    let refund = bench.new_refund_by(request()).await;
    assert_eq!(dry, CreateOutcome::New(refund.clone()));
    assert_eq!((refund.state, refund.attempt_count, refund.revision), (State::AwaitingApproval, 0, 1));
    assert_eq!(bench.create(request()).await, Ok(CreateOutcome::Known(refund.clone())), "a repeat finds it");
    for kind in [DueKind::Dispatch, DueKind::Lookup, DueKind::Expiry] {
        let query = DueQuery { kind, destination: at("certs"), at: after(9_999_999), skip: 0, limit: 9 };
        assert_eq!(bench.ledger.due(query).await, Ok(Vec::new()), "{kind:?}");
    }
    assert_eq!(bench.ledger.oldest_unapproved(&at("certs").account).await, Ok(Some(NOW)));
    assert_eq!(bench.ledger.next_approval_expiry().await, Ok(Some(after(3_600))));
    assert_eq!(bench.ledger.unapproved(after(3_599), 9).await, Ok(Vec::new()));
    assert_eq!(bench.ledger.unapproved(after(3_600), 9).await, Ok(vec![refund.clone()]));

    // It holds its target, and another one does not get it.
    let conflicting = refund.id().clone();
    assert_eq!(bench.create(create(sectigo("b", "100"))).await, Err(LedgerError::TargetHasRefund { conflicting }));

    let refused = |event: Event| {
        let refund = refund.clone();
        let bench = &bench;
        async move {
            let kind = event.kind().as_str();
            let refusal = IllegalTransition { from: State::AwaitingApproval, event: kind };
            assert_eq!(bench.record(&refund, &[event]).await, Err(LedgerError::IllegalTransition(refusal)));
        }
    };
    refused(Event::Dispatched { credential: None }).await;
    refused(approved("team", false)).await;
    refused(approved("finance", true)).await;
    let once = bench.record(&refund, &[approved("finance", false)]).await.unwrap();
    assert_eq!(once.state, State::AwaitingApproval);
    let bench = bench.reopened();
    let twice = bench.record(&once, &[approved("audit", true)]).await.unwrap();
    assert_eq!((twice.state, twice.pending_since()), (State::Pending, twice.update_time));
    let decisions = twice.approval.clone().unwrap().decisions;
    assert!(decisions.iter().all(|decision| decision.verdict == Verdict::Approved && decision.comment == "seen"));
    let bench = bench.reopened();
    assert_eq!(bench.ledger.get(twice.id()).await, Ok(Some(twice)));
    assert_eq!(bench.ledger.next_approval_expiry().await, Ok(None));
    let events = bench.ledger.events_of(refund.id(), 0, 9).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.to)).collect();
    assert_eq!(
        kinds,
        [("created", State::AwaitingApproval), ("approved", State::AwaitingApproval), ("approved", State::Pending)]
    );
    bench.ledger.verify().await.unwrap();
}

/// The rule about similar refunds fits only where there is one.
#[rstest]
#[tokio::test]
async fn a_similar_refund_that_is_allowed_can_need_an_approval(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let by = ruled("shop", CallerLimits::default(), |rules| {
        rules.approvals.push(ApprovalRule {
            name: "twice".to_owned(),
            accounts: AccountSet::All,
            at_least: Default::default(),
            similar: true,
            needed: 1,
            expire_after: Duration::from_secs(60),
        });
    });
    let request = |id: &str, account: &str| NewRefund {
        by: by.clone(),
        allow_similar: true,
        ..create(debitsuccess(id, account, 100))
    };
    assert_eq!(bench.new_refund_by(request("a", "DS1")).await.state, State::Pending);
    assert_eq!(bench.new_refund_by(request("b", "DS2")).await.state, State::Pending);
    let refund = bench.new_refund_by(request("c", "DS1")).await;
    assert_eq!(refund.state, State::AwaitingApproval);
    assert_eq!(refund.approval.map(|approval| approval.rule).as_deref(), Some("twice"));
}
