//! False doubt: a provider that closes idle connections, and refunds whose request it never saw.
//!
//! A client that sends a refund on a connection that the provider is just closing cannot know that
//! the provider never saw the request. A fresh connection for each refund avoids that. The same
//! refunds on pooled connections, where the setting allows them, are the control: they show that
//! the provider does close at the worst time.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use simulators::faults::FaultEffect;
use simulators::request::{Deduplication, Provider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::callers;
use crate::plans::{Plan, Plans};
use crate::providers::{self, Providers};
use crate::rng::SeededRng;
use crate::rows;
use crate::run::{Environment, PROVIDERS};
use crate::support::demo_accounts::endpoint;

const REFUNDS: usize = 3_000;
/// Refunds of the control run, which shows that the test would find a false doubt.
const CONTROL_REFUNDS: usize = 600;
const CONCURRENT_CALLS: usize = 8;
/// A connection is closed after it was idle for this long after an answer.
const IDLE: Duration = Duration::from_millis(4);

/// The result of one measurement.
struct Doubts {
    refunds: usize,
    /// Refunds that were in doubt.
    doubts: usize,
    /// Refunds in doubt whose request the provider never saw.
    unseen: usize,
    /// Connections that carried a refund.
    connections: usize,
}

/// Measures and prints both. A failure where a doubt was false.
pub(crate) fn run(base: &Path, seed: u64) -> ExitCode {
    let fresh = measure(base, seed, "fresh", REFUNDS, false);
    println!("idle-closing, a fresh connection for each refund (the default): {}", fresh.line());
    let pooled = measure(base, seed, "pooled", CONTROL_REFUNDS, true);
    println!("idle-closing, pooled connections, for comparison: {}", pooled.line());
    if fresh.unseen > 0 {
        println!("VIOLATION no false doubt: the provider never saw {} of the refunds in doubt", fresh.unseen);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn measure(base: &Path, seed: u64, name: &str, refunds: usize, pooled: bool) -> Doubts {
    let folder = base.join(format!("kill-idle-{name}-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let providers = Providers::start(&folder, providers::settings(Deduplication::On));
    // On TLS a relay cannot see where an answer ends: there the connection is closed as soon as a
    // second request arrives on it.
    providers.arm_second_requests(Provider::Sectigo, FaultEffect::Close);
    // Sectigo's are never pooled: nothing would prevent a second refund there.
    let used: &[Provider] = if pooled { &[Provider::Namecom, Provider::Debitsuccess] } else { &PROVIDERS };
    let accounts = used.iter().map(|provider| {
        let mut section = providers.account(*provider);
        if *provider != Provider::Sectigo {
            let relay = runtime.block_on(closing_when_idle(providers.address(*provider)));
            section.endpoint = endpoint(*provider, relay);
        }
        let settings = "requests_per_second = 0\nrequests_per_hour = 0\n";
        format!("{}{settings}reuse_connections = {pooled}\n", section.to_toml())
    });
    let environment = Environment::create(&folder, &accounts.collect::<String>());

    let mut plans = Plans::new("idle".to_owned(), SeededRng::new(seed, &[0]));
    let plans: Vec<Plan> = (0..refunds).map(|number| plans.plain(used[number % used.len()])).collect();
    providers.put(&plans);
    let gateway = environment.start().unwrap();
    let rng = Arc::new(Mutex::new(SeededRng::new(seed, &[1])));
    runtime.block_on(async {
        let client = callers::client(gateway.addr);
        let calls = stream::iter(plans.iter().enumerate()).map(|(number, plan)| {
            if number % 500 == 0 {
                providers.collect_journal();
            }
            let (mut client, rng) = (client.clone(), rng.clone());
            async move {
                let pause = rng.lock().unwrap().between(0, 8_000);
                tokio::time::sleep(Duration::from_micros(pause)).await;
                client.create_refund(plan.request()).await.unwrap();
            }
        });
        calls.buffer_unordered(CONCURRENT_CALLS).collect::<()>().await;
    });
    assert!(gateway.terminate().success());

    let records = providers.records();
    assert_eq!(records.dropped, 0, "the journal is complete");
    let ledger = rows::read(&environment.ledger);
    let seen = |plan: &&&Plan| {
        records.journal.iter().any(|entry| {
            let name = if entry.provider == Provider::Sectigo { &entry.target } else { &entry.identifier };
            let id = if entry.provider == Provider::Sectigo { &plan.parts()[0].0 } else { &plan.id };
            entry.moves_money && name.as_ref() == Some(id)
        })
    };
    let doubted: Vec<&Plan> = plans.iter().filter(|plan| ledger.was_in_doubt(&plan.id)).collect();
    let mut connections: Vec<u64> =
        records.journal.iter().filter(|entry| entry.moves_money).map(|entry| entry.connection).collect();
    connections.dedup();
    connections.sort_unstable();
    connections.dedup();
    let doubts = Doubts {
        refunds,
        doubts: doubted.len(),
        unseen: doubted.len() - doubted.iter().filter(seen).count(),
        connections: connections.len(),
    };
    if doubts.unseen == 0 || pooled {
        let _ = std::fs::remove_dir_all(&folder);
    }
    doubts
}

/// A relay to a provider that closes a connection that is idle after an answer. The provider never
/// sees a request that arrives too late.
async fn closing_when_idle(provider: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Both sides see the end, whatever caused it.
                let _ = carry(client, TcpStream::connect(provider).await?).await;
                std::io::Result::Ok(())
            });
        }
    });
    address
}

async fn carry(mut client: TcpStream, mut provider: TcpStream) -> std::io::Result<()> {
    let (mut request, mut answer) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut is_answered = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => match read? {
                0 => return Ok(()),
                read => {
                    is_answered = false;
                    provider.write_all(&request[..read]).await?;
                }
            },
            read = provider.read(&mut answer) => match read? {
                0 => return Ok(()),
                read => {
                    is_answered = true;
                    client.write_all(&answer[..read]).await?;
                }
            },
            () = tokio::time::sleep(IDLE), if is_answered => return Ok(()),
        }
    }
}

impl Doubts {
    fn line(&self) -> String {
        format!(
            "{} refunds on {} connections, {} in doubt, {} of them never seen by the provider",
            self.refunds, self.connections, self.doubts, self.unseen
        )
    }
}
