//! Whether an account is sent refunds at all. It does no I/O and reads no clock.
//!
//! ```text
//!            credentials refused, or a streak of failures
//!   CLOSED ---------------------------------------------------> OPEN    nothing is sent; after a pause, a look
//!     ^                                                          |  ^
//!     | it was answered                  a look was answered     |  | it failed; the pause is doubled
//!     |                                                          v  |
//!     +------------------------------------------------------- HALF OPEN   one refund is sent
//! ```
//!
//! What was sent before the account was last shut decides nothing, however late it is answered.
//!
//! Only a lookup tests an account in OPEN: it moves no money, and leaves no doubt.
//!
//! An account whose lookups are answered and whose refunds are refused stays CREDENTIALS_REFUSED
//! until a refund is not refused. Lookups in between do not shorten the pause before the next
//! trial.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::AccountHealth;

/// When an account is shut, and when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSettings {
    /// So many attempts on end of which nothing was heard, and the account is shut. At least 1.
    pub failures: u32,
    /// So many different targets on end that the provider says are not this account's, and its credentials are doubted. At least 1.
    pub strangers: usize,
    /// Until it is tried for the first time.
    pub shortest_pause: Duration,
    /// However often it was tried in vain.
    pub longest_pause: Duration,
}

/// What an answer tells of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// The provider has looked at the request itself.
    Works,
    /// It does not know the login, or not from here.
    CredentialsRefused,
    /// It says that the target is not this account's: a wrong target, or a wrong login.
    NotOurs(String),
    /// Nothing was heard, or nothing that can be believed.
    Fails,
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// Everything.
    Free,
    /// One refund may be sent.
    Trial,
    /// One refund is on its way, and its answer decides.
    TrialUnderWay,
    /// Nothing may be sent; a look is due.
    Probe,
    /// Nothing at all until then.
    Shut(Instant),
}

/// One account's circuit.
#[derive(Debug)]
pub(super) struct Circuit {
    settings: CircuitSettings,
    position: Position,
    era: Era,
}

/// Between one shutting of the account and the next. What was on its way when it was shut says nothing new, however late it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era(u64);

#[derive(Debug)]
enum Position {
    Closed { failures: u32, strangers: Vec<String> },
    HalfOpen { pause: Duration, under_way: bool, is_read_only: bool },
    Open { why: AccountHealth, pause: Duration, until: Instant, is_read_only: bool },
}

impl Circuit {
    pub(super) fn new(settings: CircuitSettings) -> Self {
        Self { settings, position: Position::Closed { failures: 0, strangers: Vec::new() }, era: Era(0) }
    }

    pub(super) fn health(&self) -> AccountHealth {
        match self.position {
            Position::HalfOpen { is_read_only: true, .. } => AccountHealth::CredentialsRefused,
            Position::Closed { .. } | Position::HalfOpen { .. } => AccountHealth::Serving,
            Position::Open { why, .. } => why,
        }
    }

