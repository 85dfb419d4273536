//! Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
//! shows the same refund.
//!
//! Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong
//! usage.

mod gateway;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use gateway::{Gateway, Settings, is_unanswered};
use recoup::refund::{MoneyVerdict, State};
use recoup::{Refund, RefundEvent};
use store::Store;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic_types::StatusExt;

/// The contract, as `build.rs` generates it.
mod recoup {
    tonic::include_proto!("recoup.v1");
}

/// How long to go on asking before the program leaves the refund to its next run.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_secs(2);

const NOT_MOVED: u8 = 4;
const UNDECIDED: u8 = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account, order, store] = arguments.as_slice() else {
        eprintln!("usage: recoup-example ACCOUNT ORDER STORE");
        return ExitCode::from(2);
    };
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    match run(settings, account, order, store).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings, account: &str, order: &str, store: &str) -> anyhow::Result<ExitCode> {
    let mut gateway = Gateway::connect(settings)?;
    let mut store = Store::open(store)?;
    let refund_id = store.refund_id(order)?;

    let Some(refund) = refund_until_decided(&mut gateway, account, order, &refund_id).await? else {
        eprintln!("refund {refund_id} is undecided: run the same command again");
        return Ok(ExitCode::from(UNDECIDED));
    };
    println!("created {refund_id} {} {}", state_name(&refund), verdict_name(&refund));
    if needs_a_person(&refund) {
        eprintln!("refund {refund_id} waits for a person: run the same command again when they have decided");
        return Ok(ExitCode::from(UNDECIDED));
    }

    let again = gateway.create_refund(account, order, &refund_id).await?;
    println!("replayed {refund_id} {}", again.replayed);
    show_refusal(&mut gateway, account, &refund_id).await?;
    follow_events(&mut gateway, &mut store, &refund).await?;
    println!("validation {}", gateway.validation_status(account, order).await?.order_status_text);

    Ok(match refund.money_verdict() {
        MoneyVerdict::Moved => ExitCode::SUCCESS,
        MoneyVerdict::NotMoved => ExitCode::from(NOT_MOVED),
        MoneyVerdict::MayHaveMoved | MoneyVerdict::Unspecified => ExitCode::from(UNDECIDED),
    })
}

/// Creates the refund and waits until it is decided or needs a person. After a call without an
/// answer it asks again, always under the same id. `None`: patience has run out.
async fn refund_until_decided(
    gateway: &mut Gateway,
    account: &str,
    order: &str,
    refund_id: &str,
) -> Result<Option<Refund>, Status> {
    let give_up = Instant::now() + PATIENCE;
    let mut seen: Option<Refund> = None;
    while Instant::now() < give_up {
        let answer = match &seen {
            None => gateway.create_refund(account, order, refund_id).await.map(|response| response.refund),
            Some(refund) => gateway.wait_refund(refund).await.map(|response| response.refund),
        };
        match answer {
            Ok(Some(refund)) if is_terminal(&refund) || needs_a_person(&refund) => return Ok(Some(refund)),
            Ok(refund) => seen = refund.or(seen),
            Err(status) if is_unanswered(&status) => {
                eprintln!("no answer about {refund_id} ({:?}): asking again", status.code());
                sleep(PAUSE).await;
            }
            Err(status) => return Err(status),
        }
    }
    Ok(None)
}

/// Asks for another order under the same id, which is refused, and prints why.
async fn show_refusal(gateway: &mut Gateway, account: &str, refund_id: &str) -> anyhow::Result<()> {
    let Err(status) = gateway.create_refund(account, "another-order", refund_id).await else {
        bail!("another order was taken under the id {refund_id}");
    };
    let info = status.get_details_error_info().with_context(|| format!("not refused but failed: {status}"))?;
    let mut fields: Vec<String> = info.metadata.get("differing_fields").cloned().into_iter().collect();
    if let Some(request) = status.get_details_bad_request() {
        fields.extend(request.field_violations.into_iter().map(|violation| violation.field));
    }
    println!("refused {} {}", info.reason, fields.join(","));
    Ok(())
}

/// Prints the refund's events that the store has not seen, then opens the stream once more where it
/// ended, as a program does after a restart.
async fn follow_events(gateway: &mut Gateway, store: &mut Store, refund: &Refund) -> anyhow::Result<()> {
    let seen = read_events(gateway, store, refund, Duration::from_secs(5)).await?;
    match (seen.first(), seen.last()) {
        (Some(first), Some(last)) => println!("events {} {}..{}", seen.len(), first.sequence, last.sequence),
        _ => println!("events 0"),
    }
    let after = store.last_sequence();
    read_events(gateway, store, refund, Duration::from_secs(1)).await?;
    println!("resumed after {after}");
    Ok(())
}

/// The refund's events after the store's last sequence, up to its latest revision.
async fn read_events(
    gateway: &mut Gateway,
    store: &mut Store,
    refund: &Refund,
    deadline: Duration,
) -> anyhow::Result<Vec<RefundEvent>> {
    let mut seen = Vec::new();
    let mut events = gateway.stream_events(store.last_sequence(), deadline).await?;
    while let Some(event) = events.next().await? {
        if event.sequence <= store.last_sequence() {
            bail!("event {} came twice", event.sequence);
        }
        store.set_last_sequence(event.sequence);
        if event.refund == refund.name {
            let is_last = event.revision >= refund.revision;
            eprintln!("{:>6} {}", event.sequence, event.note);
            seen.push(event);
            if is_last {
                break;
            }
        }
    }
    // Only now: after a crash, what was read since the last time comes again.
    store.save()?;
    Ok(seen)
}

fn is_terminal(refund: &Refund) -> bool {
    matches!(refund.state(), State::Succeeded | State::PartiallySucceeded | State::Failed | State::Cancelled)
}

fn needs_a_person(refund: &Refund) -> bool {
    matches!(refund.state(), State::NeedsReview | State::AwaitingApproval)
}

fn state_name(refund: &Refund) -> &'static str {
    refund.state().as_str_name().trim_start_matches("STATE_")
}

fn verdict_name(refund: &Refund) -> &'static str {
    refund.money_verdict().as_str_name().trim_start_matches("MONEY_VERDICT_")
}
