//! The yardsticks: the minimum of work on this machine, with the same libraries.
//!
//! - **echo**: a tonic handler that immediately answers with the same message as the gateway.
//! - **bare proxy**: a tonic handler that posts to the same simulators with the same client
//!   settings and reads the answer. It records nothing, checks nothing, and does not interpret the
//!   answer.
//! - **journaling proxy**: the bare proxy that also writes two lines to the disk for each refund,
//!   before the POST and after its answer. A thread writes all waiting lines with one write and one
//!   fdatasync. That is the minimum for a proxy that must not forget anything.
//! - **one-table gateway**: what a careful developer writes by hand, see `one_table.rs`. It shares
//!   this file's client and service, and runs in a process of its own.
//! - **bare SQLite loop**: one row and one commit after another, synced like the ledger.
//! - **bare axum**: a handler that reads a request and answers with fixed bytes.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use futures_util::Stream;
use prost::Message as _;
use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund_service_server::{RefundService, RefundServiceServer};
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use recoup::proto::v1::validation_status_service_server::{ValidationStatusService, ValidationStatusServiceServer};
use reqwest::{Certificate, Client, ClientBuilder};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::Stage;
use crate::callers::{self, CALLERS, Gate, Targets, Way};
use crate::one_table::Table;
use crate::providers::{self, Providers};
use crate::report::{Reach, Row, median};

/// Echo and proxy in one service: the method and the account of a call decide between them.
struct Bare {
    created: proto::CreateRefundResponse,
    got: proto::GetRefundResponse,
    status: proto::GetValidationStatusResponse,
    fresh: Client,
    pooled: Client,
    tls: Client,
    sectigo: String,
    namecom: String,
    /// What it keeps of a refund.
    memory: Memory,
}

/// What a yardstick keeps of a refund.
enum Memory {
    Nothing,
    Journal(Journal),
    Table(Table),
}

/// A provider's answer, as it arrived.
pub(crate) struct ProviderAnswer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Sends lines to the writing thread, each with a channel that confirms that it is on the disk.
struct Journal(mpsc::UnboundedSender<(Bytes, oneshot::Sender<()>)>);

/// The order of the status requests, whose page has every documented field.
pub(crate) const ORDER: &str = "3000001";
/// The size of a page of SQLite and of the disk cache.
const PAGE: usize = 4096;
/// The file is overwritten from its start again, like a log.
const FILE_PAGES: u64 = 1024;

/// Saves answers of the gateway for the echo.
pub(crate) async fn sample_answers(folder: &Path, gate: &Gate, providers: &Providers, targets: &mut Targets) {
    let request = targets.requests(providers, Way::Fresh, 1).await.remove(0);
    let created = gate.refunds(0).create_refund(request).await.unwrap().into_inner();
    let name = created.refund.as_ref().unwrap().name.clone();
    let got = gate.refunds(0).get_refund(proto::GetRefundRequest { name }).await.unwrap().into_inner();
    let status = ValidationStatusServiceClient::new(gate.channel(0));
    let status = status.clone().get_validation_status(status_request(ORDER)).await.unwrap().into_inner();
    fs::write(folder.join("created"), created.encode_to_vec()).unwrap();
    fs::write(folder.join("got"), got.encode_to_vec()).unwrap();
    fs::write(folder.join("status"), status.encode_to_vec()).unwrap();
}

/// A status request with a `max_age` of an hour.
pub(crate) fn status_request(order: &str) -> proto::GetValidationStatusRequest {
    proto::GetValidationStatusRequest {
        account: Way::Tls.account().to_owned(),
        order_number: order.to_owned(),
        max_age: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..Default::default()
    }
}

