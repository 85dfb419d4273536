//! A decorator for any provider: a span, a measurement and one log line for each call, so that the
//! adapters contain none.
//!
//! Logs only kinds and codes, never the provider's texts: those may name people.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span, info_span};

use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Currency;
use crate::domain::outcome::{AttemptReport, Lookup, Outcome};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{FieldViolation, Target};
use crate::providers::{RefundProvider, RequestLimiter};
use crate::telemetry::metrics::AccountMeter;

/// A provider with instrumentation.
pub struct Instrumented<P> {
    inner: Arc<P>,
    account: AccountName,
    provider: ProviderKind,
    metrics: AccountMeter,
}

impl<P: RefundProvider> Instrumented<P> {
    /// Instruments `inner`, the adapter of `account`.
    pub fn new(inner: Arc<P>, account: AccountName, provider: ProviderKind, metrics: AccountMeter) -> Self {
        Self { inner, account, provider, metrics }
    }
}

#[async_trait]
impl<P: RefundProvider> RefundProvider for Instrumented<P> {
    async fn refund(&self, intent: &Intent, credential: Option<&str>) -> AttemptReport {
        // DEBUG, because the span of the attempt already holds these fields.
        let span = debug_span!(
            "provider", call = "refund", account = %self.account, provider = %self.provider, refund = %intent.id
        );
        async {
            let start = Instant::now();
            let report = self.inner.refund(intent, credential).await;
            let duration = start.elapsed();
            self.metrics.record_attempt(kind_of(&report.outcome), duration);
            debug!(
                outcome = kind_of(&report.outcome),
                detail = detail_of(&report.outcome),
                duration_ms = milliseconds(duration),
                "refund request ended"
            );
            report
        }
        .instrument(span)
        .await
    }

    fn credential(&self, refund: &RefundId) -> Option<String> {
        self.inner.credential(refund)
    }

    fn check_target(&self, target: &Target, currency: Currency) -> Result<(), FieldViolation> {
        self.inner.check_target(target, currency)
    }

    async fn lookup(&self, refund: &Refund, limiter: &dyn RequestLimiter) -> Lookup {
        let span = info_span!(
            "provider", call = "lookup", account = %self.account, provider = %self.provider, refund = %refund.id()
        );
        async {
            let start = Instant::now();
            let lookup = self.inner.lookup(refund, limiter).await;
            let duration = start.elapsed();
            let (found, detail) = match &lookup {
                Lookup::Found(outcome) => (kind_of(outcome), detail_of(outcome)),
                Lookup::NotFound { .. } => ("not_found", ""),
                Lookup::Unavailable { .. } => ("unavailable", ""),
            };
            self.metrics.record_lookup(found, duration);
            debug!(found, detail, duration_ms = milliseconds(duration), "lookup ended");
            lookup
        }
        .instrument(span)
        .await
    }

    async fn probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        let span = info_span!("provider", call = "probe", account = %self.account, provider = %self.provider);
        async {
            let start = Instant::now();
            let report = self.inner.probe(limiter).await;
            // The findings quote the provider, so only their number is logged.
            debug!(
                reached = report.reached,
                credentials = report.credentials.as_str(),
                findings = i64::try_from(report.findings.len()).unwrap_or(i64::MAX),
                duration_ms = milliseconds(start.elapsed()),
                "probe ended"
            );
            report
        }
        .instrument(span)
        .await
    }
}

/// An i64, because a trace would show a u128 as text.
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn kind_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Refunded(_) => "refunded",
        Outcome::Accepted(_) => "accepted",
        Outcome::Refused { .. } => "refused",
        Outcome::NotSent { .. } => "not_sent",
        Outcome::Unknown { .. } => "unknown",
    }
}

/// The provider's code, or the reason of the doubt.
fn detail_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Refunded(_) | Outcome::Accepted(_) => "",
        Outcome::Refused { error, .. } | Outcome::NotSent { error, .. } => &error.code,
        Outcome::Unknown { reason, .. } => reason.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use crate::domain::target::{SectigoTarget, Target};
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures;
    use crate::providers::testing::log_capture::LogCapture;

    #[tokio::test]
    async fn a_call_logs_one_line_of_kinds_and_codes() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n-18\nThe order of Ada Lovelace is too old.  ";
        let server = ScriptedServer::start(Script::Send(answer)).await;
        let login = ProviderSettings::Sectigo {
            login_name: "demo".to_owned(),
            login_password: SecretString::from("c4nary-secret"),
        };
        let intent = fixtures::intent("r-1", Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap()));
        let log = LogCapture::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_env_filter("recoup=debug")
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        fixtures::account(&server, login).refunds.refund(&intent, None).await;
        drop(guard);
        let text = log.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            "call=\"refund\"",
            "account=main",
            "provider=sectigo",
            "refund=r-1",
            "outcome=\"refused\"",
            "detail=\"-18\"",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for secret in ["c4nary", "Lovelace", "1000001"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
