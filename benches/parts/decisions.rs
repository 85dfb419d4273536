//! What follows from an answer: pure, so it costs what its allocations cost.

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

/// Nothing is sent here.
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn exchange(&self, _: Url, _: HttpRequest, _: RequestKind, _: usize) -> HttpOutcome {
        HttpOutcome::NotSent { evidence: "there is no wire".to_owned() }
    }
}

pub(crate) fn all(criterion: &mut Criterion) {
    let schedule = Schedule {
        first: vec![Duration::from_secs(10), Duration::from_secs(30)],
        then_every: Duration::from_secs(86_400),
    };
    let backoff = Backoff { shortest: Duration::from_secs(1), longest: Duration::from_secs(300) };
    let mut group = criterion.benchmark_group("decide");
    for provider in PROVIDERS {
        let contract = samples::account(provider, Arc::new(Nowhere)).contract;
        let rules = RetryRules {
            contract: &contract,
            schedule: &schedule,
            backoff,
            key_is_bound: true,
            follow_up: Duration::ZERO,
        };
        let sent = Refund::new(samples::intent(provider, 7), samples::place(), NOW)
            .apply(&Event::Dispatched { credential: None }, NOW)
            .unwrap();
        let doubted = sent.apply(&Event::Interrupted, NOW).unwrap();
        let taken = Outcome::Accepted(Acceptance::default());
        group.bench_function(format!("{provider}: after the answer"), |bencher| {
            bencher.iter(|| decide::after_attempt(&sent, taken.clone(), rules, NOW));
        });
        let lost = Outcome::Unknown { reason: DoubtReason::Timeout, evidence: "no answer in time".to_owned() };
        group.bench_function(format!("{provider}: after no answer"), |bencher| {
            bencher.iter(|| decide::after_attempt(&sent, lost.clone(), rules, NOW));
        });
        let nothing = Lookup::not_found("no record");
        group.bench_function(format!("{provider}: after a look that shows nothing"), |bencher| {
            bencher.iter(|| decide::after_lookup(&doubted, nothing.clone(), None, rules, NOW, NOW));
        });
    }
}