/// The role of the yardsticks: serves, and returns the addresses.
pub(crate) async fn serve(folder: &Path, addresses: &str) -> Value {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let journal = Journal::begin(SyncedFile::make(folder));
    let addresses_served = json!({
        "grpc": serve_service(Bare::with(folder, addresses, Memory::Nothing)).await,
        "journaling": serve_service(Bare::with(folder, addresses, Memory::Journal(journal))).await,
        "http": http.local_addr().unwrap(),
    });
    let answer = Bytes::from(fs::read(folder.join("got")).unwrap());
    let handler = move |body: Bytes| async move {
        drop(body);
        answer
    };
    let router = Router::new().route("/core/v1/refund", post(handler));
    tokio::spawn(async move { axum::serve(http, router).await });
    addresses_served
}

/// Serves the one-table gateway, and returns its address.
pub(crate) async fn serve_one_table(folder: &Path, addresses: &str, table: Table) -> SocketAddr {
    serve_service(Bare::with(folder, addresses, Memory::Table(table))).await
}

async fn serve_service(bare: Bare) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = futures_util::StreamExt::map(TcpListenerStream::new(listener), |stream| {
        stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
    });
    let bare = Arc::new(bare);
    let services = tonic::transport::Server::builder()
        .add_service(RefundServiceServer::from_arc(bare.clone()))
        .add_service(ValidationStatusServiceServer::from_arc(bare));
    tokio::spawn(services.serve_with_incoming(incoming));
    address
}

/// A client with the gateway's settings, see `src/http/client.rs`.
fn client_builder() -> ClientBuilder {
    Client::builder()
        .user_agent("recoup/bench")
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(60))
        .pool_idle_timeout(Duration::from_secs(10))
}

impl Journal {
    fn begin(mut file: SyncedFile) -> Journal {
        let (sender, mut lines) = mpsc::unbounded_channel::<(Bytes, oneshot::Sender<()>)>();
        thread::spawn(move || {
            let mut batch = Vec::new();
            while lines.blocking_recv_many(&mut batch, CALLERS) > 0 {
                let text: Vec<u8> = batch.iter().flat_map(|(line, _)| line.iter().copied()).collect();
                file.write(&text);
                batch.drain(..).for_each(|(_, written)| written.send(()).unwrap());
            }
        });
        Journal(sender)
    }

    /// The line is on the disk when this returns.
    async fn write(&self, line: Bytes) {
        let (sender, written) = oneshot::channel();
        self.0.send((line, sender)).unwrap();
        written.await.unwrap();
    }
}

impl Bare {
    fn with(folder: &Path, addresses: &str, memory: Memory) -> Bare {
        let addresses: Value = serde_json::from_str(addresses).unwrap();
        let read = |name: &str| Bytes::from(fs::read(folder.join(name)).unwrap());
        let authority = Certificate::from_pem(&fs::read(providers::ca_file(folder)).unwrap()).unwrap();
        let unpooled = || client_builder().pool_max_idle_per_host(0);
        Bare {
            created: proto::CreateRefundResponse::decode(read("created")).unwrap(),
            got: proto::GetRefundResponse::decode(read("got")).unwrap(),
            status: proto::GetValidationStatusResponse::decode(read("status")).unwrap(),
            fresh: unpooled().tls_certs_only([]).build().unwrap(),
            pooled: client_builder().tls_certs_only([]).build().unwrap(),
            tls: unpooled().https_only(true).tls_certs_only([authority]).build().unwrap(),
            sectigo: format!("https://{}/products/!AutoRefund", addresses["sectigo"].as_str().unwrap()),
            namecom: format!("http://{}/core/v1/refund", addresses["namecom"].as_str().unwrap()),
            memory,
        }
    }

