//! One row for each attack: who attacks, what must hold, and what was seen.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tokio::time::{Instant, sleep};

use crate::attackers::Attacker;
use crate::bystander::{self, Seen};
use crate::callers;
use crate::floods::FLOODS;
use crate::stack::Stack;

/// An attack, and what it has to leave intact.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The attackers, with their size at full and at short length.
    attackers: &'static [(&'static str, usize, usize)],
    /// The bystander opens a connection for each call.
    reconnects: bool,
    is_provider_silent: bool,
    open_files: Option<usize>,
    /// There is an access file, and the attacker is one of its callers.
    has_callers: bool,
    /// Most of what is called is refused: the caller's own limit.
    is_refused: bool,
    /// How much the gateway's memory may grow, in MB.
    max_growth: usize,
    /// At full length: the 99th percentile of the bystander.
    max_p99: Duration,
    /// At full length: within this time the gateway has ended everything that was opened.
    ended_within: Option<Duration>,
}

/// What was seen of one attack.
pub(crate) struct Report {
    name: &'static str,
    seen: Seen,
    /// Memory before, and at its highest, in bytes.
    memory: [usize; 2],
    counts: (usize, usize),
    ended_after: Option<Duration>,
    /// Of the gateway.
    cores: f64,
    lines: usize,
    target: String,
    pub(crate) faults: Vec<String>,
}

const PLAIN: Row = Row {
    name: "",
    attackers: &[],
    reconnects: false,
    is_provider_silent: false,
    open_files: None,
    has_callers: false,
    is_refused: false,
    max_growth: 40,
    max_p99: Duration::from_millis(50),
    ended_within: None,
};

const CALLER: Row = Row { has_callers: true, is_refused: true, ..PLAIN };

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
    Row { name: "one caller: the largest refunds", attackers: &[(callers::LARGEST, 8, 8)], ..CALLER },
    Row { name: "one caller: GetValidationStatus", attackers: &[(callers::STATUSES, 8, 8)], ..CALLER },
    Row { name: "one caller: ListRefunds", attackers: &[(callers::LISTS, 8, 8)], ..CALLER },
    Row { name: "one caller: event streams", attackers: &[(callers::STREAMS, 2, 2)], ..CALLER },
    Row { name: "wrong tokens", attackers: &[(callers::WRONG_TOKENS, 8, 8)], ..CALLER },
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

/// Of the attacker in the short form, where a debug build is too slow to exceed the default.
const SMALL_RATE: &str = "rate = { calls_per_second = 2, burst = 4 }";
/// How long the bystander is watched.
const FULL_TIME: Duration = Duration::from_secs(10);
const SHORT_TIME: Duration = Duration::from_secs(1);
/// Of the short form: for an attack to show its counts.
const ATTACK_BEGINS: Duration = Duration::from_secs(30);

/// Runs one attack on a gateway of its own.
pub(crate) async fn run(row: &Row, is_full: bool) -> Report {
    let stack = Stack::start(row.open_files, row.has_callers.then_some(if is_full { "" } else { SMALL_RATE })).await;
    let _gate = if row.is_provider_silent { Some(stack.silence().await) } else { None };
    let address = stack.address();
    // What the first calls allocate is no growth.
    bystander::watch(address, &stack.token, Duration::from_millis(500), row.reconnects, "before").await;
    let before = stack.memory();
    let (lines, processor_time) = (stack.lines.load(Ordering::Relaxed), stack.processor_time());
    let attackers: Vec<Attacker> = row
        .attackers
        .iter()
        .map(|(name, full, short)| {
            Attacker::start(name, address, if is_full { *full } else { *short }, &stack.attacker)
        })
        .collect();
    let began = Instant::now();
    let counts =
        || attackers.iter().map(Attacker::counts).fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
    while counts().0 == 0 && began.elapsed() < ATTACK_BEGINS {
        sleep(Duration::from_millis(10)).await;
    }
    let mut highest = before;
    let mut ended_after = None;
    let time = if is_full { FULL_TIME } else { SHORT_TIME };
    let seen = {
        let watching = bystander::watch(address, &stack.token, time, row.reconnects, "during");
        tokio::pin!(watching);
        let mut seen = None;
        loop {
            tokio::select! {
                result = &mut watching, if seen.is_none() => seen = Some(result),
                () = sleep(Duration::from_millis(20)) => {}
            }
            highest = highest.max(stack.memory());
            let (made, ended) = counts();
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
    let stream = RefundServiceClient::new(bystander::channel(address, &stack.token).await.unwrap())
        .stream_refund_events(proto::StreamRefundEventsRequest::default())
        .await;
    if let Err(status) = stream {
        faults.push(format!("the bystander got no event stream: {status:?}"));
    }
    let cores = (stack.processor_time() - processor_time).as_secs_f64() / began.elapsed().as_secs_f64();
    let lines = stack.lines.load(Ordering::Relaxed) - lines;
    drop(attackers);
    if row.is_refused && counts.1 == 0 {
        faults.push("nothing was refused".to_owned());
    }
    // One line a second, some of the first moment, and one for each served call of a caller.
    let served = if row.has_callers { counts.0.saturating_sub(counts.1) } else { 0 };
    let max_lines = 10 + usize::try_from(began.elapsed().as_secs()).unwrap() + served;
    if lines > max_lines {
        faults.push(format!("the log grew by {lines} warnings"));
    }
    if counts.0 == 0 {
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
        faults.push(format!("only {} of {} had ended", counts.1, counts.0));
    }
    // The gateway is as it was: every account serves.
    let accounts = AccountServiceClient::new(bystander::channel(address, &stack.token).await.unwrap())
        .list_accounts(proto::ListAccountsRequest::default())
        .await
        .unwrap();
    let is_serving = |account: &proto::Account| account.health() == Health::Serving;
    if !accounts.into_inner().accounts.iter().all(is_serving) {
        faults.push("an account is suspended".to_owned());
    }
    let target = format!(
        "+{} MB, p99 {} ms{}",
        row.max_growth,
        row.max_p99.as_millis(),
        row.ended_within.map(|within| format!(", ended in {} s", within.as_secs())).unwrap_or_default()
    );
    Report { name: row.name, seen, memory: [before, highest], counts, ended_after, cores, lines, target, faults }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, highest] = self.memory.map(|bytes| bytes / 1_000_000);
        let (made, ended) = self.counts;
        let ended_after = self.ended_after.map(|after| format!(" in {:.1} s", after.as_secs_f64())).unwrap_or_default();
        write!(
            formatter,
            "| {} | {made} opened, {ended} ended{ended_after} | {} | {before} -> {highest} MB | {:.2} cores, {} warnings | {} | {} |",
            self.name,
            self.seen,
            self.cores,
            self.lines,
            self.target,
            if self.faults.is_empty() { "reached" } else { "MISSED" }
        )
    }
}
