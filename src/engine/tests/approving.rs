//! A second person: who may approve, who loses a race, and what an approval sets in motion.

use rstest::rstest;

use super::*;
use crate::domain::approval::Verdict;
use crate::domain::authority::{AccountLimits, AccountSet, ApprovalRule, Authority, CallerLimits, CallerRules, Rules};
use crate::domain::event::EventKind;
use crate::domain::limits::Limit;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Of these owners: `shop` and `desk` are one, `finance` and `audit` others.
fn rules(needed: u32, expire_after: Duration) -> Rules {
    let owners = [("shop", "team"), ("desk", "team"), ("finance", "money"), ("treasury", "money"), ("audit", "audit")];
    let caller = |owner: &str| CallerRules {
        owner: owner.to_owned(),
        may_create: true,
        accounts: AccountSet::All,
        limits: CallerLimits::default(),
    };
    Rules {
        callers: owners.into_iter().map(|(name, owner)| (name.to_owned(), caller(owner))).collect(),
        accounts: BTreeMap::new(),
        approvals: vec![ApprovalRule {
            name: "large".to_owned(),
            accounts: AccountSet::All,
            at_least: [(Currency::USD, 20_000)].into(),
            similar: false,
            needed,
            expire_after,
        }],
    }
}

fn by(name: &str, rules: &Rules) -> Authority {
    let (credential, policy) = (Some("token:1".to_owned()), Some("0123abcd".to_owned()));
    Authority { actor: Actor { name: name.to_owned(), credential, policy }, rules: Arc::new(rules.clone()) }
}

fn create_by(by: Authority) -> CreateCommand {
    CreateCommand {
        intent: sectigo("r"),
        allow_similar: false,
        by,
        answer_by: Instant::now() + LIMIT,
        wait_until: Instant::now() + LIMIT,
        trace_parent: None,
    }
}

fn decision(refund: &Refund, verdict: Verdict, by: Authority) -> ApprovalCommand {
    ApprovalCommand { id: refund.id().clone(), etag: refund.etag(), verdict, comment: "seen".to_owned(), by }
}

/// A refund that `shop` asked for, and the rules.
async fn waiting(engine: &Engine, needed: u32) -> (Refund, Rules) {
    let rules = rules(needed, DAY);
    let created = engine.create(create_by(by("shop", &rules))).await.unwrap();
    assert_eq!(created.refund.state, State::AwaitingApproval);
    (created.refund, rules)
}

fn sent(bench: &Bench) -> usize {
    bench.provider.calls.lock().unwrap().len()
}

#[tokio::test]
async fn an_approved_refund_is_sent_and_only_then() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    assert_eq!(engine.waiting_for(&refund), Some(WaitingFor::Approval));
    let replay = engine.create(create_by(by("shop", &rules))).await.unwrap();
    assert!(replay.replayed && replay.refund == refund);
    assert_eq!(sent(&bench), 0);
    let command = decision(&refund, Verdict::Approved, by("finance", &rules));
    let approved = engine.decide_approval(command.clone()).await.unwrap();
    assert!(matches!(approved.state, State::Pending), "{}", approved.state);
    let done = engine.wait(refund.id(), approved.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((done.state, sent(&bench)), (State::Succeeded, 1));
    // The same caller's repeat, whose etag is old by now, is answered with the refund as it is.
    assert_eq!(engine.decide_approval(command).await, Ok(done.clone()));
    let late = decision(&done, Verdict::Approved, by("audit", &rules));
    assert_eq!(engine.decide_approval(late).await, Err(EngineError::NotAwaitingApproval(State::Succeeded)));
    let events = engine.events_of(refund.id(), 0, 9).await.unwrap();
    let actors: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.actor.name.as_str())).collect();
    assert_eq!(actors[..3], [("created", "shop"), ("approved", "finance"), ("dispatched", "gateway")]);
}

#[rstest]
#[case::the_creator("shop")]
#[case::another_caller_of_its_owner("desk")]
#[case::an_approver_again_as_another_caller("treasury")]
#[tokio::test]
async fn one_owner_is_one_person(#[case] caller: &str) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 2).await;
    let once = engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules))).await.unwrap();
    assert_eq!(once.state, State::AwaitingApproval);
    let own = decision(&once, Verdict::Approved, by(caller, &rules));
    assert_eq!(engine.decide_approval(own).await, Err(EngineError::OwnRefund));
    // Neither does an access file that was edited in between make another person of it.
    let mut edited = rules.clone();
    for rules in edited.callers.values_mut() {
        rules.owner = format!("{}-2", rules.owner);
    }
    edited.callers.get_mut("audit").unwrap().owner = "team".to_owned();
    for caller in ["shop", "audit"] {
        let own = decision(&once, Verdict::Approved, by(caller, &edited));
        assert_eq!(engine.decide_approval(own).await, Err(EngineError::OwnRefund), "{caller}");
    }
    assert_eq!((engine.get(refund.id()).await.unwrap(), sent(&bench)), (once, 0));
}

