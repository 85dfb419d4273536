//! What it means that a provider shows no trace: only in a row, only where it was asked, and only a
//! settle time later.

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

fn looked(refund: &Refund, lookup: Lookup, contract: &RetryContract, at: Timestamp) -> (Refund, bool) {
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
#[case::the_key_lives(Absence::Untouched, 2_999, true, State::InDoubt, false)]
#[case::the_key_is_dead(Absence::Untouched, 3_000, true, State::InDoubt, true)]
#[case::another_secret(Absence::Untouched, 600, false, State::InDoubt, true)]
#[case::before_the_settle_time(Absence::Untouched, 599, false, State::InDoubt, false)]
#[case::half_done_too_early(Absence::HalfDone, 599, true, State::InDoubt, false)]
#[case::half_done(Absence::HalfDone, 600, true, State::NeedsReview, false)]
#[case::unproven_while_the_key_lives(Absence::Unproven, 2_999, true, State::InDoubt, false)]
#[case::unproven(Absence::Unproven, 3_000, true, State::NeedsReview, false)]
#[case::unproven_and_another_secret(Absence::Unproven, 600, false, State::NeedsReview, false)]
fn the_domains_of_an_order_tell(
    #[case] absence: Absence,
    #[case] seconds: u64,
    #[case] key_is_bound: bool,
    #[case] expected: State,
    #[case] resend: bool,
) {
    let (contract, refund) = (namecom(), doubted_by(None));
    let decide = |refund: &Refund, contract| {
        let rules = RetryRules { key_is_bound, ..rules(contract) };
        let decision = after_lookup(refund, absent(absence), rules, later(seconds));
        (end(refund, &decision.events), decision.resend)
    };
    assert_eq!(decide(&refund, &contract), (expected, resend));
    // Never after a change of place, and never where nothing keeps a resend from a second effect.
    let elsewhere = moved(&refund, "another", now());
    let should_stop = if seconds < 600 { State::InDoubt } else { State::NeedsReview };
    assert_eq!(decide(&elsewhere, &contract), (should_stop, false));
    assert_eq!(decide(&refund, &sectigo()), (should_stop, false));
}

#[test]
fn a_place_that_does_not_answer_is_asked_for_days_also_after_a_move() {
    let (contract, refund) = (sectigo(), doubted_by(None));
    let silence = MAX_DOUBT_WITHOUT_LOOKUP.as_secs();
    let moved = moved(&refund, "another", later(silence));
    let after = |refund: &Refund, seconds| {
        let decision = after_lookup(refund, Lookup::unavailable("no answer"), rules(&contract), later(seconds));
        end(refund, &decision.events)
    };
    assert_eq!((after(&refund, silence - 1), after(&refund, silence)), (State::InDoubt, State::NeedsReview));
    assert_eq!((after(&moved, 2 * silence - 1), after(&moved, 2 * silence)), (State::InDoubt, State::NeedsReview));
}

#[test]
fn what_was_refused_or_contradicted_is_not_sent_again_though_nothing_was_touched() {
    let contract = namecom();
    let told_no = doubted_by(Some(error(ErrorCategory::AlreadyRefunded)));
    let events = after_attempt(&dispatching(), REPLAYED(), rules(&contract), now()).events;
    let contradicted = events.iter().fold(dispatching(), |refund, event| refund.apply(event, now()).unwrap());
    for refund in [told_no, contradicted] {
        let (after, resend) = looked(&refund, absent(Absence::Untouched), &contract, later(600));
        assert_eq!((after.state, resend), (State::NeedsReview, false));
    }
}

/// What was seen of the items is worth more than the sentence.
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
    let decision = after_lookup(&doubted_by(None), lookup(), rules(&namecom()), later(600));
    assert!(matches!(decision.events.as_slice(), [Event::Checked(_), Event::Escalated { .. }]), "{decision:?}");
    let (after, _) = looked(&doubted_by(None), lookup(), &namecom(), later(600));
    assert_eq!((after.state, &after.items), (State::NeedsReview, &items));
    // Known before: one line is enough.
    let (known, _) = looked(&doubted_by(None), lookup(), &namecom(), later(10));
    let decision = after_lookup(&known, lookup(), rules(&namecom()), later(600));
    assert!(matches!(decision.events.as_slice(), [Event::Escalated { .. }]), "{decision:?}");
}

