//! One row for each attack: who attacks, what must hold, and what was seen.

use std::fmt;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::attackers::{AttackCounts, Attacker};
use crate::bystander::{self, Route, Seen};
use crate::callers;
use crate::floods::FLOODS;
use crate::stack::{Setup, Stack, Warnings};

/// An attack, and what it has to leave intact.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The attackers, with their size at full and at short length.
    attackers: &'static [(&'static str, usize, usize)],
    /// The bystander opens a connection for each call.
    reconnects: bool,
    is_provider_silent: bool,
    open_files: Option<usize>,
    /// There is an access file, the attacker is one of its callers, and has this rate.
    rate: Option<Rate>,
    has_tls: bool,
    /// Most of what is called is refused: the caller's own limit.
    is_refused: bool,
    /// How much the gateway's memory may grow, in MB.
    max_growth: usize,
    /// At full length: the 99th percentile of the bystander.
    max_p99: Duration,
    /// At full length: within this time the gateway has ended everything that was opened.
    ended_within: Option<Duration>,
    /// At full length: the gateway's share of a core.
    max_cores: Option<f64>,
    /// Beyond one a second.
    max_more_warnings: usize,
}

/// The rate of the attacker, who is a caller.
#[derive(Clone, Copy)]
enum Rate {
    Default,
    /// Beyond what one caller gets of all streams.
    Boundless,
}

/// What was seen of one attack.
pub(crate) struct Report {
    name: &'static str,
    seen: Seen,
    /// Memory before, and at its highest, in bytes.
    memory: [usize; 2],
    counts: AttackCounts,
    ended_after: Option<Duration>,
    /// Of the gateway.
    cores: f64,
    warnings: Warnings,
    target: String,
    pub(crate) faults: Vec<String>,
}

const PLAIN: Row = Row {
    name: "",
    attackers: &[],
    reconnects: false,
    is_provider_silent: false,
    open_files: None,
    rate: None,
    has_tls: false,
    is_refused: false,
    max_growth: 40,
    max_p99: Duration::from_millis(50),
    ended_within: None,
    max_cores: None,
    max_more_warnings: 10,
};

const CALLER: Row = Row { rate: Some(Rate::Default), is_refused: true, ..PLAIN };

const FLOOD: Row = Row { max_p99: Duration::from_millis(100), max_growth: 30, ..PLAIN };

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "unfinished messages of 4 MiB",
        attackers: &[("unfinished_messages", 50, 20)],
        max_growth: 20,
        max_p99: Duration::from_millis(250),
        ended_within: Some(Duration::from_secs(15)),
        ..PLAIN
    },
    Row {
        name: "unread lists",
        attackers: &[("unread_lists", 200, 40)],
        max_growth: 80,
        max_p99: Duration::from_millis(250),
        ended_within: Some(Duration::from_secs(35)),
        ..PLAIN
    },
    Row {
        name: "idle connections",
        attackers: &[("idle_connections", 10_000, 1_500)],
        reconnects: true,
        max_p99: Duration::from_millis(250),
        ..PLAIN
    },
    Row {
        name: "silent connections in a loop",
        attackers: &[("silent_connections", 1_300, 1_300)],
        reconnects: true,
        max_p99: Duration::from_millis(250),
        ..PLAIN
    },
    Row {
        name: "half-open TLS handshakes",
        attackers: &[("half_open_handshakes", 10_000, 1_500)],
        reconnects: true,
        has_tls: true,
        rate: Some(Rate::Default),
        max_p99: Duration::from_millis(250),
        ..PLAIN
    },
    Row { name: "waits", attackers: &[("waits", 1_024, 1_024)], is_provider_silent: true, ..PLAIN },
    Row { name: "headers without a message", attackers: &[("headers_only", 1_024, 1_024)], ..PLAIN },
    Row {
        name: "creations at a silent provider",
        attackers: &[("creates", 1_024, 1_024)],
        is_provider_silent: true,
        ..PLAIN
    },
    Row {
        name: "1,024 open files and 5,000 connections",
        attackers: &[("idle_connections", 5_000, 1_500)],
        open_files: Some(1_024),
        reconnects: true,
        max_p99: Duration::from_millis(250),
        ..PLAIN
    },
    Row { name: "one caller: ReconcileRefund", attackers: &[(callers::RECONCILES, 8, 8)], ..CALLER },
    Row { name: "one caller: the largest refunds", attackers: &[(callers::MAX_SIZE_REFUNDS, 8, 8)], ..CALLER },
    Row { name: "one caller: GetValidationStatus", attackers: &[(callers::STATUSES, 8, 8)], ..CALLER },
    Row { name: "one caller: ListRefunds", attackers: &[(callers::LISTS, 8, 8)], ..CALLER },
    Row {
        name: "one caller: every event stream and watch",
        attackers: &[(callers::STREAMS, 4, 4), (callers::WATCHES, 12, 12)],
        rate: Some(Rate::Boundless),
        ..CALLER
    },
    Row {
        name: "wrong tokens",
        attackers: &[(callers::WRONG_TOKENS, 8, 8)],
        max_cores: Some(0.3),
        max_more_warnings: 0,
        ..CALLER
    },
    Row { name: FLOODS[0], attackers: &[(FLOODS[0], 4, 2)], ..FLOOD },
    Row { name: FLOODS[1], attackers: &[(FLOODS[1], 4, 2)], ..FLOOD },
    Row { name: FLOODS[2], attackers: &[(FLOODS[2], 4, 2)], ..FLOOD },
    Row { name: FLOODS[3], attackers: &[(FLOODS[3], 4, 2)], ..FLOOD },
    Row { name: FLOODS[4], attackers: &[(FLOODS[4], 4, 2)], ..FLOOD },
    Row { name: FLOODS[5], attackers: &[(FLOODS[5], 4, 2)], ..FLOOD },
    Row { name: FLOODS[6], attackers: &[(FLOODS[6], 4, 2)], ..FLOOD },
    Row { name: FLOODS[7], attackers: &[(FLOODS[7], 4, 2)], ..FLOOD },
    Row { name: FLOODS[8], attackers: &[(FLOODS[8], 4, 2)], ..FLOOD },
    Row { name: FLOODS[9], attackers: &[(FLOODS[9], 4, 2)], ..FLOOD },
    Row { name: FLOODS[10], attackers: &[(FLOODS[10], 4, 2)], ..FLOOD },
    Row { name: FLOODS[11], attackers: &[(FLOODS[11], 4, 2)], ..FLOOD },
    Row { name: FLOODS[12], attackers: &[(FLOODS[12], 4, 2)], ..FLOOD },
    Row { name: FLOODS[13], attackers: &[(FLOODS[13], 4, 2)], ..FLOOD },
    Row { name: FLOODS[14], attackers: &[(FLOODS[14], 4, 2)], ..FLOOD },
];