/// Who cannot be told from the creator is no second person.
#[tokio::test]
async fn without_an_access_file_there_is_no_second_person() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, _) = waiting(&engine, 1).await;
    let command = |verdict| decision(&refund, verdict, Authority::unrestricted());
    assert_eq!(engine.decide_approval(command(Verdict::Approved)).await, Err(EngineError::OwnRefund));
    assert_eq!(engine.decide_approval(command(Verdict::Rejected)).await.unwrap().state, State::Cancelled);
}

#[rstest]
#[case::removed(|rules: &mut Rules| { rules.callers.remove("shop"); })]
#[case::may_not_create(|rules: &mut Rules| rules.callers.get_mut("shop").unwrap().may_create = false)]
#[tokio::test]
async fn the_refund_of_a_caller_whose_right_is_gone_is_not_approved(#[case] edit: fn(&mut Rules)) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, mut rules) = waiting(&engine, 1).await;
    edit(&mut rules);
    let command = decision(&refund, Verdict::Approved, by("finance", &rules));
    assert_eq!(engine.decide_approval(command).await, Err(EngineError::CreatorRevoked("shop".to_owned())));
    let command = decision(&refund, Verdict::Rejected, by("finance", &rules));
    assert_eq!(engine.decide_approval(command).await.unwrap().state, State::Cancelled);
}

/// Whatever is recorded first decides.
#[rstest]
#[case::cancelled(0)]
#[case::rejected(1)]
#[case::approved(2)]
#[tokio::test]
async fn who_loses_a_race_learns_that(#[case] winner: usize) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    let approve = || engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules)));
    let reject = || engine.decide_approval(decision(&refund, Verdict::Rejected, by("audit", &rules)));
    let cancel = || engine.cancel(refund.id(), None, by("shop", &rules));
    match winner {
        0 => assert_eq!(cancel().await.unwrap().state, State::Cancelled),
        1 => assert_eq!(reject().await.unwrap().state, State::Cancelled),
        _ => assert_eq!(approve().await.unwrap().state, State::Pending),
    }
    if winner == 2 {
        let done = engine.wait(refund.id(), refund.revision + 2, Instant::now() + LIMIT).await.unwrap();
        assert_eq!(done.state, State::Succeeded);
        assert_eq!(cancel().await, Err(EngineError::NotCancellable(State::Succeeded)));
    } else {
        assert_eq!(approve().await, Err(EngineError::NotAwaitingApproval(State::Cancelled)));
    }
    if winner != 1 {
        assert!(matches!(reject().await, Err(EngineError::NotAwaitingApproval(_))));
    }
    // A refund that ended has freed its target.
    let again = CreateCommand { intent: sectigo("again"), ..create_by(by("shop", &rules)) };
    assert_eq!(engine.create(again).await.is_ok(), winner != 2);
}

#[tokio::test]
async fn of_approvals_and_cancellations_at_once_exactly_one_wins() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    let approve = |caller| engine.decide_approval(decision(&refund, Verdict::Approved, by(caller, &rules)));
    let reject = engine.decide_approval(decision(&refund, Verdict::Rejected, by("desk", &rules)));
    let etag = refund.etag();
    let cancel = engine.cancel(refund.id(), Some(&etag), by("shop", &rules));
    let (approved, rejected, cancelled, approved_too) =
        tokio::join!(approve("finance"), reject, cancel, approve("audit"));
    let decisions = [approved.is_ok(), rejected.is_ok(), approved_too.is_ok()];
    let decided = decisions.iter().filter(|decided| **decided).count();
    // Cancelling what a rejection has cancelled changes nothing and is not an error.
    assert!(decided == 1 || decided == 0 && cancelled.is_ok(), "{decisions:?}, {cancelled:?}");
    assert!(cancelled.is_err() || !decisions[0] && !decisions[2], "{decisions:?}, {cancelled:?}");
    let kinds: Vec<EventKind> =
        engine.events_of(refund.id(), 1, 9).await.unwrap().iter().map(|event| event.kind).collect();
    let ends = [EventKind::Approved, EventKind::Rejected, EventKind::Cancelled];
    assert_eq!(kinds.iter().filter(|kind| ends.contains(kind)).count(), 1, "{kinds:?}");
    let end = engine.wait(refund.id(), refund.revision + 9, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent(&bench), usize::from(end.state == State::Succeeded));
}

