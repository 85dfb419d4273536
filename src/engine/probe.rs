//! Probes of an account, asked for by a person or a deployment: at most one begins in five seconds,
//! and each of its requests waits for the account's rate limiter.
//!
//! A probe counts for the account's health as a lookup does: one that finds nothing wrong lets a
//! suspended account try one refund.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::Shared as Joined;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument as _, info, info_span};

use crate::domain::ids::AccountName;
use crate::domain::probe::{Credentials, ProbeReport};
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::{CircuitBreakerSettings, Signal};
use crate::engine::{Engine, EngineCore, EngineError};
use crate::ledger::RelatedLogins;
use crate::providers::{Account, RequestLimiter};

/// The least time between the starts of two probes of one account.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// The probes of one account.
#[derive(Default)]
pub(super) struct Probes(Mutex<ProbeQueue>);

#[derive(Default)]
struct ProbeQueue {
    /// When the last one began.
    begun: Option<Instant>,
    /// The probe that has not started; every caller until then shares it.
    next: Option<Joined<oneshot::Receiver<ProbeReport>>>,
}

impl Engine {
    /// Asks the account's provider whether it is reached, accepts the login and is the service that
    /// is configured. Moves no money.
    ///
    /// # Errors
    /// [`EngineError::AccountNotFound`], [`EngineError::Draining`]
    pub async fn probe(&self, account: &AccountName) -> Result<ProbeReport, EngineError> {
        if self.0.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let lane = self.0.lanes.get(account).ok_or_else(|| EngineError::AccountNotFound(account.clone()))?;
        let report = lane.requested_probes.join_or_start(|answer| {
            let (shared, lane) = (self.0.clone(), lane.clone());
            // A task of its own: callers that leave do not end what others share.
            drop(self.spawn(async move { when_due(&shared, &lane, answer).await }));
        });
        tokio::select! {
            biased;
            report = report => report.map_err(|_| match self.0.draining.is_cancelled() {
                true => EngineError::Draining,
                false => EngineError::Panicked,
            }),
            () = self.0.draining.cancelled() => Err(EngineError::Draining),
        }
    }
}

/// Probes an account without an engine, within the account's rate limits.
pub async fn probe_alone(account: Arc<Account>, circuit: CircuitBreakerSettings) -> ProbeReport {
    ask(&Arc::new(AccountRuntime::new(account, RelatedLogins::default(), Vec::new(), circuit))).await
}

async fn when_due(shared: &EngineCore, lane: &Arc<AccountRuntime>, answer: oneshot::Sender<ProbeReport>) {
    let probe = async {
        if let Some(earliest) = lane.requested_probes.earliest() {
            tokio::time::sleep_until(earliest).await;
        }
        // The semaphore is never closed, so this cannot fail.
        let _place = lane.lookups.acquire().await;
        lane.requested_probes.begin();
        let report = ask(lane).await;
        lane.record_probe(&signal_of(&report), false);
        let findings = i64::try_from(report.findings.len()).unwrap_or(i64::MAX);
        let credentials = report.credentials.as_str();
        info!(reached = report.reached, credentials, findings, fine = report.is_fine(), "probed the account");
        report
    };
    let probed = tokio::select! {
        biased;
        // A probe can be asked for again; the drain need not wait for it.
        () = shared.draining.cancelled() => return,
        report = probe.instrument(info_span!("probe", account = %lane.account.name)) => report,
    };
    // All callers may have left.
    let _ = answer.send(probed);
}

async fn ask(lane: &Arc<AccountRuntime>) -> ProbeReport {
    let lane = lane.clone();
    let asking = async move { lane.account.refunds.probe(&*lane).await };
    match tokio::spawn(asking.in_current_span()).await {
        Ok(report) => report,
        Err(_) => ProbeReport::unreached("the adapter panicked while reading the provider's answer"),
    }
}

/// What a probe means for the circuit breaker. Anything less than fine is no reason to send a
/// refund.
fn signal_of(report: &ProbeReport) -> Signal {
    match report.credentials {
        Credentials::Refused => Signal::CredentialsRefused,
        _ if report.is_fine() => Signal::Healthy,
        _ => Signal::Failure,
    }
}

impl Probes {
    /// Joins the probe that starts next. If there is none, calls `start` with the sender of its
    /// report.
    fn join_or_start(
        &self,
        start: impl FnOnce(oneshot::Sender<ProbeReport>),
    ) -> Joined<oneshot::Receiver<ProbeReport>> {
        let mut queue = self.queue();
        if let Some(next) = &queue.next {
            return next.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let next = receiver.shared();
        queue.next = Some(next.clone());
        start(sender);
        next
    }

    fn earliest(&self) -> Option<Instant> {
        self.queue().begun.map(|begun| begun + MIN_INTERVAL)
    }

    /// Later callers get a later probe: this one may predate the change that they ask about.
    fn begin(&self) {
        *self.queue() = ProbeQueue { begun: Some(Instant::now()), next: None };
    }

    fn queue(&self) -> MutexGuard<'_, ProbeQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RequestLimiter for AccountRuntime {
    async fn acquire(&self) {
        self.turn().await;
    }
}