    /// By its last answers, the provider accepts the login for lookups and refuses it for refunds.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(
            self.position,
            Position::HalfOpen { is_read_only: true, .. } | Position::Open { is_read_only: true, .. }
        )
    }

    /// The label used in the metrics.
    pub(super) fn position(&self, now: Instant) -> &'static str {
        match self.stance(now) {
            Stance::Free => "closed",
            // The trials of a read-only account are expected to fail, so it is shown as open
            // throughout.
            Stance::Trial | Stance::TrialUnderWay if !self.is_read_only() => "half_open",
            _ => "open",
        }
    }

    pub(super) fn stance(&self, now: Instant) -> Stance {
        match self.position {
            Position::Closed { .. } => Stance::Free,
            Position::HalfOpen { under_way: false, .. } => Stance::Trial,
            Position::HalfOpen { under_way: true, .. } => Stance::TrialUnderWay,
            Position::Open { until, .. } if until <= now => Stance::Probe,
            Position::Open { until, .. } => Stance::Shut(until),
        }
    }

    /// The present one, to be noted with what is sent in it.
    pub(super) fn era(&self) -> Era {
        self.era
    }

    /// A refund is about to be recorded as sent. Where only one may be, this one is it; none where none may be.
    pub(super) fn take_turn(&mut self) -> Option<Era> {
        let has_turn = match &mut self.position {
            Position::Closed { .. } => true,
            Position::HalfOpen { under_way, .. } => !std::mem::replace(under_way, true),
            Position::Open { .. } => false,
        };
        has_turn.then_some(self.era)
    }

    /// The refund that took its turn in `era` was not sent after all.
    pub(super) fn give_turn_back(&mut self, era: Era) {
        if let Position::HalfOpen { under_way, .. } = &mut self.position
            && era == self.era
        {
            *under_way = false;
        }
    }

    /// What the answer to an attempt that was sent in `era` told.
    pub(super) fn note(&mut self, era: Era, sign: Sign, now: Instant) {
        if era != self.era {
            return;
        }
        let CircuitSettings { failures: most_failures, strangers: most_strangers, shortest_pause, .. } = self.settings;
        match &mut self.position {
            Position::Open { .. } => {}
            Position::HalfOpen { pause, .. } => {
                let pause = *pause;
                let longer = self.longer(pause);
                match sign {
                    Sign::Works | Sign::NotOurs(_) => self.close(),
                    // HALF OPEN follows an answered lookup, so only refunds are refused.
                    Sign::CredentialsRefused => {
                        self.open(AccountHealth::CredentialsRefused, longer, now);
                        if let Position::Open { is_read_only, .. } = &mut self.position {
                            *is_read_only = true;
                        }
                    }
                    Sign::Fails => self.open(AccountHealth::Suspended, longer, now),
                }
            }
            Position::Closed { failures, strangers } => match sign {
                Sign::Works => self.close(),
                Sign::CredentialsRefused => self.open(AccountHealth::CredentialsRefused, shortest_pause, now),
                Sign::NotOurs(target) => {
                    *failures = 0;
                    if !strangers.contains(&target) {
                        strangers.push(target);
                    }
                    // One caller's wrong order number, however often it is sent, must not shut everybody out.
                    if strangers.len() >= most_strangers {
                        self.open(AccountHealth::CredentialsRefused, shortest_pause, now);
                    }
                }
                Sign::Fails => {
                    *failures = failures.saturating_add(1);
                    if *failures >= most_failures {
                        self.open(AccountHealth::Suspended, shortest_pause, now);
                    }
                }
            },
        }
    }

    /// What a look at the provider told. Where it answers, one refund may try whether more is possible; the look that was due, and was in
    /// vain, is made again later.
    pub(super) fn note_look(&mut self, sign: &Sign, is_due: bool, now: Instant) {
        let Position::Open { why, pause, is_read_only, .. } = self.position else { return };
        if is_read_only && !is_due {
            return;
        }
        let answers = match sign {
            Sign::Works => true,
            // It is there again. Whether it takes the login is what this answer does not tell.
            Sign::NotOurs(_) => why == AccountHealth::Suspended,
            Sign::CredentialsRefused | Sign::Fails => false,
        };
        if answers {
            self.position = Position::HalfOpen { pause, under_way: false, is_read_only };
        } else if is_due {
            self.wait(why, self.longer(pause), now);
            if let Position::Open { is_read_only: kept, .. } = &mut self.position {
                *kept = is_read_only;
            }
        }
    }

    /// The refused secret is no longer used: a lookup is due now to test the new one, and the
    /// pauses start over.
    pub(super) fn credentials_changed(&mut self, now: Instant) {
        if let Position::Open { why: AccountHealth::CredentialsRefused, pause, until, is_read_only } =
            &mut self.position
        {
            (*pause, *until, *is_read_only) = (self.settings.shortest_pause, now, false);
        }
    }

    fn longer(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).min(self.settings.longest_pause)
    }

    fn close(&mut self) {
        self.position = Position::Closed { failures: 0, strangers: Vec::new() };
    }

    fn open(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.era.0 += 1;
        self.wait(why, pause, now);
    }

    fn wait(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.position = Position::Open { why, pause, until: now + pause, is_read_only: false };
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SETTINGS: CircuitSettings = CircuitSettings {
        failures: 3,
        strangers: 2,
        shortest_pause: Duration::from_secs(5),
        longest_pause: Duration::from_secs(20),
    };

    fn stranger(target: &str) -> Sign {
        Sign::NotOurs(target.to_owned())
    }

    #[rstest]
    #[case::a_refused_login_at_once(vec![Sign::CredentialsRefused], AccountHealth::CredentialsRefused)]
    #[case::a_streak(vec![Sign::Fails, Sign::Fails, Sign::Fails], AccountHealth::Suspended)]
    #[case::a_streak_broken(vec![Sign::Fails, Sign::Fails, Sign::Works, Sign::Fails], AccountHealth::Serving)]
    #[case::one_wrong_order_for_ever(vec![stranger("1"); 50], AccountHealth::Serving)]
    #[case::different_wrong_orders(vec![stranger("1"), stranger("1"), stranger("2")], AccountHealth::CredentialsRefused)]
    #[case::a_success_between(vec![stranger("1"), Sign::Works, stranger("2")], AccountHealth::Serving)]
    fn it_is_shut_by(#[case] signs: Vec<Sign>, #[case] health: AccountHealth) {
        let mut circuit = Circuit::new(SETTINGS);
        for sign in signs {
            circuit.note(circuit.era(), sign, Instant::now());
        }
        assert_eq!(circuit.health(), health);
        assert_eq!(circuit.take_turn().is_some(), health == AccountHealth::Serving);
    }

    #[test]
    fn a_look_opens_it_for_one_refund_and_that_one_decides() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Sign::CredentialsRefused, begin);
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(5)));
        assert_eq!(circuit.stance(begin + Duration::from_secs(5)), Stance::Probe);
        circuit.note_look(&Sign::Works, false, begin);
        assert_eq!(circuit.stance(begin), Stance::Trial);
        let trial = circuit.take_turn().unwrap();
        assert_eq!(circuit.take_turn(), None, "one, and no more");
        assert_eq!(circuit.stance(begin), Stance::TrialUnderWay);
        circuit.note(trial, Sign::Fails, begin);
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(10)), "for longer");
        circuit.note_look(&Sign::Works, false, begin);
        let trial = circuit.take_turn().unwrap();
        circuit.give_turn_back(trial);
        let trial = circuit.take_turn().unwrap();
        circuit.note(trial, Sign::Works, begin);
        assert_eq!(circuit.stance(begin), Stance::Free);
    }

    /// Many attempts stall together, and are given up one after the other, long after the first of them have shut the account.
    #[rstest]
    fn what_was_sent_before_it_was_shut_decides_nothing(#[values(Sign::Fails, Sign::Works)] late: Sign) {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        let before = circuit.take_turn().unwrap();
        for _ in 0..SETTINGS.failures {
            circuit.note(before, Sign::Fails, begin);
        }
        circuit.note_look(&Sign::Works, true, begin);
        circuit.note(before, late.clone(), begin);
        assert_eq!(circuit.stance(begin), Stance::Trial);
        let trial = circuit.take_turn().unwrap();
        circuit.note(before, late, begin);
        circuit.give_turn_back(before);
        assert_eq!(circuit.stance(begin), Stance::TrialUnderWay);
        circuit.note(trial, Sign::Works, begin);
        for _ in 0..SETTINGS.failures {
            circuit.note(before, Sign::Fails, begin);
        }
        assert_eq!(circuit.stance(begin), Stance::Free);
    }

    /// With wrong order numbers first in the queue nothing else would ever be sent again.
    #[rstest]
    #[case::after_an_outage(Sign::Fails, Stance::Trial)]
    #[case::while_the_login_is_in_doubt(Sign::CredentialsRefused, Stance::Shut(Instant::now()))]
    fn an_answer_about_somebody_elses_order_shows_that_the_provider_is_there(
        #[case] shut_by: Sign,
        #[case] expected: Stance,
    ) {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        for _ in 0..SETTINGS.failures {
            circuit.note(Era(0), shut_by.clone(), begin);
        }
        circuit.note_look(&stranger("1"), true, begin);
        assert_eq!(circuit.stance(begin) == Stance::Trial, expected == Stance::Trial);
    }

    #[rstest]
    #[case::refused(Sign::CredentialsRefused, Stance::Probe, 10)]
    #[case::suspended(Sign::Fails, Stance::Shut(Instant::now()), 20)]
    fn a_new_secret_is_tried_at_once_where_the_one_before_was_refused(
        #[case] shut_by: Sign,
        #[case] expected: Stance,
        #[case] then_seconds: u64,
    ) {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.credentials_changed(begin);
        assert_eq!(circuit.stance(begin), Stance::Free);
        for _ in 0..SETTINGS.failures {
            circuit.note(circuit.era(), shut_by.clone(), begin);
        }
        circuit.note_look(&Sign::Fails, true, begin);
        circuit.credentials_changed(begin);
        assert_eq!(std::mem::discriminant(&circuit.stance(begin)), std::mem::discriminant(&expected));
        circuit.note_look(&Sign::Fails, true, begin);
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(then_seconds)));
    }

    /// Observed at name.com: a token that may read orders and not refund them.
    #[test]
    fn a_read_only_account_does_not_flap() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Sign::CredentialsRefused, begin);
        circuit.note_look(&Sign::Works, false, begin);
        let trial = circuit.take_turn().unwrap();
        circuit.note(trial, Sign::CredentialsRefused, begin);
        let mut now = begin;
        for pause in [10, 20, 20, 20] {
            for _ in 0..5 {
                circuit.note_look(&Sign::Works, false, now);
                assert_eq!(
                    circuit.stance(now),
                    Stance::Shut(now + Duration::from_secs(pause)),
                    "other lookups say nothing"
                );
            }
            now += Duration::from_secs(pause);
            circuit.note_look(&Sign::Works, true, now);
            assert_eq!(circuit.stance(now), Stance::Trial);
            assert_eq!((circuit.health(), circuit.position(now)), (AccountHealth::CredentialsRefused, "open"));
            let trial = circuit.take_turn().unwrap();
            circuit.note(trial, Sign::CredentialsRefused, now);
        }
        circuit.note_look(&Sign::Works, true, now + Duration::from_secs(20));
        let trial = circuit.take_turn().unwrap();
        circuit.note(trial, Sign::Works, now);
        assert_eq!((circuit.health(), circuit.stance(now)), (AccountHealth::Serving, Stance::Free));
    }

    #[test]
    fn looks_in_vain_become_rarer_and_never_end() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Sign::CredentialsRefused, begin);
        for seconds in [10, 20, 20] {
            circuit.note_look(&Sign::Fails, true, begin);
            assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(seconds)));
        }
        circuit.note_look(&Sign::Fails, false, begin + Duration::from_secs(1));
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(20)), "not the look that was due");
        assert_eq!(circuit.health(), AccountHealth::CredentialsRefused);
    }

    /// What the metrics show. Read-only is an account that answers lookups and refuses refunds.
    #[test]
    fn a_suspended_account_is_shown_as_it_comes_back() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        let shown = |circuit: &Circuit| (circuit.position(begin), circuit.is_read_only());
        assert_eq!(shown(&circuit), ("closed", false));
        for _ in 0..SETTINGS.failures {
            circuit.note(circuit.era(), Sign::Fails, begin);
        }
        assert_eq!(shown(&circuit), ("open", false));
        circuit.note_look(&Sign::Works, true, begin);
        assert_eq!(shown(&circuit), ("half_open", false));
        let trial = circuit.take_turn().unwrap();
        assert_eq!(shown(&circuit), ("half_open", false), "the trial is under way");
        circuit.note(trial, Sign::CredentialsRefused, begin);
        assert_eq!(shown(&circuit), ("open", true));
    }
}
