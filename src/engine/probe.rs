//! ProbeAccount: asks the provider, for a person or a deployment, whether the account works.
//!
//! At most one probe of an account begins in five seconds, and each of its requests waits for the
//! account's rate limiter. A probe counts for the circuit breaker as a lookup does: one that finds
//! nothing wrong lets a suspended account try one refund.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{Instrument as _, info, info_span};

use crate::domain::authority::Authority;
use crate::domain::ids::AccountName;
use crate::domain::outcome::AccountSignal;
use crate::domain::probe::{Credentials, ProbeReport};
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::CircuitBreakerSettings;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::ledger::RelatedLogins;
use crate::providers::Account;

/// See [`crate::engine::Engine::probe`].
pub(super) async fn probe(
    core: &Arc<EngineCore>,
    by: &Authority,
    account: &AccountName,
) -> Result<ProbeReport, EngineError> {
    if core.draining.is_cancelled() {
        return Err(EngineError::Draining);
    }
    let account = core.account_for(by, account)?;
    let report = account.requested_probes.join_or_start(|answer| {
        let (task_core, account) = (core.clone(), account.clone());
        // A task of its own: callers that leave do not end what others share.
        drop(core.spawn(async move { probe_when_due(&task_core, &account, answer).await }));
    });
    tokio::select! {
        biased;
        report = report => report.map_err(|_| match core.draining.is_cancelled() {
            true => EngineError::Draining,
            false => EngineError::Panicked,
        }),
        () = core.draining.cancelled() => Err(EngineError::Draining),
    }
}

/// Probes an account without an engine, within the account's rate limits.
pub async fn probe_alone(account: Arc<Account>, circuit: CircuitBreakerSettings) -> ProbeReport {
    let alone = AccountRuntime::new(account, RelatedLogins::default(), Vec::new(), circuit, Duration::ZERO);
    ask_provider(&Arc::new(alone)).await
}

async fn probe_when_due(core: &EngineCore, account: &Arc<AccountRuntime>, answer: oneshot::Sender<ProbeReport>) {
    let probe = async {
        if let Some(earliest) = account.requested_probes.earliest() {
            tokio::time::sleep_until(earliest).await;
        }
        // The semaphore is never closed, so this cannot fail.
        let _slot = account.lookup_slots.acquire().await;
        account.requested_probes.begin();
        let report = ask_provider(account).await;
        account.record_lookup(signal_of(&report), false);
        let findings = i64::try_from(report.findings.len()).unwrap_or(i64::MAX);
        let credentials = report.credentials.as_str();
        info!(reached = report.reached, credentials, findings, fine = report.is_fine(), "probed the account");
        report
    };
    let probed = tokio::select! {
        biased;
        // A probe can be asked for again; the drain need not wait for it.
        () = core.draining.cancelled() => return,
        report = probe.instrument(info_span!("probe", account = %account.name())) => report,
    };
    // All callers may have left.
    let _ = answer.send(probed);
}

async fn ask_provider(account: &Arc<AccountRuntime>) -> ProbeReport {
    let account = account.clone();
    let asking = async move { account.configured.refunds.probe(&*account.rate_limiter).await };
    match tokio::spawn(asking.in_current_span()).await {
        Ok(report) => report,
        Err(_) => ProbeReport::unreached("the adapter panicked while reading the provider's answer"),
    }
}

/// What a probe means for the circuit breaker. Anything less than fine is no reason to send a
/// refund.
fn signal_of(report: &ProbeReport) -> AccountSignal {
    match report.credentials {
        Credentials::Refused => AccountSignal::CredentialsRefused,
        _ if report.is_fine() => AccountSignal::Healthy,
        _ => AccountSignal::Failure,
    }
}
