//! What follows if lookups show no trace of a refund: they count only in a row, only at the same
//! place, and only a settle time apart.

use super::*;
use crate::domain::outcome::ItemState;

fn absent(absence: Absence) -> Lookup {
    Lookup::NotFound { evidence: "no trace".into(), items: Vec::new(), absence }
}

fn moved(refund: &Refund, login: &str, at: Timestamp) -> Refund {
    let place = Place { login: login.to_owned(), ..refund.place.clone() };
    let reassigned = Event::Reassigned { account: refund.account.clone(), place, evidence: "one set of books".into() };
    refund.apply(&reassigned, at).unwrap()
}

fn look_up(refund: &Refund, lookup: Lookup, contract: &RetryContract, at: Timestamp) -> (Refund, bool) {
    let decision = after_lookup(refund, lookup, rules(contract), at);
    (decision.events.iter().fold(refund.clone(), |refund, event| refund.apply(event, at).unwrap()), decision.resend)
}

fn not_processed(refund: &Refund, contract: &RetryContract, at: Timestamp) -> Refund {
    let sent = refund.apply(&Event::Dispatched { credential: None }, at).unwrap();
    let events = after_attempt(&sent, not_sent(), rules(contract), at).events;
    events.iter().fold(sent, |refund, event| refund.apply(event, at).unwrap())
}

/// name.com's key lives 3,000 s and its settle time is 600 s.
#[rstest]
#[case::key_valid(Absence::Untouched, 2_999, true, State::InDoubt, false)]
#[case::key_expired(Absence::Untouched, 3_000, true, State::InDoubt, true)]
#[case::another_secret(Absence::Untouched, 600, false, State::InDoubt, true)]
#[case::before_the_settle_time(Absence::Untouched, 599, false, State::InDoubt, false)]
#[case::half_done_before_the_settle_time(Absence::HalfDone, 599, true, State::InDoubt, false)]
#[case::half_done(Absence::HalfDone, 600, true, State::NeedsReview, false)]
#[case::unproven_with_a_valid_key(Absence::Unproven, 2_999, true, State::InDoubt, false)]
#[case::unproven(Absence::Unproven, 3_000, true, State::NeedsReview, false)]
#[case::unproven_and_another_secret(Absence::Unproven, 600, false, State::NeedsReview, false)]
fn what_an_order_still_shows_decides_about_a_resend(
    #[case] absence: Absence,
    #[case] seconds: u64,
    #[case] key_is_bound: bool,
    #[case] expected: State,
    #[case] resend: bool,
) {
    let (contract, refund) = (namecom(), in_doubt(None));
    let decide = |refund: &Refund, contract| {
        let rules = RetryRules { key_is_bound, ..rules(contract) };
        let decision = after_lookup(refund, absent(absence), rules, later(seconds));
        (state_after(refund, &decision.events), decision.resend)
    };
    assert_eq!(decide(&refund, &contract), (expected, resend));
    // Never after a change of place, and never if nothing prevents a second effect of a resend.
    let elsewhere = moved(&refund, "another", now());
    let without_resend = if seconds < 600 { State::InDoubt } else { State::NeedsReview };
    assert_eq!(decide(&elsewhere, &contract), (without_resend, false));
    assert_eq!(decide(&refund, &sectigo()), (without_resend, false));
}

#[test]
fn a_move_restarts_the_days_of_unanswered_lookups() {
    let (contract, refund) = (sectigo(), in_doubt(None));
    let limit = MAX_DOUBT_WITHOUT_LOOKUP.as_secs();
    let moved = moved(&refund, "another", later(limit));
    let after = |refund: &Refund, seconds| {
        let decision = after_lookup(refund, Lookup::unavailable("no answer"), rules(&contract), later(seconds));
        state_after(refund, &decision.events)
    };
    assert_eq!((after(&refund, limit - 1), after(&refund, limit)), (State::InDoubt, State::NeedsReview));
    assert_eq!((after(&moved, 2 * limit - 1), after(&moved, 2 * limit)), (State::InDoubt, State::NeedsReview));
}

#[test]
fn a_refused_or_contradicted_refund_is_not_sent_again_even_if_nothing_was_touched() {
    let contract = namecom();
    let refused_before = in_doubt(Some(error(ErrorCategory::AlreadyRefunded)));
    let events = after_attempt(&dispatching(), REPLAYED(), rules(&contract), now()).events;
    let contradicted = events.iter().fold(dispatching(), |refund, event| refund.apply(event, now()).unwrap());
    for refund in [refused_before, contradicted] {
        let (after, resend) = look_up(&refund, absent(Absence::Untouched), &contract, later(600));
        assert_eq!((after.state, resend), (State::NeedsReview, false));
    }
}

#[test]
fn a_review_keeps_what_its_last_lookup_saw_of_items() {
    let items = vec![ItemResult {
        item_id: "1".into(),
        state: ItemState::Succeeded,
        refunded_amount: None,
        message: String::new(),
        requested: true,
    }];
    let lookup = || Lookup::NotFound { evidence: "half".into(), items: items.clone(), absence: Absence::HalfDone };
    let decision = after_lookup(&in_doubt(None), lookup(), rules(&namecom()), later(600));
    assert!(matches!(decision.events.as_slice(), [Event::Checked(_), Event::Escalated { .. }]), "{decision:?}");
    let (after, _) = look_up(&in_doubt(None), lookup(), &namecom(), later(600));
    assert_eq!((after.state, &after.items), (State::NeedsReview, &items));
    // Items that were known before need no further event.
    let (known, _) = look_up(&in_doubt(None), lookup(), &namecom(), later(10));
    let decision = after_lookup(&known, lookup(), rules(&namecom()), later(600));
    assert!(matches!(decision.events.as_slice(), [Event::Escalated { .. }]), "{decision:?}");
}

