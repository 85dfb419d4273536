//! The callers: many concurrent ones on a few connections. Each makes its next call when it has its
//! answer.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::providers::Providers;

/// How a refund is sent to its provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// name.com, http, each POST on a connection of its own: the default.
    Fresh,
    /// name.com, http, pooled connections.
    Pooled,
    /// Sectigo, each POST on a TLS connection of its own.
    Tls,
}

/// Connections to one gRPC port.
#[derive(Clone)]
pub(crate) struct Gate {
    channels: Arc<Vec<Channel>>,
    /// The header with the caller's token, if the port asks for one.
    authorization: Option<MetadataValue<Ascii>>,
}

/// Numbers of orders without a refund.
pub(crate) struct Targets(i32);

/// Concurrent callers in every saturated row.
pub(crate) const CALLERS: usize = 64;
/// Connections that the callers share. A thousand callers still fit into their streams.
const CONNECTIONS: usize = 8;
/// Far from the demo data, and from what the large ledger holds.
const FIRST_TARGET: i32 = 500_000_000;

impl Way {
    pub(crate) fn account(self) -> &'static str {
        match self {
            Way::Fresh => "namecom",
            Way::Pooled => "namecom-pooled",
            Way::Tls => "sectigo",
        }
    }

    /// A refund of one order.
    pub(crate) fn request(self, number: i32) -> proto::CreateRefundRequest {
        let target = match self {
            Way::Fresh | Way::Pooled => {
                Target::Namecom(proto::NamecomTarget { order_id: number, order_item_ids: vec![number] })
            }
            Way::Tls => Target::Sectigo(proto::SectigoTarget {
                order_number: number.to_string(),
                reason: proto::SectigoRefundReason::Other.into(),
            }),
        };
        proto::CreateRefundRequest {
            refund_id: format!("load-{number}"),
            account: self.account().to_owned(),
            target: Some(target),
            ..Default::default()
        }
    }
}

impl Default for Targets {
    fn default() -> Self {
        Targets(FIRST_TARGET)
    }
}

impl Targets {
    /// New numbers, whose orders are not put.
    pub(crate) fn numbers(&mut self, count: usize) -> Range<i32> {
        let numbers = self.0..self.0 + i32::try_from(count).unwrap();
        self.0 = numbers.end;
        numbers
    }

    /// Puts new orders, and returns the requests that refund them.
    pub(crate) async fn requests(
        &mut self,
        providers: &Providers,
        way: Way,
        count: usize,
    ) -> Vec<proto::CreateRefundRequest> {
        let numbers = self.numbers(count);
        providers.put(way, numbers.clone()).await;
        numbers.map(|number| way.request(number)).collect()
    }
}

impl Gate {
    pub(crate) async fn open(address: SocketAddr) -> Gate {
        let connect = async || Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Gate::open_with(connect, None).await
    }

    /// Connections that `connect` opens, for a caller with this `authorization`.
    pub(crate) async fn open_with(
        connect: impl AsyncFn() -> Channel,
        authorization: Option<MetadataValue<Ascii>>,
    ) -> Gate {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(connect().await);
        }
        Gate { channels: Arc::new(channels), authorization }
    }

    /// One of the connections.
    pub(crate) fn channel(&self, caller: usize) -> Channel {
        self.channels[caller % self.channels.len()].clone()
    }

    pub(crate) fn refunds(&self, caller: usize) -> RefundServiceClient<Channel> {
        RefundServiceClient::new(self.channel(caller))
    }

    /// Creates these refunds with this many callers. Returns how long it took.
    pub(crate) async fn create(&self, requests: Vec<proto::CreateRefundRequest>, callers: usize) -> Duration {
        let (gate, requests) = (self.clone(), Arc::new(requests));
        saturate(requests.len(), callers, move |caller, index| {
            let (gate, request) = (gate.clone(), requests[index].clone());
            async move { gate.create_one(caller, request).await }
        })
        .await
    }

    /// Creates one refund, which must succeed.
    pub(crate) async fn create_one(&self, caller: usize, request: proto::CreateRefundRequest) {
        let mut request = Request::new(request);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let answer = self.refunds(caller).create_refund(request).await.unwrap().into_inner();
        let refund = answer.refund.unwrap();
        assert_eq!(refund.state(), State::Succeeded, "{refund:?}");
    }
}

/// Makes `calls` calls with `callers` concurrent callers. Returns how long it took.
pub(crate) async fn saturate<F>(
    calls: usize,
    callers: usize,
    call: impl Fn(usize, usize) -> F + Send + Sync + 'static,
) -> Duration
where
    F: Future<Output = ()> + Send,
{
    let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (next, call) = (next.clone(), call.clone());
        running.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= calls {
                    return;
                }
                call(caller, index).await;
            }
        });
    }
    while let Some(joined) = running.join_next().await {
        joined.unwrap();
    }
    began.elapsed()
}
