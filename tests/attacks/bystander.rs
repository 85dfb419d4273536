//! A well-behaved caller with an address of its own, who reads refunds, creates one now and then,
//! and asks for the gateway's health.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use hyper_util::rt::TokioIo;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

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

/// How a caller reaches the gateway, and what it shows there.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    pub(crate) token: ShownToken,
    /// None: without encryption.
    pub(crate) tls: Option<TlsConnector>,
}

impl Route {
    /// A connection from the bystander's address.
    pub(crate) async fn channel(&self) -> Result<CallerChannel, Error> {
        self.channel_from(ADDRESS).await
    }

    pub(crate) async fn channel_from(&self, from: Ipv4Addr) -> Result<CallerChannel, Error> {
        let Route { to, token, tls } = self.clone();
        let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap().connect_timeout(LIMIT);
        let channel = match tls {
            None => {
                let connector = service_fn(move |_: Uri| async move { connect(from, to).await.map(TokioIo::new) });
                endpoint.connect_with_connector(connector).await
            }
            Some(tls) => {
                let connector = service_fn(move |_: Uri| {
                    let tls = tls.clone();
                    async move {
                        let stream = connect(from, to).await?;
                        tls.connect(to.ip().into(), stream).await.map(TokioIo::new)
                    }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        Ok(InterceptedService::new(channel?, token))
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Calls for `time`, each on a connection of its own if `reconnects`.
pub(crate) async fn watch(route: &Route, time: Duration, reconnects: bool, name: &str) -> Seen {
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
                None => route.channel().await.map_err(|error| format!("could not connect: {error:?}"))?,
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
