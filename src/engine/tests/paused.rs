//! A paused account sends nothing, no matter who decided to send and when.

use super::*;

fn order(number: u32) -> Intent {
    let target = Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap());
    intent(&format!("r{number}"), target)
}

fn main_account() -> AccountName {
    AccountName::parse("main").unwrap()
}

fn create(intent: Intent) -> CreateCommand {
    CreateCommand {
        intent,
        allow_similar: false,
        by: Authority::unrestricted(),
        answer_by: Instant::now() + LIMIT,
        wait_until: Instant::now() + LIMIT,
        trace_parent: None,
    }
}

async fn pause(engine: &Engine) {
    engine.pause(main_account(), "a wrong price list".to_owned(), Authority::unrestricted()).await.unwrap();
}

#[tokio::test]
async fn what_comes_during_a_pause_waits_for_its_end() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    pause(&engine).await;
    let waiting = engine.create(create(order(1))).await.unwrap().refund;
    assert_eq!((waiting.state, engine.waiting_for(&waiting)), (State::Pending, Some(WaitingFor::Resume)));
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);

    engine.resume(main_account(), Authority::unrestricted()).await.unwrap();
    let until = Instant::now() + LIMIT;
    let sent = engine.wait(waiting.id(), 2, until).await.unwrap();
    assert_eq!((sent.state, sent.attempt_count), (State::Succeeded, 1));
    let after = engine.create(create(order(2))).await.unwrap().refund;
    assert_eq!(after.state, State::Succeeded);
}

/// The engine has a slot for the refund when the ledger pauses the account.
#[tokio::test]
async fn a_creation_that_a_pause_overtakes_is_recorded_and_not_sent() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let pause = NewPause { account: main_account(), reason: "overtakes".to_owned(), actor: Actor::gateway(), now: NOW };
    // The engine does not know of this pause.
    bench.ledger.inner.pause(pause).await.unwrap();
    let command = CreateCommand { wait_until: Instant::now(), ..create(order(1)) };
    let recorded = engine.create(command).await.unwrap().refund;
    assert_eq!((recorded.state, recorded.attempt_count), (State::Pending, 0));
    let doubtful = bench.refund(order(2), &[]).await;
    let dispatched = RecordEvents {
        id: doubtful.id().clone(),
        revision: doubtful.revision,
        events: vec![Event::Dispatched { credential: None }],
        next_check: None,
        actor: Actor::gateway(),
        now: NOW,
    };
    let refused = bench.ledger.inner.record(dispatched).await;
    assert_eq!(refused.map(|recorded| recorded.outcome), Err(LedgerError::AccountPaused(main_account())));
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_pause_survives_a_restart_and_stops_an_operators_resend() {
    let bench = Bench::new();
    let escalated = Event::Escalated { evidence: "no trace".to_owned(), foreign_record: false };
    let [dispatched, doubted] = doubted();
    let refund = bench.refund(order(1), &[dispatched, doubted, escalated]).await;
    let engine = bench.engine().await;
    pause(&engine).await;
    // Once more, with another reason: the first one stays.
    engine.pause(main_account(), "again".to_owned(), Authority::unrestricted()).await.unwrap();
    engine.drain(LIMIT).await;

    let engine = bench.engine().await;
    let status = engine.accounts().remove(0);
    assert_eq!(status.pause.map(|pause| (pause.reason, pause.begin)), Some(("a wrong price list".to_owned(), NOW)));
    let send_again = |etag| ResolveCommand {
        id: refund.id().clone(),
        etag,
        resolution: Resolution::SendAgain,
        evidence: "ticket".to_owned(),
        take_over: false,
        by: Authority::unrestricted(),
    };
    let refused = engine.resolve(send_again(refund.etag())).await;
    assert_eq!(refused, Err(EngineError::AccountPaused(main_account())));
    assert_eq!(engine.get(refund.id()).await.unwrap(), refund, "nothing was recorded");
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);

    engine.resume(main_account(), Authority::unrestricted()).await.unwrap();
    let sent = engine.resolve(send_again(refund.etag())).await.unwrap();
    assert_eq!(sent.attempt_count, 2);
}

/// At a provider that deduplicates, the doubt is resent after the pause and not during it.
#[tokio::test]
async fn a_doubt_is_looked_up_and_not_sent_again_during_a_pause() {
    let bench = Bench::new();
    let refund = bench.refund(order(1), &doubted()).await;
    let replays = |account: &mut Account| {
        account.contract.deduplication = Deduplication::Replay { key_lifetime: Duration::from_secs(3_600) };
    };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, replays).await;
    pause(&engine).await;
    bench.next_lookup().send(not_found()).unwrap();
    bench.clock.advance(Duration::from_secs(30));
    engine.reconcile(refund.id(), Authority::unrestricted()).await.unwrap();
    assert_eq!(*bench.provider.asked.borrow(), 1);
    let after = engine.get(refund.id()).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::InDoubt, 1));
}

#[tokio::test]
async fn a_pause_does_not_count_towards_expiry() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    pause(&engine).await;
    let waiting = engine.create(create(order(1))).await.unwrap().refund;
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    bench.clock.advance(hours(48));
    engine.drain(LIMIT).await;

    // Resumed after two days; the limit is one.
    let engine = bench.engine().await;
    engine.resume(main_account(), Authority::unrestricted()).await.unwrap();
    let sent = engine.wait(waiting.id(), 2, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Succeeded);
}

fn not_found() -> Lookup {
    Lookup::not_found("no record")
}