const BOUNDLESS_RATE: &str =
    "rate = { calls_per_second = 100000, burst = 100000, event_streams = 100000, watches = 100000 }";
/// Of the attacker in the short form, where a debug build is too slow to exceed the default.
const SMALL_RATE: &str = "rate = { calls_per_second = 2, burst = 4 }";
/// How long the bystander is watched.
const FULL_TIME: Duration = Duration::from_secs(10);
const SHORT_TIME: Duration = Duration::from_secs(1);
/// After an attack, until a list is answered.
const SETTLES: Duration = Duration::from_secs(40);
/// Of the short form: for an attack to show its counts.
const ATTACK_BEGINS: Duration = Duration::from_secs(30);

/// Runs one attack on a gateway of its own.
pub(crate) async fn run(row: &Row, is_full: bool) -> Report {
    let rate = row.rate.map(|rate| match rate {
        Rate::Boundless => BOUNDLESS_RATE,
        Rate::Default if is_full => "",
        Rate::Default => SMALL_RATE,
    });
    let stack = Stack::start(Setup { open_files: row.open_files, attacker_rate: rate, has_tls: row.has_tls }).await;
    let _gate = if row.is_provider_silent { Some(stack.silence().await) } else { None };
    let address = stack.address();
    // What the first calls allocate is no growth.
    bystander::watch(&stack.route, Duration::from_millis(500), row.reconnects, "before").await;
    let before = stack.memory();
    let (warned, processor_time) = (stack.warnings(), stack.processor_time());
    let attackers: Vec<Attacker> = row
        .attackers
        .iter()
        .map(|(name, full, short)| {
            Attacker::start(name, address, if is_full { *full } else { *short }, &stack.attacker)
        })
        .collect();
    let began = Instant::now();
    let counts = || attackers.iter().map(Attacker::counts).sum::<AttackCounts>();
    while counts().made == 0 && began.elapsed() < ATTACK_BEGINS {
        sleep(Duration::from_millis(10)).await;
    }
    let mut highest = before;
    let mut ended_after = None;
    let time = if is_full { FULL_TIME } else { SHORT_TIME };
    let seen = {
        let watching = bystander::watch(&stack.route, time, row.reconnects, "during");
        tokio::pin!(watching);
        let mut seen = None;
        loop {
            tokio::select! {
                result = &mut watching, if seen.is_none() => seen = Some(result),
                () = sleep(Duration::from_millis(20)) => {}
            }
            highest = highest.max(stack.memory());
            let AttackCounts { made, ended, .. } = counts();
            if ended_after.is_none() && ended >= made && seen.is_some() {
                ended_after = Some(began.elapsed());
            }
            let must_end = row.ended_within.filter(|_| is_full);
            let is_over = must_end.is_none_or(|within| ended_after.is_some() || began.elapsed() > within);
            if is_over && let Some(seen) = seen.take() {
                break seen;
            }
        }
    };
    let counts = counts();
    let mut faults = Vec::new();
    faults.extend(streams(&stack.route).await.err());
    let cores = (stack.processor_time() - processor_time).as_secs_f64() / began.elapsed().as_secs_f64();
    let mut warnings = stack.warnings();
    for (message, count) in warned {
        *warnings.entry(message).or_default() -= count;
    }
    warnings.retain(|_, count| *count > 0);
    drop(attackers);
    if row.is_refused && counts.ended == 0 {
        faults.push("nothing was refused".to_owned());
    }
    if counts.odd > 0 {
        faults.push(format!("{} refusals had not the reason that they should have", counts.odd));
    }
    let max_warnings = usize::try_from(began.elapsed().as_secs()).unwrap() + 1 + row.max_more_warnings;
    if warnings.values().sum::<usize>() > max_warnings {
        faults.push(format!("more than {max_warnings} warnings: {warnings:?}"));
    }
    if let Some(max) = row.max_cores.filter(|max| is_full && cores > *max) {
        faults.push(format!("the gateway took {cores:.2} cores, and not {max}"));
    }
    if counts.made == 0 {
        faults.push("the attack did not begin".to_owned());
    }
    let mut kinds: Vec<&String> = seen.failures.iter().collect();
    kinds.dedup();
    faults.extend(kinds.into_iter().take(3).map(|failure| format!("the bystander failed: {failure}")));
    let growth = highest.saturating_sub(before) / 1_000_000;
    if growth > row.max_growth {
        faults.push(format!("the memory grew by {growth} MB"));
    }
    let p99 = seen.percentile(99);
    if is_full && p99 > row.max_p99 {
        faults.push(format!("the bystander's p99 was {p99:?}"));
    }
    if is_full && row.ended_within.is_some() && ended_after.is_none() {
        faults.push(format!("only {} of {} had ended", counts.ended, counts.made));
    }
    // The gateway is as it was: every account serves. The last responses may still be held.
    let mut client = AccountServiceClient::new(stack.route.channel().await.unwrap());
    let asked = Instant::now();
    let accounts = loop {
        match client.list_accounts(proto::ListAccountsRequest::default()).await {
            Ok(accounts) => break accounts,
            Err(status) if status.code() == Code::Unavailable && asked.elapsed() < SETTLES => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(status) => panic!("accounts could not be listed: {status:?}"),
        }
    };
    let is_serving = |account: &proto::Account| account.health() == Health::Serving;
    if !accounts.into_inner().accounts.iter().all(is_serving) {
        faults.push("an account is suspended".to_owned());
    }
    let target = format!(
        "+{} MB, p99 {} ms{}{}",
        row.max_growth,
        row.max_p99.as_millis(),
        row.ended_within.map(|within| format!(", ended in {} s", within.as_secs())).unwrap_or_default(),
        row.max_cores.map(|cores| format!(", {cores} cores")).unwrap_or_default()
    );
    Report { name: row.name, seen, memory: [before, highest], counts, ended_after, cores, warnings, target, faults }
}

