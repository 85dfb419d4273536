//! Lookups: one read of the provider about one refund, and what it leads to.

use tracing::{Instrument as _, info};

use crate::domain::authority::Actor;
use crate::domain::clock::Clock as _;
use crate::domain::outcome::{AccountSignal, Lookup};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::core::EngineCore;
use crate::engine::decide::{self, Decision};
use crate::engine::outcome_log::log_lookup;
use crate::engine::spans;
use crate::ledger::{LedgerError, Recorded};

/// Looks a refund up and records what that shows. Returns the refund as it is then, and whether the
/// lookup has proven that one more attempt is safe.
///
/// # Errors
/// Those of the ledger.
pub(super) async fn look_up_and_record(
    core: &EngineCore,
    account: &AccountRuntime,
    mut refund: Refund,
    actor: &Actor,
) -> Result<(Refund, bool), LedgerError> {
    account.rate_limiter.acquire().await;
    let asked = core.clock.now();
    let taken = match decide::may_take_too_long(&refund, asked) {
        true => core.ledger.entered_state_at(refund.id(), State::Submitted).await?,
        false => None,
    };
    let lookup = ask_provider(account, &refund).await;
    account.recent_lookups.record(refund.id());
    reread_refused_secret(account, &lookup);
    account.record_lookup(lookup.account_signal(), false);
    loop {
        let rules = core.rules(account, &refund);
        let Decision { events, next_check, resend } =
            decide::after_lookup(&refund, lookup.clone(), taken, rules, asked, core.clock.now());
        let recorded = if events.is_empty() {
            // A refund without a next lookup has no missed one to repeat.
            let unheard = next_check.is_some() && matches!(lookup, Lookup::Unavailable { .. });
            core.reschedule(&refund, next_check, unheard).await.map(|refund| (refund, None))
        } else {
            let recorded = core.record(&refund, events, next_check, actor).await;
            recorded.map(|Recorded { outcome, sequence }| (outcome, Some(sequence)))
        };
        match recorded {
            Ok((recorded, sequence)) => {
                log_lookup(&refund, &recorded, &lookup, sequence);
                return Ok((recorded, resend));
            }
            // Another lookup was recorded first and decided nothing: what this one found must not
            // be lost.
            Err(LedgerError::StaleRevision { present }) if present.has_same_attempt(&refund) => refund = *present,
            // The refund has changed in the meantime: what this lookup found is outdated.
            Err(LedgerError::StaleRevision { present }) => return Ok((*present, false)),
            // A later refund of the same target exists, so the order cannot show whose refund it
            // was.
            Err(LedgerError::TargetHasRefund { .. }) => {
                let next = asked.saturating_add(core.settings.schedule.then_every);
                let follow_up = Some(next).filter(|next| refund.is_followed(*next));
                return Ok((core.reschedule(&refund, follow_up, false).await?, false));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tests an account whose circuit breaker is open, by looking up a refund that waits to be sent.
pub(super) async fn probe_suspended(core: &EngineCore, account: &AccountRuntime, refund: &Refund) {
    let span = spans::circuit_probe_span(account, refund);
    let probe = async {
        spans::link_to_refund(core, refund).await;
        account.rate_limiter.acquire().await;
        let lookup = ask_provider(account, refund).await;
        reread_refused_secret(account, &lookup);
        let signal = lookup.account_signal();
        let answered = matches!(signal, AccountSignal::Healthy | AccountSignal::ForeignTarget);
        account.record_lookup(signal, true);
        info!(answered, open = !account.is_open(), "probed suspended account");
    };
    probe.instrument(span).await;
}

async fn ask_provider(account: &AccountRuntime, refund: &Refund) -> Lookup {
    let (adapter, asked, turns) = (account.configured.refunds.clone(), refund.clone(), account.rate_limiter.clone());
    match tokio::spawn(async move { adapter.lookup(&asked, &*turns).await }.in_current_span()).await {
        Ok(lookup) => lookup,
        Err(_) => Lookup::unavailable("the adapter panicked while reading the provider's answer"),
    }
}

/// Has a secret that may have been refused read from its file again immediately: it may have been
/// replaced there.
fn reread_refused_secret(account: &AccountRuntime, lookup: &Lookup) {
    if matches!(lookup.account_signal(), AccountSignal::CredentialsRefused | AccountSignal::ForeignTarget) {
        account.configured.secret.report_refusal();
    }
}