    async fn send(&self, request: &proto::CreateRefundRequest) -> Result<ProviderAnswer, reqwest::Error> {
        let call = match request.target.as_ref().unwrap() {
            Target::Sectigo(target) => {
                self.tls.post(&self.sectigo).header("content-type", "application/x-www-form-urlencoded").body(format!(
                    "loginName=demo&loginPassword=demo-password&orderNumber={}&refundReasonCode={}",
                    target.order_number, target.reason
                ))
            }
            Target::Namecom(target) => {
                let client = if request.account == Way::Pooled.account() { &self.pooled } else { &self.fresh };
                client
                    .post(&self.namecom)
                    .header("authorization", "Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=")
                    .header("content-type", "application/json")
                    .header("x-idempotency-key", &request.refund_id)
                    .body(format!("{{\"orderId\":{},\"orderItemIds\":{:?}}}", target.order_id, target.order_item_ids))
            }
            Target::Debitsuccess(_) => unreachable!("no row refunds there"),
        };
        let answer = call.send().await?;
        let status = answer.status().as_u16();
        Ok(ProviderAnswer { status, body: answer.bytes().await? })
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("a yardstick"))
}

#[tonic::async_trait]
impl RefundService for Bare {
    async fn create_refund(&self, request: Request<proto::CreateRefundRequest>) -> Answer<proto::CreateRefundResponse> {
        let request = request.get_ref();
        if let Memory::Table(table) = &self.memory {
            return table.create(request, self.send(request)).await.map(Response::new);
        }
        if let Memory::Journal(journal) = &self.memory {
            journal.write(request.encode_to_vec().into()).await;
        }
        let answer = self.send(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if let Memory::Journal(journal) = &self.memory {
            journal.write(answer.body.clone()).await;
        }
        // Sectigo refuses with status 200 and a negative number.
        if answer.body.starts_with(b"-") {
            Err(Status::unavailable("refused"))
        } else {
            Ok(Response::new(self.created.clone()))
        }
    }

    async fn get_refund(&self, _: Request<proto::GetRefundRequest>) -> Answer<proto::GetRefundResponse> {
        Ok(Response::new(self.got.clone()))
    }

    async fn list_refunds(&self, _: Request<proto::ListRefundsRequest>) -> Answer<proto::ListRefundsResponse> {
        not_here()
    }

    async fn wait_refund(&self, _: Request<proto::WaitRefundRequest>) -> Answer<proto::WaitRefundResponse> {
        not_here()
    }

    async fn cancel_refund(&self, _: Request<proto::CancelRefundRequest>) -> Answer<proto::CancelRefundResponse> {
        not_here()
    }

    async fn reconcile_refund(
        &self,
        _: Request<proto::ReconcileRefundRequest>,
    ) -> Answer<proto::ReconcileRefundResponse> {
        not_here()
    }

    async fn resolve_refund(&self, _: Request<proto::ResolveRefundRequest>) -> Answer<proto::ResolveRefundResponse> {
        not_here()
    }

    async fn reassign_refund(&self, _: Request<proto::ReassignRefundRequest>) -> Answer<proto::ReassignRefundResponse> {
        not_here()
    }

    async fn approve_refund(&self, _: Request<proto::ApproveRefundRequest>) -> Answer<proto::ApproveRefundResponse> {
        not_here()
    }

    async fn reject_refund(&self, _: Request<proto::RejectRefundRequest>) -> Answer<proto::RejectRefundResponse> {
        not_here()
    }

    async fn list_refund_events(
        &self,
        _: Request<proto::ListRefundEventsRequest>,
    ) -> Answer<proto::ListRefundEventsResponse> {
        not_here()
    }

    type StreamRefundEventsStream =
        Pin<Box<dyn Stream<Item = Result<proto::StreamRefundEventsResponse, Status>> + Send + 'static>>;

    async fn stream_refund_events(
        &self,
        _: Request<proto::StreamRefundEventsRequest>,
    ) -> Answer<Self::StreamRefundEventsStream> {
        not_here()
    }
}

#[tonic::async_trait]
impl ValidationStatusService for Bare {
    async fn get_validation_status(
        &self,
        _: Request<proto::GetValidationStatusRequest>,
    ) -> Answer<proto::GetValidationStatusResponse> {
        Ok(Response::new(self.status.clone()))
    }

    type WatchValidationStatusStream =
        Pin<Box<dyn Stream<Item = Result<proto::WatchValidationStatusResponse, Status>> + Send + 'static>>;

