//! The retry contract: what makes a second send safe at a provider, and how a lost answer is
//! recovered.
//!
//! Each account has one, and the engine follows it. It holds at one host and login: the gateway
//! never resends what was attempted at another place.

use std::time::Duration;

use crate::domain::clock::Timestamp;

/// What a provider promises about a repeated request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryContract {
    pub deduplication: Deduplication,
    pub lookup: LookupKind,
    /// How long the provider may show "not refunded" after it has refunded, counted from the last
    /// attempt, or from a later change of host or login.
    pub settle_time: Duration,
}

/// What prevents a second effect of a repeated request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deduplication {
    /// Nothing (Sectigo): only a person may decide to send again.
    None,
    /// The same key and the same bytes get the first answer again (name.com), for a limited time
    /// and with one token only.
    Replay {
        /// Counted from the recorded first dispatch.
        key_lifetime: Duration,
    },
    /// The provider refuses a repeated identifier for ever (Debitsuccess 14143).
    Reject,
}

/// How a lost answer is recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupKind {
    /// From the order's state: "refunded" proves a refund, anything else proves nothing. An absence
    /// is proven by what a refund destroys first and is still there
    /// ([`super::outcome::Absence::Untouched`]).
    TargetState,
    /// From the refund's own record at the provider.
    Refund,
}

impl RetryContract {
    /// Whether a second send now has no second effect at the provider. The first attempt was
    /// recorded at `first_dispatch`.
    pub fn resend_safe(&self, first_dispatch: Timestamp, now: Timestamp) -> bool {
        match self.deduplication {
            Deduplication::None => false,
            // A clock set back would make a key look younger than it is.
            Deduplication::Replay { key_lifetime } => {
                now >= first_dispatch && now.saturating_duration_since(first_dispatch) < key_lifetime
            }
            Deduplication::Reject => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Deduplication::None, 0, false)]
    #[case(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) }, 0, true)]
    #[case(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) }, 2999, true)]
    #[case(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) }, 3000, false)]
    #[case(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) }, -1, false)]
    #[case(Deduplication::Reject, 1_000_000, true)]
    fn a_resend_is_safe_while_the_key_lives(
        #[case] deduplication: Deduplication,
        #[case] age: i64,
        #[case] safe: bool,
    ) {
        let contract =
            RetryContract { deduplication, lookup: LookupKind::Refund, settle_time: Duration::from_secs(600) };
        let first = Timestamp::from_seconds(1_000_000);
        assert_eq!(contract.resend_safe(first, Timestamp::from_seconds(1_000_000 + age)), safe);
    }
}
