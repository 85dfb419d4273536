//! The cost of `engine::decide`: pure functions, so mostly allocations.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use criterion::Criterion;
use recoup::domain::event::Event;
use recoup::domain::outcome::{Acceptance, DoubtReason, Lookup, Outcome};
use recoup::domain::refund::Refund;
use recoup::engine::decide::{self, Backoff, RetryRules, Schedule};
use recoup::http::client::{HttpOutcome, HttpRequest, RequestKind, Transport};
use recoup::providers::Url;

use crate::samples::{self, NOW, PROVIDERS};

/// A transport that sends nothing.
struct NoTransport;

#[async_trait]
impl Transport for NoTransport {
    async fn exchange(&self, _: Url, _: HttpRequest, _: RequestKind, _: usize) -> HttpOutcome {
        HttpOutcome::NotSent { evidence: "there is no transport".to_owned() }
    }
}

pub(crate) fn all(criterion: &mut Criterion) {
    let schedule = Schedule {
        first: vec![Duration::from_secs(10), Duration::from_secs(30)],
        then_every: Duration::from_secs(86_400),
    };
    let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) };
    let mut group = criterion.benchmark_group("decide");
    for provider in PROVIDERS {
        let contract = samples::account(provider, Arc::new(NoTransport)).contract;
        let rules = RetryRules {
            contract: &contract,
            schedule: &schedule,
            backoff,
            key_is_bound: true,
            follow_up: Duration::ZERO,
            total_timeout: Duration::from_secs(60),
            jumpless_now: NOW,
        };
        let dispatched = Refund::new(samples::intent(provider, 7), samples::place(), NOW)
            .apply(&Event::Dispatched { credential: None }, NOW)
            .unwrap();
        let in_doubt = dispatched.apply(&Event::Interrupted, NOW).unwrap();
        let accepted = Outcome::Accepted(Acceptance::default());
        group.bench_function(format!("{provider}: attempt answered"), |bencher| {
            bencher.iter(|| decide::after_attempt(&dispatched, accepted.clone(), rules, NOW));
        });
        let unanswered = Outcome::Unknown { reason: DoubtReason::Timeout, evidence: "no answer in time".to_owned() };
        group.bench_function(format!("{provider}: attempt timed out"), |bencher| {
            bencher.iter(|| decide::after_attempt(&dispatched, unanswered.clone(), rules, NOW));
        });
        let absent = Lookup::not_found("no record");
        group.bench_function(format!("{provider}: lookup without a trace"), |bencher| {
            bencher.iter(|| decide::after_lookup(&in_doubt, absent.clone(), None, rules, NOW, NOW));
        });
    }
}
