//! An attempt that a start found on its way: its request may still reach the provider, so it is
//! looked up, and sent again only when that request has ended.

use super::*;
use crate::domain::outcome::Absence;

/// The rules for a request that may take 60 seconds, so many seconds after it was recorded.
fn rules_at(contract: &RetryContract, seconds: u64) -> RetryRules<'_> {
    RetryRules { jumpless_now: later(seconds), ..rules(contract) }
}

fn interrupted() -> Refund {
    dispatching().apply(&Event::Interrupted, later(1)).unwrap()
}

/// As after a resend that was recorded and not sent any more.
fn abandoned() -> Refund {
    let again = interrupted().apply(&Event::Dispatched { credential: None }, later(70)).unwrap();
    let contract = namecom();
    let abandoned = after_delay(&again, DoubtReason::GatewayRestarted, rules(&contract), later(70));
    abandoned.events.iter().fold(again, |refund, event| refund.apply(event, later(70)).unwrap())
}

/// As after a second attempt, 70 seconds after the first, that was interrupted too.
fn interrupted_again() -> Refund {
    let again = interrupted().apply(&Event::Dispatched { credential: None }, later(70)).unwrap();
    again.apply(&Event::Interrupted, later(71)).unwrap()
}

#[rstest]
#[case::just_interrupted(interrupted(), 1, false)]
#[case::on_its_way(interrupted(), 59, false)]
#[case::ended(interrupted(), 60, true)]
#[case::no_answer_in_time(in_doubt(None), 1, true)]
#[case::recorded_and_not_sent(abandoned(), 71, true)]
#[case::counted_from_the_last_attempt(interrupted_again(), 129, false)]
#[case::last_attempt_ended(interrupted_again(), 130, true)]
fn nothing_is_sent_again_while_an_interrupted_request_may_be_on_its_way(
    #[case] refund: Refund,
    #[case] seconds: u64,
    #[case] has_ended: bool,
) {
    let contract = namecom();
    let rules = rules_at(&contract, seconds);
    assert_eq!(rules.may_resend(&refund, later(seconds)), has_ended);
    let step = if has_ended { Step::Resend } else { Step::LookUp };
    assert_eq!(next_step(&refund, rules, later(seconds)), step);
}

/// The lookups of the schedule are made, and one more when the request has ended.
#[rstest]
#[case::at_the_start(1, 11)]
#[case::by_the_schedule(11, 31)]
#[case::when_it_ends(31, 60)]
#[case::after_its_end(60, 121)]
fn the_next_check_is_not_later_than_the_end_of_the_request(#[case] seconds: u64, #[case] next: u64) {
    let contract = namecom();
    let decision = after_lookup(&interrupted(), no_trace(), rules_at(&contract, seconds), later(seconds));
    assert_eq!((decision.next_check, decision.resend), (Some(later(next)), false));
}

/// With a settle time that is shorter than a request may take.
#[rstest]
#[case::untouched(namecom(), false)]
#[case::no_record(debitsuccess(), true)]
fn a_lookup_proves_no_absence_while_the_request_may_be_on_its_way(
    #[case] contract: RetryContract,
    #[case] key_is_bound: bool,
) {
    let contract = RetryContract { settle_time: Duration::from_secs(10), ..contract };
    let untouched =
        || Lookup::NotFound { evidence: "untouched".into(), items: Vec::new(), absence: Absence::Untouched };
    let absent = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let refund = interrupted().apply(&absent, later(2)).unwrap();
    for (seconds, resend, next) in [(40, false, 60), (60, true, 121)] {
        let rules = RetryRules { key_is_bound, ..rules_at(&contract, seconds) };
        let decision = after_lookup(&refund, untouched(), rules, later(seconds));
        assert_eq!(state_after(&refund, &decision.events), State::InDoubt);
        assert_eq!((decision.resend, decision.next_check), (resend, Some(later(next))), "after {seconds} s");
    }
}

/// The wall clock has jumped forward since the start: the request is not older by that.
#[test]
fn a_clock_that_jumps_forward_ends_no_request() {
    let contract = namecom();
    let rules = rules_at(&contract, 20);
    assert_eq!(next_step(&interrupted(), rules, later(1_000)), Step::LookUp);
    let decision = after_lookup(&interrupted(), no_trace(), rules, later(1_000));
    assert_eq!((decision.next_check, decision.resend), (Some(later(1_040)), false));
}