#[tokio::test]
async fn a_decision_needs_the_present_etag() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 2).await;
    let once = engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules))).await.unwrap();
    let stale = decision(&refund, Verdict::Approved, by("audit", &rules));
    assert_eq!(engine.decide_approval(stale).await, Err(EngineError::EtagMismatch { present: once.etag() }));
}

/// It expires while its account is not even configured, and not before its time.
#[rstest]
#[case::in_time(DAY - HOUR, State::AwaitingApproval)]
#[case::too_late(DAY, State::Failed)]
#[tokio::test]
async fn what_is_not_approved_in_time_fails(#[case] after: Duration, #[case] expected: State) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    engine.drain(LIMIT).await;
    bench.clock.advance(after);
    let engine = bench.start([]).await.unwrap();
    let until = if expected == State::Failed { LIMIT } else { Duration::from_millis(200) };
    let present = engine.wait(refund.id(), refund.revision, Instant::now() + until).await.unwrap();
    assert_eq!((present.state, present.is_counted()), (expected, expected != State::Failed));
    if expected == State::Failed {
        let command = decision(&refund, Verdict::Approved, by("finance", &rules));
        assert_eq!(engine.decide_approval(command).await, Err(EngineError::NotAwaitingApproval(State::Failed)));
        let events = engine.events_of(refund.id(), 1, 9).await.unwrap();
        assert_eq!(events[0].note, "It was not approved in time. It was never processed and is not sent any more.");
    }
}

/// The time that it waited for its approval does not count as time to be sent.
#[rstest]
#[case::the_limit_begins_with_the_approval(DAY - HOUR, State::Succeeded)]
#[case::and_holds(DAY, State::Failed)]
#[tokio::test]
async fn the_time_to_be_sent_begins_with_the_last_approval(#[case] after: Duration, #[case] expected: State) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let rules = rules(1, DAY * 3);
    let refund = engine.create(create_by(by("shop", &rules))).await.unwrap().refund;
    engine.drain(LIMIT).await;
    bench.clock.advance(DAY * 2);
    let engine = bench.engine().await;
    assert!(record_signal(&only_account(&engine), AccountSignal::CredentialsRefused), "nothing is sent for now");
    let approved = engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules))).await.unwrap();
    assert_eq!(engine.waiting_for(&approved), Some(WaitingFor::Credentials));
    engine.drain(LIMIT).await;
    bench.clock.advance(after);
    let engine = bench.engine().await;
    let mut end = engine.get(refund.id()).await.unwrap();
    while !end.state.is_terminal() {
        end = engine.wait(refund.id(), end.revision, Instant::now() + LIMIT).await.unwrap();
    }
    assert_eq!((end.state, end.attempt_count), (expected, u32::from(expected == State::Succeeded)));
}

/// A move from a former place takes along what waits, and asks for no second approval.
#[tokio::test]
async fn a_refund_that_waits_for_approval_moves_with_its_account() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    engine.drain(LIMIT).await;
    let engine = bench
        .engine_with(ProviderKind::Sectigo, Currency::USD, |account| {
            account.former = vec![account.place.clone()];
            account.place.login = "new".to_owned();
        })
        .await;
    let moved = engine.get(refund.id()).await.unwrap();
    assert_eq!((moved.state, moved.place.login.as_str()), (State::AwaitingApproval, "new"));
    assert!(!moved.attempted_elsewhere);
    let approved = engine.decide_approval(decision(&moved, Verdict::Approved, by("finance", &rules))).await.unwrap();
    let done = engine.wait(refund.id(), approved.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((done.state, sent(&bench)), (State::Succeeded, 1));
}

/// No one resolves a refund of their own, and who approved it sends it no second time.
#[rstest]
#[case::the_creator("shop", Resolution::NotRefunded, false)]
#[case::another_caller_of_its_owner("desk", Resolution::NotRefunded, false)]
#[case::an_approver("finance", Resolution::NotRefunded, true)]
#[case::the_creator_again("shop", Resolution::SendAgain, false)]
#[case::an_approver_again("treasury", Resolution::SendAgain, false)]
#[case::another_owner("audit", Resolution::SendAgain, true)]
#[tokio::test]
async fn a_second_person_resolves(#[case] caller: &str, #[case] resolution: Resolution, #[case] may: bool) {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let (refund, rules) = waiting(&engine, 1).await;
    let doubt = Outcome::Unknown { reason: DoubtReason::Timeout, evidence: "no answer".to_owned() };
    bench.next_outcome().send(doubt).unwrap_or_else(|_| panic!("the engine does not listen"));
    engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules))).await.unwrap();
    let mut present = refund.clone();
    while present.state != State::InDoubt {
        present = engine.wait(refund.id(), present.revision, Instant::now() + LIMIT).await.unwrap();
    }
    let escalated = Event::Escalated { evidence: "x".to_owned(), foreign_record: false };
    let record = RecordEvents {
        id: refund.id().clone(),
        revision: present.revision,
        events: vec![escalated],
        next_check: None,
        actor: Actor::gateway(),
        now: NOW,
    };
    let review = bench.ledger.inner.record(record).await.unwrap().outcome;
    let command = ResolveCommand {
        id: review.id().clone(),
        etag: review.etag(),
        resolution,
        evidence: "ticket 7".to_owned(),
        take_over: false,
        by: by(caller, &rules),
    };
    let resolved = engine.resolve(command.clone()).await;
    match may {
        true => assert!(resolved.is_ok(), "{resolved:?}"),
        false => {
            assert_eq!(resolved, Err(EngineError::OwnRefund));
            assert_eq!(engine.get(refund.id()).await.unwrap(), review);
        }
    }
}

