//! Pages that do not shift, filters that agree with a plain search, work that is found when it is due, and no question without an index.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::telemetry::metrics::Metrics;
use proptest::prelude::*;

#[tokio::test]
async fn pages_are_stable_while_refunds_are_recorded() {
    let bench = Bench::new();
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
    reference: Option<usize>,
    from: Option<u64>,
    before: Option<u64>,
    before_ordinal: Option<u64>,
    limit: u32,
}

const ACCOUNTS: [&str; 3] = ["certs", "debits", "nobody"];
const REFERENCES: [&str; 3] = ["o3", "DS1", "ext-1"];

fn filter() -> impl Strategy<Value = Filter> {
    let states = proptest::collection::vec(proptest::sample::select(State::ALL.to_vec()), 0..4);
    let some = |range: std::ops::Range<u64>| proptest::option::of(range);
    let choice = || proptest::option::weighted(0.3, 0_usize..3);
    (states, choice(), choice(), some(0..40), some(0..40), some(0..40), 0_u32..40).prop_map(
        |(states, account, reference, from, before, before_ordinal, limit)| Filter {
            states,
            account,
            reference,
            from,
            before,
            before_ordinal,
            limit,
        },
    )
}

#[test]
fn every_filter_agrees_with_a_plain_search() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let bench = Bench::new();
    let at = |second: u64| NOW.plus(Duration::from_secs(second));
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
                        request_initiator: "somebody",
                    };
                    let target = Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap());
                    intent(&format!("r{number}"), "debits", target)
                }
                _ => sectigo(&format!("r{number}"), &format!("o{number}")),
            };
            // A clock that is set back now and then.
            let created = bench.ledger.create(Create { now: at(number * 7 % 36), ..create(intent) }).await.unwrap();
            let Created::New(refund) = created else { panic!("it was there already") };
            bench.record(&refund, &way_to(state)).await.unwrap();
        }
        bench.ledger.list(ListQuery { limit: 1_000, ..ListQuery::default() }).await.unwrap()
    });
    assert_eq!(all.len(), 36);
    let cases = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(cases)
        .run(&filter(), |filter| {
            let account = filter.account.map(|index| AccountName::parse(ACCOUNTS[index]).unwrap());
            let query = ListQuery {
                states: filter.states.clone(),
                account: account.clone(),
                target_reference: filter.reference.map(|index| REFERENCES[index].to_owned()),
                created_from: filter.from.map(at),
                created_before: filter.before.map(at),
                before_ordinal: filter.before_ordinal,
                limit: filter.limit,
            };
            let wanted = |listed: &&Listed| {
                let Refund { intent, state, create_time, .. } = &listed.refund;
                (filter.states.is_empty() || filter.states.contains(state))
                    && account.as_ref().is_none_or(|account| *account == intent.account)
                    && query.target_reference.as_ref().is_none_or(|text| intent.target.references().contains(text))
                    && query.created_from.is_none_or(|from| *create_time >= from)
                    && query.created_before.is_none_or(|before| *create_time < before)
                    && query.before_ordinal.is_none_or(|before| listed.ordinal < before)
            };
            let limit = usize::try_from(filter.limit).unwrap();
            let expected: Vec<Listed> = all.iter().filter(wanted).take(limit).cloned().collect();
            prop_assert_eq!(runtime.block_on(bench.ledger.list(query)).unwrap(), expected);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn due_is_what_may_be_sent_now_oldest_first() {
    let bench = Bench::new();
    let account = at("certs");
    let at = |second| NOW.plus(Duration::from_secs(second));
    assert_eq!(bench.ledger.next_due(&account).await, Ok(None));
    let put_off = |second| Event::NotSent { error: error(429), retry_at: at(second) };

    let first = bench.new_refund(sectigo("first", "1")).await;
    bench.record(&first, &[Event::Dispatched { credential: None }, put_off(50)]).await.unwrap();
    let second = bench.new_refund(sectigo("second", "2")).await;
    bench.record(&second, &[Event::Dispatched { credential: None }, put_off(20)]).await.unwrap();
    assert_eq!(bench.ledger.next_due(&account).await, Ok(Some(at(20))));
    bench.ledger.create(Create { now: at(5), ..create(sectigo("third", "3")) }).await.unwrap();
    bench.refund_in(State::Succeeded, "4").await;
    bench.new_refund(namecom("elsewhere", &[1])).await;

    assert_eq!(bench.ledger.next_due(&account).await, Ok(Some(at(5))));
    let due = async |second, limit| {
        let due = bench.ledger.due(&account, at(second), limit).await.unwrap();
        due.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(due(0, 10).await, ["third"], "recorded, so it may go, whatever the clock says");
    assert_eq!(due(20, 10).await, ["second", "third"]);
    assert_eq!(due(50, 10).await, ["first", "second", "third"]);
    assert_eq!(due(50, 2).await, ["first", "second"]);
    assert_eq!(due(50, 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn unsettled_is_what_is_asked_about_now_and_what_never_was_comes_first() {
    let bench = Bench::new();
    let account = at("certs");
    let at = |second| NOW.plus(Duration::from_secs(second));
    assert_eq!(bench.ledger.next_unsettled(&account).await, Ok(None));
    let open = async |intent: Intent, state, next_check| {
        let refund = bench.new_refund(intent).await;
        let record = Record { next_check, ..record(&refund, &way_to(state)) };
        bench.ledger.record(record).await.unwrap();
    };
    open(sectigo("late", "1"), State::InDoubt, Some(at(50))).await;
    open(sectigo("soon", "2"), State::Submitted, Some(at(20))).await;
    assert_eq!(bench.ledger.next_unsettled(&account).await, Ok(Some(at(20))));
    open(sectigo("at-once", "3"), State::InDoubt, None).await;
    open(namecom("elsewhere", &[1]), State::InDoubt, Some(at(2))).await;
    for state in [State::Pending, State::Dispatching, State::Succeeded, State::Cancelled] {
        bench.refund_in(state, state.as_str()).await;
    }

    assert_eq!(bench.ledger.next_unsettled(&account).await, Ok(Some(at(1))), "at once, since its last change");
    let unsettled = async |second, limit| {
        let unsettled = bench.ledger.unsettled(&account, at(second), limit).await.unwrap();
        unsettled.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(unsettled(0, 10).await, ["at-once"]);
    assert_eq!(unsettled(19, 10).await, ["at-once"]);
    assert_eq!(unsettled(20, 10).await, ["at-once", "soon"]);
    assert_eq!(unsettled(50, 10).await, ["at-once", "soon", "late"]);
    assert_eq!(unsettled(50, 2).await, ["at-once", "soon"]);
}

#[tokio::test]
async fn what_waits_is_found_by_its_age_though_it_is_put_off() {
    let bench = Bench::new();
    let (account, certs) = (at("certs").account, at("certs"));
    let at = |second| NOW.plus(Duration::from_secs(second));
    assert_eq!(bench.ledger.oldest_waiting(&account).await, Ok(None));
    bench.refund_in(State::Succeeded, "done").await;
    for (id, second) in [("young", 9), ("old", 3), ("put-off", 5)] {
        bench.ledger.create(Create { now: at(second), ..create(sectigo(id, id)) }).await.unwrap();
    }
    let put_off = bench.ledger.get(&RefundId::parse("put-off").unwrap()).await.unwrap().unwrap();
    let later = Event::NotSent { error: error(429), retry_at: at(500) };
    bench.record(&put_off, &[Event::Dispatched { credential: None }, later]).await.unwrap();
    bench.new_refund(namecom("elsewhere", &[1])).await;

    assert_eq!(bench.ledger.oldest_waiting(&account).await, Ok(Some(at(3))));
    let waiting = async |until, limit| {
        let waiting = bench.ledger.waiting_since(&certs, at(until), 0, limit).await.unwrap();
        waiting.into_iter().map(|refund| refund.id().as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(waiting(2, 10).await, Vec::<String>::new());
    assert_eq!(waiting(5, 10).await, ["old", "put-off"]);
    assert_eq!(waiting(9, 10).await, ["old", "put-off", "young"]);
    assert_eq!(waiting(9, 1).await, ["old"]);
}

#[tokio::test]
async fn the_last_entry_into_a_state_is_when_it_was_entered_from_another() {
    let bench = Bench::new();
    let at = |second| NOW.plus(Duration::from_secs(second));
    let mut refund = bench.new_refund(sectigo("a", "1")).await;
    let checked = || Event::Checked(Observation::new("not finished", RecordSeen::Present));
    let again = Event::Resolved(Decided::new(Resolution::SendAgain, "looked"));
    let taken = || Event::Accepted(Acceptance::default());
    let events = [
        (1, Event::Dispatched { credential: None }, None),
        (2, taken(), Some(2)),
        (3, checked(), Some(2)),
        (4, Event::Escalated { evidence: "gone".to_owned(), foreign_record: false }, Some(2)),
        (5, again, Some(2)),
        (6, taken(), Some(6)),
        (7, checked(), Some(6)),
    ];
    for (second, event, expected) in events {
        refund = bench.ledger.record(Record { now: at(second), ..record(&refund, &[event]) }).await.unwrap();
        let entered = bench.ledger.last_entry(refund.id(), State::Submitted).await;
        assert_eq!(entered, Ok(expected.map(at)), "after {second} s");
    }
}

/// Every statement that the reads have prepared, as the planner sees it: nothing reads a whole table but the pages of the table itself.
#[tokio::test]
async fn no_question_reads_a_whole_table() {
    let bench = Bench::new();
    let raw = bench.raw();
    let plan = |sql: &str| -> Vec<String> {
        let mut statement = raw.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![rusqlite::types::Null; statement.parameter_count()];
        let details = statement.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>(3)).unwrap();
        details.map(Result::unwrap).collect()
    };
    let account = Some(AccountName::parse("certs").unwrap());
    let states = vec![State::InDoubt, State::NeedsReview];
    for (query, index) in [
        (ListQuery { states: states.clone(), limit: 9, ..ListQuery::default() }, "refunds_of_state"),
        (ListQuery { account: account.clone(), limit: 9, ..ListQuery::default() }, "refunds_of_account"),
        (
            ListQuery { account: account.clone(), states, limit: 9, before_ordinal: Some(5), ..ListQuery::default() },
            "refunds_of_account",
        ),
        (
            ListQuery { target_reference: Some("x".to_owned()), limit: 9, ..ListQuery::default() },
            "USING PRIMARY KEY (reference=?",
        ),
        (ListQuery { created_before: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
        (ListQuery { created_from: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
        (ListQuery { account, created_before: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
    ] {
        let details = plan(&reads::page_sql(&query));
        assert!(details.iter().any(|detail| detail.contains(index)), "{details:#?}");
        assert!(!details.iter().any(|detail| detail.starts_with("SCAN r")), "{details:#?}");
    }
    let details = plan(&reads::DUE);
    assert!(details.iter().any(|detail| detail.contains("refunds_due_now")), "{details:#?}");
    assert!(details.iter().any(|detail| detail.contains("refunds_due_later")), "{details:#?}");
    assert!(!details.iter().any(|detail| detail.contains("SCAN refunds")), "{details:#?}");
    for (sql, indexes) in [
        (&*reads::NEXT_DUE, ["refunds_due_now", "refunds_due_later"]),
        (&reads::UNSETTLED, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&reads::NEXT_UNSETTLED, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&reads::WAITING_SINCE, ["refunds_due_now", "refunds_put_off"]),
        (&reads::OLDEST_WAITING.to_owned(), ["refunds_due_now", "refunds_put_off"]),
        (&reads::OPEN_AT, ["USING INDEX refunds_open (account=?", "USING INTEGER PRIMARY KEY"]),
        (&steps::HASTEN.to_owned(), ["refunds_unheard (account=?", "USING INTEGER PRIMARY KEY"]),
        (&reads::HOLDERS.to_owned(), ["USING PRIMARY KEY (key=?)", "USING INTEGER PRIMARY KEY"]),
        (&reads::SIMILAR.to_owned(), ["USING PRIMARY KEY (key=?)", "USING INTEGER PRIMARY KEY"]),
    ] {
        let details = plan(sql);
        for index in indexes {
            assert!(details.iter().any(|detail| detail.contains(index)), "{index}: {details:#?}");
        }
        assert!(!details.iter().any(|detail| detail.contains("SCAN refunds")), "{details:#?}");
    }
}

#[tokio::test]
async fn how_far_create_times_are_out_of_order_is_kept() {
    let bench = Bench::new();
    let disorder =
        |raw: &Connection| raw.query_row("SELECT most_micros FROM disorder", [], |row| row.get::<_, i64>(0)).unwrap();
    for (number, (second, most_seconds)) in
        [(10, 0), (20, 0), (15, 5), (30, 5), (27, 5), (22, 8), (31, 8)].iter().enumerate()
    {
        let id = format!("r{number}");
        let created = Create { now: NOW.plus(Duration::from_secs(*second)), ..create(sectigo(&id, &id)) };
        bench.ledger.create(created).await.unwrap();
        assert_eq!(disorder(&bench.raw()), most_seconds * 1_000_000, "after {second}");
    }
}

#[tokio::test]
async fn a_row_is_read_though_another_program_holds_the_file() {
    let bench = Bench::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let row = bench.ledger.read_row(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None).into()),
        time => Ok(time),
    });
    assert_eq!(row.await, Ok(1));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_row_is_read_though_every_connection_on_the_spot_is_lent() {
    let bench = Bench::new();
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let lent: Vec<Lease> = std::iter::from_fn(|| bench.ledger.hasty.lease_now()).collect();
    assert_eq!(lent.len(), bench.settings.readers);
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund));
}

/// Counted once at the start, and from then on from what each commit moves.
#[tokio::test]
async fn refunds_are_counted_across_a_start() {
    let bench = Bench::new();
    for (state, id) in [(State::Succeeded, "1"), (State::Succeeded, "2"), (State::InDoubt, "3")] {
        bench.refund_in(state, id).await;
    }
    assert_eq!(bench.ledger.counts(), None, "nothing is measured");
    let bench = bench.reopened();
    bench.ledger.measure(Metrics::off()).await;
    let account = AccountName::parse("certs").unwrap();
    let counted = |counts: &[(State, u64)]| {
        let counts = counts.iter().map(|(state, count)| (account.clone(), *state, *count));
        counts.collect::<BTreeSet<_>>()
    };
    let found = |bench: &Bench| bench.ledger.counts().unwrap().into_iter().filter(|(.., count)| *count > 0).collect();
    let first: BTreeSet<_> = found(&bench);
    assert_eq!(first, counted(&[(State::Succeeded, 2), (State::InDoubt, 1)]));
    bench.refund_in(State::Succeeded, "4").await;
    let second: BTreeSet<_> = found(&bench);
    assert_eq!(second, counted(&[(State::Succeeded, 3), (State::InDoubt, 1)]));
}

/// A gateway that starts now finds them in doubt.
#[tokio::test]
async fn a_survey_counts_what_is_on_its_way_among_what_is_open() {
    let bench = Bench::new();
    for (state, id) in [(State::Dispatching, "1"), (State::InDoubt, "2"), (State::Succeeded, "3")] {
        bench.refund_in(state, id).await;
    }
    let elsewhere = Create { dispatch: first_attempt(true), ..create(namecom("4", &[1])) };
    bench.ledger.create(elsewhere).await.unwrap();
    let survey = Survey::open(&bench.path()).unwrap();
    let open = survey.open_refunds().unwrap();
    let found: BTreeMap<&str, u64> = open.iter().map(|open| (open.at.account.as_str(), open.count)).collect();
    assert_eq!(found, BTreeMap::from([("certs", 2), ("domains", 1)]));
}