/// Nothing is taken for days: what is not processed uses up no attempt, so time must end it.
#[test]
fn an_order_that_stays_untouched_is_not_sent_without_end() {
    let (contract, patience) = (namecom(), MAX_DOUBT_WITHOUT_LOOKUP + 2 * SETTLE);
    let at = |before: Duration| now().saturating_add(patience - before);
    let first = doubted_by(None);
    // A gateway that was stopped for a week makes its one attempt all the same.
    let (_, resend) = looked(&first, absent(Absence::Untouched), &contract, now().saturating_add(patience * 2));
    assert!(resend);
    for (before, expected, resend) in
        [(Duration::from_secs(1), State::InDoubt, true), (Duration::ZERO, State::NeedsReview, false)]
    {
        let refund = not_processed(&first, &contract, at(SETTLE * 2));
        assert_eq!((refund.state, refund.unanswered_attempts), (State::InDoubt, 1));
        let (after, is_sent) = looked(&refund, absent(Absence::Untouched), &contract, at(before));
        assert_eq!((after.state, is_sent), (expected, resend));
    }
}

/// A record that is shown in between was there: the first absence counts no more.
#[rstest]
#[case::shown(Some(Lookup::Found(unknown(DoubtReason::UnreadableReply))), 640, false)]
#[case::shown_and_a_settle_time_later(Some(Lookup::Found(unknown(DoubtReason::UnreadableReply))), 650, true)]
#[case::no_answer(Some(Lookup::unavailable("no connection")), 610, true)]
#[case::nothing_in_between(None, 610, true)]
fn two_absences_count_in_a_row_alone(#[case] between: Option<Lookup>, #[case] last: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let lookups = [(10, Some(nothing_there())), (30, between), (50, Some(nothing_there()))];
    let refund = lookups.into_iter().fold(doubted_by(None), |refund, (seconds, lookup)| match lookup {
        Some(lookup) => looked(&refund, lookup, &contract, later(seconds)).0,
        None => refund,
    });
    let (after, is_sent) = looked(&refund, nothing_there(), &contract, later(last));
    assert_eq!((after.state, is_sent), (State::InDoubt, resend));
}

/// A settle time and two absences at the new place, and then it is a person's: never sent again, at
/// any provider.
#[rstest]
fn what_was_attempted_elsewhere_is_only_looked_up(
    #[values(State::InDoubt, State::Submitted)] state: State,
    #[values(sectigo(), namecom(), debitsuccess())] contract: RetryContract,
) {
    let refund = looked(&in_state(state), nothing_there(), &contract, later(10)).0;
    let refund = moved(&refund, "another", later(500));
    assert_eq!(refund.absent_since, None, "what the old place did not show says nothing of the new one");
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
    assert_eq!(lookups.last(), Some(&settled), "as soon as it means something: {lookups:?}");
    // A record found settles it all the same.
    let found = Lookup::Found(Outcome::Refunded(Confirmation::default()));
    let (after, _) = looked(&moved(&in_state(state), "another", now()), found, &contract, later(10));
    assert_eq!(after.state, State::Succeeded);
}

/// The host alone is another; or neither, and the account has another name.
#[rstest]
#[case::another_host("https://other.example", "login", true)]
#[case::another_login("https://provider.example", "another", true)]
#[case::another_name("https://provider.example", "login", false)]
fn a_key_counts_at_its_own_host_and_login(#[case] endpoint: &str, #[case] login: &str, #[case] is_elsewhere: bool) {
    let refund = doubted_by(None);
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
