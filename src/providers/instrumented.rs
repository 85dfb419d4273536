//! Watches any provider from outside: a span, a measurement and one line for each call, and not a
//! word in the adapters.
//!
//! No text of the provider is logged here, only kinds and codes: its words may name people.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span, info_span};

use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::outcome::{Lookup, Outcome};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::providers::{RefundProvider, Turns};
use crate::telemetry::metrics::AccountMeter;

/// A provider, watched.
pub struct Instrumented<P> {
    inner: Arc<P>,
    account: AccountName,
    provider: ProviderKind,
    meter: AccountMeter,
}

impl<P: RefundProvider> Instrumented<P> {
    /// Watches `inner`, the wire of `account`.
    pub fn new(inner: Arc<P>, account: AccountName, provider: ProviderKind, meter: AccountMeter) -> Self {
        Self { inner, account, provider, meter }
    }
}

#[async_trait]
impl<P: RefundProvider> RefundProvider for Instrumented<P> {
    async fn refund(&self, intent: &Intent, credential: Option<&str>) -> Outcome {
        // Where nothing but the log listens, the attempt's own span says as much.
        let span = debug_span!(
            "provider", call = "refund", account = %self.account, provider = %self.provider, refund = %intent.id
        );
        async {
            let start = Instant::now();
            let outcome = self.inner.refund(intent, credential).await;
            let duration = start.elapsed();
            self.meter.record_attempt(kind_of(&outcome), duration);
            debug!(
                outcome = kind_of(&outcome),
                detail = detail_of(&outcome),
                duration_ms = milliseconds(duration),
                "provider answered a refund"
            );
            outcome
        }
        .instrument(span)
        .await
    }

    fn credential(&self, refund: &RefundId) -> Option<String> {
        self.inner.credential(refund)
    }

    async fn lookup(&self, refund: &Refund, turns: &dyn Turns) -> Lookup {
        let span = info_span!(
            "provider", call = "lookup", account = %self.account, provider = %self.provider, refund = %refund.id()
        );
        async {
            let start = Instant::now();
            let lookup = self.inner.lookup(refund, turns).await;
            let duration = start.elapsed();
            let (found, detail) = match &lookup {
                Lookup::Found(outcome) => (kind_of(outcome), detail_of(outcome)),
                Lookup::NotFound { .. } => ("not_found", ""),
                Lookup::Unavailable { .. } => ("unavailable", ""),
            };
            self.meter.record_lookup(found, duration);
            debug!(found, detail, duration_ms = milliseconds(duration), "provider answered a lookup");
            lookup
        }
        .instrument(span)
        .await
    }
    async fn probe(&self, turns: &dyn Turns) -> ProbeReport {
        let span = info_span!("provider", call = "probe", account = %self.account, provider = %self.provider);
        async {
            let start = Instant::now();
            let report = self.inner.probe(turns).await;
            // Its findings quote the provider.
            debug!(
                reached = report.reached,
                credentials = report.credentials.as_str(),
                findings = i64::try_from(report.findings.len()).unwrap_or(i64::MAX),
                duration_ms = milliseconds(start.elapsed()),
                "the provider was probed"
            );
            report
        }
        .instrument(span)
        .await
    }
}

/// As a number: a trace would hold one without a sign as text.
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

/// The provider's code or the kind of doubt.
fn detail_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Refunded(_) | Outcome::Accepted(_) => "",
        Outcome::Refused { error, .. } | Outcome::NotSent { error, .. } => &error.code,
        Outcome::Unknown { reason, .. } => reason.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use secrecy::SecretString;
    use tracing_subscriber::fmt::MakeWriter;

    use crate::domain::target::{SectigoTarget, Target};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures;
    use crate::providers::testing::scripted_server::{Script, ScriptedServer};

    #[derive(Default)]
    struct Lines(Mutex<Vec<u8>>);

    impl Write for &Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = &'a Lines;

        fn make_writer(&'a self) -> Self::Writer {
            self
        }
    }

    #[tokio::test]
    async fn a_call_is_one_line_of_kinds_and_codes() {
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n-18\nThe order of Ada Lovelace is too old.  ";
        let peer = ScriptedServer::start(Script::Say(said)).await;
        let login = ProviderSettings::Sectigo {
            login_name: "demo".to_owned(),
            login_password: SecretString::from("c4nary-secret"),
        };
        let intent = fixtures::intent("r-1", Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap()));
        let lines = std::sync::Arc::new(Lines::default());
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .with_env_filter("recoup=debug")
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        fixtures::account(&peer, login).adapter.refund(&intent, None).await;
        drop(guard);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
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
