//! Attacks by a caller that has a token, through an ordinary client: at full speed, or with as many
//! streams as it gets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use secrecy::ExposeSecret as _;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::attackers::Counts;
use crate::bystander::{CallerChannel, Route, ShownToken};

pub(crate) const RECONCILES: &str = "reconciles";
pub(crate) const MAX_SIZE_REFUNDS: &str = "largest_refunds";
pub(crate) const STATUSES: &str = "statuses";
pub(crate) const LISTS: &str = "lists";
pub(crate) const STREAMS: &str = "streams";
pub(crate) const WATCHES: &str = "watches";
pub(crate) const WRONG_TOKENS: &str = "wrong_tokens";
pub(crate) const ATTACKS: [&str; 7] = [RECONCILES, MAX_SIZE_REFUNDS, STATUSES, LISTS, STREAMS, WATCHES, WRONG_TOKENS];

/// All from one address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Calls without a pause until the process is killed. What is refused counts as ended, and as odd
/// where the refusal does not say that it is the caller's own limit or credential.
pub(crate) async fn run(name: String, number: usize, to: SocketAddr, token: ShownToken, counts: Arc<Counts>) {
    let wrong = Token::generate().ok().unwrap();
    let token = if name == WRONG_TOKENS { ShownToken::new(wrong.expose_secret()) } else { token };
    let route = Route { to, token, tls: None };
    let mut next = 0;
    loop {
        let Ok(channel) = route.channel_from(ADDRESS).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            next += 1;
            counts.made.fetch_add(1, Ordering::Relaxed);
            match call(&name, &format!("{number}-{next}"), channel.clone()).await {
                Ok(()) => {}
                Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::Unauthenticated) => {
                    counts.ended.fetch_add(1, Ordering::Relaxed);
                    let expected = if name == WRONG_TOKENS { "CREDENTIALS_INVALID" } else { "QUOTA_EXCEEDED" };
                    if status.get_error_details().error_info().is_none_or(|info| info.reason != expected) {
                        counts.odd.fetch_add(1, Ordering::Relaxed);
                        eprintln!("not {expected}: {status:?}");
                    }
                }
                // The provider does not know the order, or the connection has ended.
                Err(status) if status.code() != Code::Unknown => {}
                Err(_) => break,
            }
        }
    }
}

async fn call(name: &str, id: &str, channel: CallerChannel) -> Result<(), Status> {
    let mut refunds = RefundServiceClient::new(channel.clone());
    match name {
        RECONCILES => {
            let reconcile = proto::ReconcileRefundRequest { name: "refunds/seed-1".to_owned() };
            refunds.reconcile_refund(reconcile).await.map(drop)
        }
        MAX_SIZE_REFUNDS => {
            let mut create = crate::stack::debitsuccess(&format!("largest-{id}"));
            create.labels = (0..32).map(|label| (format!("label-{label}"), "v".repeat(256))).collect();
            create.wait = Some(prost_types::Duration::default());
            refunds.create_refund(create).await.map(drop)
        }
        STATUSES => {
            let mut statuses = ValidationStatusServiceClient::new(channel);
            let status = proto::GetValidationStatusRequest {
                account: "sectigo".to_owned(),
                order_number: "3000001".to_owned(),
                ..Default::default()
            };
            statuses.get_validation_status(status).await.map(drop)
        }
        LISTS | WRONG_TOKENS => {
            refunds.list_refunds(proto::ListRefundsRequest { page_size: 1_000, ..Default::default() }).await.map(drop)
        }
        STREAMS => {
            let stream = refunds.stream_refund_events(proto::StreamRefundEventsRequest::default()).await?;
            // It is read, and never ends by itself.
            tokio::spawn(async move {
                let mut stream = stream.into_inner();
                while let Ok(Some(_)) = stream.message().await {}
            });
            Ok(())
        }
        WATCHES => {
            let mut statuses = ValidationStatusServiceClient::new(channel);
            let watch = proto::WatchValidationStatusRequest {
                account: "sectigo".to_owned(),
                order_number: "3000001".to_owned(),
                ..Default::default()
            };
            let stream = statuses.watch_validation_status(watch).await?;
            tokio::spawn(async move {
                let mut stream = stream.into_inner();
                while let Ok(Some(_)) = stream.message().await {}
            });
            Ok(())
        }
        other => panic!("there is no attack {other}"),
    }
}