    async fn watch_validation_status(
        &self,
        _: Request<proto::WatchValidationStatusRequest>,
    ) -> Answer<Self::WatchValidationStatusStream> {
        not_here()
    }
}

/// A file of a fixed size that is overwritten again and again, and synced with every write.
pub(crate) struct SyncedFile {
    file: File,
    offset: u64,
}

impl SyncedFile {
    pub(crate) fn make(folder: &Path) -> SyncedFile {
        let file = File::create(folder.join("synced")).unwrap();
        file.write_all_at(&vec![1; PAGE * FILE_PAGES as usize], 0).unwrap();
        file.sync_all().unwrap();
        SyncedFile { file, offset: 0 }
    }

    /// One write and fdatasync.
    fn write(&mut self, bytes: &[u8]) {
        if self.offset + bytes.len() as u64 > PAGE as u64 * FILE_PAGES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset).unwrap();
        self.file.sync_data().unwrap();
        self.offset += bytes.len() as u64;
    }

    /// One 4 KiB write and fdatasync.
    pub(crate) fn write_page(&mut self) -> Duration {
        let began = Instant::now();
        self.write(&[2; PAGE]);
        began.elapsed()
    }
}

/// Rows without a target: what the machine, SQLite and the simulators can do by themselves.
pub(crate) async fn on_this_machine(stage: &mut Stage) -> Vec<Row> {
    let plain = |what: &str, value: f64, name: &'static str, yardstick: f64| {
        Row::paired(what, "/s", &[value], name, &[yardstick], Reach::Nothing)
    };
    let syncs = sync_rate(&stage.folder, stage.extent.singles);
    let commits = commit_rate(&stage.folder, stage.extent.singles);
    let (mut served, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..stage.extent.rounds.min(9) {
        let requests = stage.targets.requests(&stage.providers, Way::Pooled, stage.extent.refunds).await;
        let simulators = format!("http://{}/core/v1/refund", stage.providers.namecom());
        served.push(posts(simulators, requests.clone()).await);
        bare.push(posts(format!("http://{}/core/v1/refund", stage.yardsticks.address("http")), requests).await);
    }
    vec![
        plain("SQLite: one row, one commit, one after the other", commits, "4 KiB write + fdatasync", syncs),
        plain("simulators: refunds, by the same client", median(&served), "bare axum", median(&bare)),
    ]
}

fn sync_rate(folder: &Path, count: usize) -> f64 {
    let mut file = SyncedFile::make(folder);
    count as f64 / (0..count).map(|_| file.write_page()).sum::<Duration>().as_secs_f64()
}

/// The bare SQLite loop.
fn commit_rate(folder: &Path, count: usize) -> f64 {
    let connection = Connection::open(folder.join("bare.db")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;",
        )
        .unwrap();
    let text = "x".repeat(500);
    let began = Instant::now();
    for _ in 0..count {
        let insert = "INSERT INTO rows (text) VALUES (?1)";
        connection.prepare_cached(insert).unwrap().execute([&text]).unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// POSTs a second, on pooled connections.
async fn posts(url: String, requests: Vec<proto::CreateRefundRequest>) -> f64 {
    let (client, count) = (client_builder().build().unwrap(), requests.len());
    let took = callers::saturate(count, CALLERS, move |_, index| {
        let request = &requests[index];
        let Some(Target::Namecom(target)) = &request.target else { unreachable!("the requests are for name.com") };
        let call = client
            .post(&url)
            .header("authorization", "Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=")
            .header("content-type", "application/json")
            .header("x-idempotency-key", &request.refund_id)
            .body(format!("{{\"orderId\":{},\"orderItemIds\":{:?}}}", target.order_id, target.order_item_ids));
        async move {
            let answer = call.send().await.unwrap();
            assert!(answer.status().is_success());
            answer.bytes().await.unwrap();
        }
    })
    .await;
    count as f64 / took.as_secs_f64()
}
