//! The retry contract: what makes a second send safe at a provider, and how a lost answer is found
//! again.
//!
//! It is a value, one for each account; the engine obeys it and nothing else. It holds at one host
//! and login: what was attempted at another place is never sent again by the gateway.

use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::ids::ProviderKind;

/// What a provider promises about a request that comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryContract {
    /// What stops a second effect.
    pub deduplication: Deduplication,
    /// How a lost answer is found again.
    pub lookup: LookupKind,
    /// How long "not refunded" may lag behind the truth, counted from the last attempt, or from a
    /// change of host or login after it.
    pub settle_time: Duration,
}

/// What stops a second effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deduplication {
    /// Nothing (Sectigo): only a person may send again.
    None,
    /// The same key and the same bytes get the first answer again (name.com), for this long and for
    /// one token.
    Replay {
        /// Counted from the recorded first dispatch.
        key_lifetime: Duration,
    },
    /// The same identifier is refused for ever (Debitsuccess 14143).
    Reject,
}

/// How a lost answer is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupKind {
    /// The order's state proves a refund where it says "refunded"; its silence proves nothing. An
    /// absence is proven by what a refund destroys first and is still there
    /// ([`super::outcome::Absence::Untouched`]).
    TargetState,
    /// The refund itself can be asked for.
    Refund,
}

/// How long "not refunded" may lag behind the truth where nothing is configured: Sectigo's order
/// status lags by an unknown time.
pub const fn default_settle_time(provider: ProviderKind) -> Duration {
    match provider {
        ProviderKind::Sectigo => Duration::from_secs(24 * 3_600),
        ProviderKind::Namecom | ProviderKind::Debitsuccess => Duration::from_secs(600),
    }
}

impl RetryContract {
    /// Whether the provider itself would keep a second send from a second effect now, the first
    /// having been recorded at `first_dispatch`.
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
