//! The gRPC server: services, limits and shutdown.
//!
//! ```text
//! refunds validation accounts audit health
//!                                     services: convert the request, call, convert the answer
//! convert page_token deadline         between the public contract and the domain
//! status                              the only mapping from an error to a tonic::Status
//! layers                              applied to every call
//! connection                          limits of every connection
//! ```

mod accounts;
mod audit;
mod connection;
mod convert;
mod deadline;
pub mod health;
mod layers;
mod page_token;
mod refunds;
mod status;
mod validation;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use crate::api::accounts::AccountsApi;
use crate::api::audit::AuditApi;
use crate::api::health::{HealthApi, Readiness};
use crate::api::layers::call_limit::CallLimitLayer;
use crate::api::layers::call_metrics::KnownMethods;
use crate::api::refunds::RefundsApi;
use crate::api::validation::ValidationApi;
use crate::checkpoint::Checkpoints;
use crate::engine::Engine;
use crate::proto::v1::account_service_server::AccountServiceServer;
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::refund_service_server::RefundServiceServer;
use crate::proto::v1::validation_status_service_server::ValidationStatusServiceServer;
use crate::telemetry::metrics::Metrics;
use crate::validation::Validation;

/// The gRPC server's settings.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Longest time that CreateRefund and WaitRefund wait for an outcome.
    pub max_wait: Duration,
    /// Maximum of concurrent calls over all connections; further calls are answered UNAVAILABLE.
    pub max_concurrent_calls: usize,
    /// Maximum of concurrent HTTP/2 streams on one connection.
    pub max_streams_per_connection: u32,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            // Below the 60 s after which many proxies end a call that sends nothing.
            max_wait: Duration::from_secs(50),
            max_concurrent_calls: 1024,
            max_streams_per_connection: 200,
        }
    }
}

/// What answers the calls.
pub struct Answering {
    pub engine: Engine,
    pub validation: Validation,
    pub checkpoints: Checkpoints,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of the contract are inconsistent.
    #[error("could not build the reflection service: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("could not serve the gRPC port: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The descriptor set of the public contract, for reflection.
const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("recoup_descriptors");

/// Well above every message of the contract: the longest is a Debitsuccess refund with all its
/// labels, some 25 kB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Further connections wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// Protects against clients that open and reset streams faster than they can be served.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 1024;
/// A peer that vanishes without closing is detected after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Lets a service accept gzip, and limits its messages to [`MAX_REQUEST_BYTES`], compressed and
/// uncompressed. A macro, because the generated services have no common trait.
macro_rules! bounded {
    ($service:expr) => {
        $service.max_decoding_message_size(MAX_REQUEST_BYTES).accept_compressed(CompressionEncoding::Gzip)
    };
}

/// Serves until `closing` is cancelled and the calls in flight have ended.
///
/// # Errors
/// [`ServeError`] if the port cannot be served.
pub async fn serve(
    listener: TcpListener,
    answering: Answering,
    readiness: watch::Receiver<Readiness>,
    settings: ApiSettings,
    metrics: Metrics,
    closing: CancellationToken,
) -> Result<(), ServeError> {
    let Answering { engine, validation, checkpoints } = answering;
    let refunds = RefundServiceServer::new(RefundsApi { engine: engine.clone(), max_wait: settings.max_wait });
    let accounts = AccountServiceServer::new(AccountsApi { engine });
    let audit = AuditServiceServer::new(AuditApi { checkpoints });
    let validation = ValidationStatusServiceServer::new(ValidationApi::new(validation));
    let services = [
        "recoup.v1.RefundService",
        "recoup.v1.AccountService",
        "recoup.v1.AuditService",
        "recoup.v1.ValidationStatusService",
    ]
    .to_vec();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The types of error details, so that tools can print them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let methods = KnownMethods::from_descriptors(&[
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]);
    let incoming = connection::accept(listener, MAX_CONNECTIONS, closing.clone());
    Server::builder()
        .max_concurrent_streams(settings.max_streams_per_connection)
        .http2_max_header_list_size(MAX_HEADERS_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(CallLimitLayer::new(settings.max_concurrent_calls, metrics, methods))
        .add_service(bounded!(refunds))
        .add_service(bounded!(accounts))
        .add_service(bounded!(audit))
        .add_service(bounded!(validation))
        .add_service(bounded!(HealthServer::new(HealthApi { readiness, services })))
        .add_service(bounded!(reflection().build_v1()?))
        .add_service(bounded!(reflection().build_v1alpha()?))
        .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
        .await?;
    Ok(())
}