/// Where no rule fits, the creator alone is no second person; where one fits, an approver is none
/// either.
#[rstest]
#[case::the_creator("shop", 100, false)]
#[case::an_approver_where_no_rule_fits("finance", 100, true)]
#[case::an_approver_where_one_fits("finance", 20_000, false)]
#[case::another_owner_where_one_fits("audit", 20_000, true)]
#[tokio::test]
async fn a_second_person_reassigns(#[case] caller: &str, #[case] assumed: i64, #[case] may: bool) {
    let bench = Bench::new();
    let mut rules = rules(1, DAY);
    let assume = |rules: &mut Rules, account: &str, amount| {
        let limits = AccountLimits { assumed_amount: Some(amount), ..AccountLimits::default() };
        rules.accounts.insert(AccountName::parse(account).unwrap(), limits);
    };
    assume(&mut rules, "main", 30_000);
    let engine = bench.engine().await;
    let refund = engine.create(create_by(by("shop", &rules))).await.unwrap().refund;
    engine.drain(LIMIT).await;
    let mut account = bench.account(ProviderKind::Sectigo, Currency::USD);
    account.name = AccountName::parse("other").unwrap();
    let engine = bench.start([account]).await.unwrap();
    let approved = engine.decide_approval(decision(&refund, Verdict::Approved, by("finance", &rules))).await.unwrap();
    assume(&mut rules, "other", assumed);
    // What the refund counts is frozen, so a rule fits it by that amount too.
    rules.approvals[0].accounts = AccountSet::Named([AccountName::parse("other").unwrap()].into());
    if assumed < 20_000 {
        rules.approvals[0].at_least = [(Currency::USD, 40_000)].into();
    }
    let command = ReassignCommand {
        id: refund.id().clone(),
        etag: approved.etag(),
        account: AccountName::parse("other").unwrap(),
        evidence: "the same".to_owned(),
        by: by(caller, &rules),
    };
    let reassigned = engine.reassign(command).await;
    match may {
        true => assert_eq!(reassigned.unwrap().account.as_str(), "other"),
        false => assert_eq!(reassigned, Err(EngineError::OwnRefund)),
    }
}

/// A dry run says what a creation would lead to, and counts nothing.
#[tokio::test]
async fn a_dry_run_names_the_approval_or_the_limit() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let mut rules = rules(1, DAY);
    let dry = engine.dry_run(create_by(by("shop", &rules))).await.unwrap();
    assert_eq!((dry.refund.state, dry.replayed), (State::AwaitingApproval, false));
    rules.callers.get_mut("shop").unwrap().limits.daily_count = Some(1);
    for _ in 0..3 {
        engine.dry_run(create_by(by("shop", &rules))).await.unwrap();
    }
    engine.create(create_by(by("shop", &rules))).await.unwrap();
    let next = CreateCommand { intent: sectigo("next"), ..create_by(by("desk", &rules)) };
    let conflicting = RefundId::parse("r").unwrap();
    // The target first, then the limit.
    assert_eq!(
        engine.dry_run(next).await.map(drop),
        Err(EngineError::Ledger(LedgerError::TargetHasRefund { conflicting }))
    );
    let other = intent("other", Target::Sectigo(SectigoTarget::new("2", 11).unwrap()));
    let refused = engine.dry_run(CreateCommand { intent: other, ..create_by(by("shop", &rules)) }).await;
    assert!(matches!(
        refused.map(drop),
        Err(EngineError::Ledger(LedgerError::QuotaExceeded { limit: Limit::DailyCount, .. }))
    ));
    // A replay is never refused.
    assert!(engine.create(create_by(by("shop", &rules))).await.unwrap().replayed);
}