/// The bystander gets an event stream and a watch.
async fn streams(route: &Route) -> Result<(), String> {
    const LIMIT: Duration = Duration::from_secs(10);
    let failed = |what: &str, problem: &dyn fmt::Debug| format!("the bystander got no {what}: {problem:?}");
    let channel = route.channel().await.map_err(|error| failed("connection", &error))?;
    let events = proto::StreamRefundEventsRequest::default();
    let events = RefundServiceClient::new(channel.clone()).stream_refund_events(events).await;
    let event = timeout(LIMIT, events.map_err(|status| failed("event stream", &status))?.into_inner().message()).await;
    if !matches!(event, Ok(Ok(Some(_)))) {
        return Err(failed("event", &event));
    }
    let (account, order_number) = ("sectigo".to_owned(), "3000002".to_owned());
    let watch = proto::WatchValidationStatusRequest { account, order_number, ..Default::default() };
    let watch = ValidationStatusServiceClient::new(channel).watch_validation_status(watch).await;
    let status = timeout(LIMIT, watch.map_err(|status| failed("watch", &status))?.into_inner().message()).await;
    if matches!(status, Ok(Ok(Some(_)))) { Ok(()) } else { Err(failed("status", &status)) }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, highest] = self.memory.map(|bytes| bytes / 1_000_000);
        let AttackCounts { made, ended, .. } = self.counts;
        let ended_after = self.ended_after.map(|after| format!(" in {:.1} s", after.as_secs_f64())).unwrap_or_default();
        write!(
            formatter,
            "| {} | {made} opened, {ended} ended{ended_after} | {} | {before} -> {highest} MB | {:.2} cores, {} warnings | {} | {} |",
            self.name,
            self.seen,
            self.cores,
            self.warnings.values().sum::<usize>(),
            self.target,
            if self.faults.is_empty() { "reached" } else { "MISSED" }
        )
    }
}
