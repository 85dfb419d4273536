//! False doubt: a provider that closes idle connections, and refunds of which it never saw the
//! request.
//!
//! A client that sends a refund on a connection which the provider is just closing loses it for
//! nothing: no provider ever saw it, and yet nobody can know that. With a fresh connection for each
//! refund there is none of this. The same refunds on pooled connections, where the setting allows
//! them, show that the provider closes at the worst moment indeed.

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
use crate::rng::Dice;
use crate::rows;
use crate::run::{House, PROVIDERS, account, word};

/// Refunds in all.
const REFUNDS: usize = 3_000;
/// Of these many the control run shows that the test could find something.
const CONTROL: usize = 600;
/// Callers at once.
const AT_ONCE: usize = 8;
/// Idle for so long behind an answer, a connection is closed.
const IDLE: Duration = Duration::from_millis(4);

/// What came of it.
struct Doubts {
    refunds: usize,
    /// Refunds with an attempt of which nobody knows the outcome.
    doubts: usize,
    /// Of these, those that the provider never saw.
    unseen: usize,
    /// Connections that carried a refund.
    connections: usize,
}

/// Runs it, prints what it came to; a failure where a doubt was false.
pub(crate) fn run(base: &Path, seed: u64) -> ExitCode {
    let fresh = measure(base, seed, "fresh", REFUNDS, false);
    println!("idle-closing, a fresh connection for each refund (the default): {}", fresh.line());
    let pooled = measure(base, seed, "pooled", CONTROL, true);
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
    // On TLS nobody in between can tell an answer's end: there a connection is closed just as a
    // second request comes in on it.
    providers.arm_second_requests(Provider::Sectigo, FaultEffect::Close);
    // Sectigo's are never pooled: nothing would stop a second refund there.
    let used: &[Provider] = if pooled { &[Provider::Namecom, Provider::Debitsuccess] } else { &PROVIDERS };
    let accounts = used.iter().map(|provider| {
        let more = format!("requests_per_second = 0\nrequests_per_hour = 0\nreuse_connections = {}\n", pooled);
        let settings = account(&providers, *provider, word(*provider), &more);
        if *provider == Provider::Sectigo {
            return settings;
        }
        let there = providers.address(*provider);
        settings.replace(&there.to_string(), &runtime.block_on(closing_when_idle(there)).to_string())
    });
    let house = House::furnish(&folder, &accounts.collect::<String>());

    let mut plans = Plans::new("idle".to_owned(), Dice::new(seed, &[0]));
    let plans: Vec<Plan> = (0..refunds).map(|number| plans.plain(used[number % used.len()])).collect();
    providers.put(&plans);
    let gateway = house.start().unwrap();
    let dice = Arc::new(Mutex::new(Dice::new(seed, &[1])));
    runtime.block_on(async {
        let client = callers::client(gateway.addr);
        let calls = stream::iter(plans.iter().enumerate()).map(|(number, plan)| {
            if number % 500 == 0 {
                providers.gather();
            }
            let (mut client, dice) = (client.clone(), dice.clone());
            async move {
                let pause = dice.lock().unwrap().between(0, 8_000);
                tokio::time::sleep(Duration::from_micros(pause)).await;
                client.create_refund(plan.request()).await.unwrap();
            }
        });
        calls.buffer_unordered(AT_ONCE).collect::<()>().await;
    });
    assert!(gateway.terminate().success());

    let truth = providers.truth();
    assert_eq!(truth.dropped, 0, "the journal is whole");
    let ledger = rows::read(&house.ledger);
    let seen = |plan: &&&Plan| {
        truth.journal.iter().any(|entry| {
            let name = if entry.provider == Provider::Sectigo { &entry.target } else { &entry.identifier };
            let id = if entry.provider == Provider::Sectigo { &plan.parts()[0].0 } else { &plan.id };
            entry.moves_money && name.as_ref() == Some(id)
        })
    };
    let doubted: Vec<&Plan> = plans.iter().filter(|plan| ledger.was_in_doubt(&plan.id)).collect();
    let mut connections: Vec<u64> =
        truth.journal.iter().filter(|entry| entry.moves_money).map(|entry| entry.connection).collect();
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

/// A way to a provider on which a connection that is idle behind an answer is closed. What comes in
/// too late no provider sees.
async fn closing_when_idle(provider: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                // However it ends, both sides see it end.
                let _ = carry(client, TcpStream::connect(provider).await?).await;
                std::io::Result::Ok(())
            });
        }
    });
    address
}

async fn carry(mut client: TcpStream, mut provider: TcpStream) -> std::io::Result<()> {
    let (mut asked, mut answered) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut is_answered = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read? {
                0 => return Ok(()),
                read => {
                    is_answered = false;
                    provider.write_all(&asked[..read]).await?;
                }
            },
            read = provider.read(&mut answered) => match read? {
                0 => return Ok(()),
                read => {
                    is_answered = true;
                    client.write_all(&answered[..read]).await?;
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
