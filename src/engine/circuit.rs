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
//! Only a look tries an account that is shut: it moves no money, and leaves no doubt.

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
}

#[derive(Debug)]
enum Position {
    Closed { failures: u32, strangers: Vec<String> },
    HalfOpen { pause: Duration, under_way: bool },
    Open { why: AccountHealth, pause: Duration, until: Instant },
}

impl Stance {
    /// The word used in the metrics.
    pub(super) const fn position(self) -> &'static str {
        match self {
            Stance::Free => "closed",
            Stance::Trial | Stance::TrialUnderWay => "half_open",
            Stance::Probe | Stance::Shut(_) => "open",
        }
    }
}

impl Circuit {
    pub(super) fn new(settings: CircuitSettings) -> Self {
        Self { settings, position: Position::Closed { failures: 0, strangers: Vec::new() } }
    }

    pub(super) fn health(&self) -> AccountHealth {
        match self.position {
            Position::Closed { .. } | Position::HalfOpen { .. } => AccountHealth::Serving,
            Position::Open { why, .. } => why,
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

    /// A refund is about to be recorded as sent. Where only one may be, this one is it.
    pub(super) fn take_turn(&mut self) -> bool {
        match &mut self.position {
            Position::Closed { .. } => true,
            Position::HalfOpen { under_way, .. } => !std::mem::replace(under_way, true),
            Position::Open { .. } => false,
        }
    }

    /// The refund that took its turn was not sent after all.
    pub(super) fn give_turn_back(&mut self) {
        if let Position::HalfOpen { under_way, .. } = &mut self.position {
            *under_way = false;
        }
    }

    /// What the answer to an attempt told.
    pub(super) fn note(&mut self, sign: Sign, now: Instant) {
        let CircuitSettings { failures: most_failures, strangers: most_strangers, shortest_pause, .. } = self.settings;
        match &mut self.position {
            // What was on its way when it was shut says nothing new.
            Position::Open { .. } => {}
            Position::HalfOpen { pause, .. } => {
                let longer = pause.saturating_mul(2).min(self.settings.longest_pause);
                match sign {
                    Sign::Works | Sign::NotOurs(_) => self.close(),
                    Sign::CredentialsRefused => self.open(AccountHealth::CredentialsRefused, longer, now),
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

    /// A look at the provider was answered: one refund may try whether more is possible.
    pub(super) fn note_look_answered(&mut self) {
        if let Position::Open { pause, .. } = self.position {
            self.position = Position::HalfOpen { pause, under_way: false };
        }
    }

    /// The look that was due was not answered.
    pub(super) fn note_probe_failed(&mut self, now: Instant) {
        if let Position::Open { why, pause, .. } = self.position {
            self.open(why, pause.saturating_mul(2).min(self.settings.longest_pause), now);
        }
    }

    fn close(&mut self) {
        self.position = Position::Closed { failures: 0, strangers: Vec::new() };
    }

    fn open(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.position = Position::Open { why, pause, until: now + pause };
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
            circuit.note(sign, Instant::now());
        }
        assert_eq!(circuit.health(), health);
        assert_eq!(circuit.take_turn(), health == AccountHealth::Serving);
    }

    #[test]
    fn a_look_opens_it_for_one_refund_and_that_one_decides() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.note(Sign::CredentialsRefused, begin);
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(5)));
        assert_eq!(circuit.stance(begin + Duration::from_secs(5)), Stance::Probe);
        circuit.note_look_answered();
        assert_eq!(circuit.stance(begin), Stance::Trial);
        assert!(circuit.take_turn());
        assert!(!circuit.take_turn(), "one, and no more");
        assert_eq!(circuit.stance(begin), Stance::TrialUnderWay);
        circuit.note(Sign::Fails, begin);
        assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(10)), "for longer");
        circuit.note_look_answered();
        assert!(circuit.take_turn());
        circuit.give_turn_back();
        assert!(circuit.take_turn());
        circuit.note(Sign::Works, begin);
        assert_eq!(circuit.stance(begin), Stance::Free);
    }

    #[test]
    fn probes_become_rarer_and_never_end() {
        let (mut circuit, begin) = (Circuit::new(SETTINGS), Instant::now());
        circuit.note(Sign::CredentialsRefused, begin);
        for seconds in [10, 20, 20] {
            circuit.note_probe_failed(begin);
            assert_eq!(circuit.stance(begin), Stance::Shut(begin + Duration::from_secs(seconds)));
        }
        assert_eq!(circuit.health(), AccountHealth::CredentialsRefused);
    }
}
