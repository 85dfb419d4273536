//! A well-behaved caller with an address of its own, who reads refunds, creates one now and then,
//! and asks for the gateway's health.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tokio::time::{Instant, sleep_until};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Between the starts of two calls.
const PACE: Duration = Duration::from_millis(20);
/// A call that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// What the bystander saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) failures: Vec<String>,
    times: Vec<Duration>,
}

/// The token that a caller shows; None where every call is allowed.
#[derive(Clone, Default)]
pub(crate) struct ShownToken(pub(crate) Option<AsciiMetadataValue>);

/// A connection whose calls show a token.
pub(crate) type CallerChannel = InterceptedService<Channel, ShownToken>;

impl ShownToken {
    pub(crate) fn new(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().unwrap()))
    }
}

impl Interceptor for ShownToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection from the bystander's address.
pub(crate) async fn channel(to: SocketAddr, token: &ShownToken) -> Result<CallerChannel, tonic::transport::Error> {
    channel_from(ADDRESS, to, token).await
}

pub(crate) async fn channel_from(
    from: Ipv4Addr,
    to: SocketAddr,
    token: &ShownToken,
) -> Result<CallerChannel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap().local_address(Some(IpAddr::V4(from)));
    let channel = endpoint.connect_timeout(LIMIT).connect().await?;
    Ok(InterceptedService::new(channel, token.clone()))
}

/// Calls for `time`, each on a connection of its own if `reconnects`.
pub(crate) async fn watch(to: SocketAddr, token: &ShownToken, time: Duration, reconnects: bool, name: &str) -> Seen {
    let mut seen = Seen::default();
    let end = Instant::now() + time;
    let mut next = Instant::now();
    let mut open: Option<CallerChannel> = None;
    while next < end {
        sleep_until(next).await;
        let began = Instant::now();
        let number = seen.calls;
        let call = async {
            let channel = match open.take().filter(|_| !reconnects) {
                Some(channel) => channel,
                None => channel(to, token).await.map_err(|error| format!("could not connect: {error:?}"))?,
            };
            one_call(channel.clone(), name, number).await.map_err(|status| format!("{status:?}"))?;
            Ok::<_, String>(channel)
        };
        match tokio::time::timeout(LIMIT, call).await {
            Ok(Ok(channel)) => open = Some(channel),
            Ok(Err(failure)) => seen.failures.push(failure),
            Err(_) => seen.failures.push(format!("no answer in {LIMIT:?}")),
        }
        seen.calls += 1;
        seen.times.push(began.elapsed());
        next = (next + PACE).max(Instant::now());
    }
    seen
}

async fn one_call(channel: CallerChannel, name: &str, number: usize) -> Result<(), Status> {
    let mut refunds = RefundServiceClient::new(channel.clone());
    match number % 5 {
        0 => {
            let mut create = crate::stack::debitsuccess(&format!("{name}-{number}"));
            create.wait = Some(prost_types::Duration::default());
            refunds.create_refund(create).await.map(drop)
        }
        1 => HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop),
        _ => refunds.get_refund(proto::GetRefundRequest { name: "refunds/seed-1".to_owned() }).await.map(drop),
    }
}

impl Seen {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ok = self.calls - self.failures.len();
        let millis = |percent| self.percentile(percent).as_secs_f64() * 1_000.0;
        write!(
            formatter,
            "{ok} of {} ok, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.calls,
            millis(50),
            millis(99),
            millis(100)
        )
    }
}