/// Unprocessed attempts do not count towards the limit, so a deadline must end the resends.
#[test]
fn an_untouched_order_is_not_sent_again_for_ever() {
    let (contract, deadline) = (namecom(), MAX_DOUBT_WITHOUT_LOOKUP + 2 * SETTLE_TIME);
    let at = |before: Duration| now().saturating_add(deadline - before);
    let first = in_doubt(None);
    // A gateway that was stopped for longer still makes its one attempt.
    let (_, resend) = look_up(&first, absent(Absence::Untouched), &contract, now().saturating_add(deadline * 2));
    assert!(resend);
    for (before, expected, resend) in
        [(Duration::from_secs(1), State::InDoubt, true), (Duration::ZERO, State::NeedsReview, false)]
    {
        let refund = not_processed(&first, &contract, at(SETTLE_TIME * 2));
        assert_eq!((refund.state, refund.unanswered_attempts), (State::InDoubt, 1));
        let (after, is_sent) = look_up(&refund, absent(Absence::Untouched), &contract, at(before));
        assert_eq!((after.state, is_sent), (expected, resend));
    }
}

/// If a record is shown in between, the first absence no longer counts.
#[rstest]
#[case::shown(Some(Lookup::Found(unknown(DoubtReason::UnreadableReply))), 640, false)]
#[case::shown_and_a_settle_time_later(Some(Lookup::Found(unknown(DoubtReason::UnreadableReply))), 650, true)]
#[case::no_answer(Some(Lookup::unavailable("no connection")), 610, true)]
#[case::nothing_in_between(None, 610, true)]
fn two_absences_count_only_in_a_row(#[case] between: Option<Lookup>, #[case] last: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let lookups = [(10, Some(no_trace())), (30, between), (50, Some(no_trace()))];
    let refund = lookups.into_iter().fold(in_doubt(None), |refund, (seconds, lookup)| match lookup {
        Some(lookup) => look_up(&refund, lookup, &contract, later(seconds)).0,
        None => refund,
    });
    let (after, is_sent) = look_up(&refund, no_trace(), &contract, later(last));
    assert_eq!((after.state, is_sent), (State::InDoubt, resend));
}

/// After a settle time and two absences at the new place it needs a review. It is never sent again,
/// at any provider.
#[rstest]
fn a_refund_that_was_attempted_elsewhere_is_only_looked_up(
    #[values(State::InDoubt, State::Submitted)] state: State,
    #[values(sectigo(), namecom(), debitsuccess())] contract: RetryContract,
) {
    let refund = look_up(&in_state(state), no_trace(), &contract, later(10)).0;
    let refund = moved(&refund, "another", later(500));
    assert_eq!(refund.absent_since, None, "an absence at the old place proves nothing about the new one");
    assert!(!rules(&contract).may_resend(&refund, later(500)));
    assert_eq!(next_step(&refund, rules(&contract), later(500)), Step::LookUp);
    let (mut refund, mut next) = (refund, later(510));
    let mut lookups = Vec::new();
    while refund.state == state {
        let decision = after_lookup(&refund, absent(Absence::Untouched), rules(&contract), next);
        assert!(!decision.resend);
        lookups.push(next.saturating_duration_since(now()).as_secs());
        assert!(lookups.len() < 20, "it never ends: {lookups:?}");
        refund = decision.events.iter().fold(refund, |refund, event| refund.apply(event, next).unwrap());
        if refund.state == state {
            next = decision.next_check.unwrap();
        }
    }
    assert_eq!(refund.state, State::NeedsReview);
    let settled = if contract.lookup == LookupKind::Refund { 1_110 } else { 1_100 };
    assert_eq!(lookups.last(), Some(&settled), "as soon as the settle time is over: {lookups:?}");
    // A record that is found still decides.
    let found = Lookup::Found(Outcome::Refunded(Confirmation::default()));
    let (after, _) = look_up(&moved(&in_state(state), "another", now()), found, &contract, later(10));
    assert_eq!(after.state, State::Succeeded);
}

#[rstest]
#[case::another_host("https://other.example", "login", true)]
#[case::another_login("https://provider.example", "another", true)]
#[case::another_name("https://provider.example", "login", false)]
fn a_key_counts_only_at_its_own_host_and_login(
    #[case] endpoint: &str,
    #[case] login: &str,
    #[case] is_elsewhere: bool,
) {
    let refund = in_doubt(None);
    let place = Place { endpoint: endpoint.to_owned(), login: login.to_owned(), ..refund.place.clone() };
    let account = AccountName::parse("renamed").unwrap();
    let refund = refund.apply(&Event::Reassigned { account, place, evidence: "same".into() }, later(5)).unwrap();
    for (contract, key_is_bound, may_resend) in [
        (namecom(), true, !is_elsewhere),
        (namecom(), false, false),
        (debitsuccess(), false, !is_elsewhere),
        (sectigo(), true, false),
    ] {
        let rules = RetryRules { key_is_bound, ..rules(&contract) };
        assert_eq!(rules.may_resend(&refund, later(10)), may_resend, "{contract:?}, bound: {key_is_bound}");
        let is_replay = matches!(contract.deduplication, Deduplication::Replay { .. });
        let step = if may_resend && is_replay { Step::Resend } else { Step::LookUp };
        assert_eq!(next_step(&refund, rules, later(10)), step);
    }
}
