//! The gRPC port: who may come in, how many, and what happens when it closes.
//!
//! ```text
//! refunds validation accounts   the services: convert, call, convert
//! convert pages                 between the public contract and the domain
//! status                        the only error -> tonic::Status map
//! deadline layers measured health  around every call
//! protocol compressed           what is gRPC at all, and how large answers travel
//! connections                   around every connection
//! ```

mod accounts;
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
use crate::api::health::{HealthApi, Serving};
use crate::api::layers::call_limit::Guard;
use crate::api::layers::call_metrics::Methods;
use crate::api::refunds::RefundsApi;
use crate::api::validation::ValidationApi;
use crate::engine::Engine;
use crate::proto::v1::account_service_server::AccountServiceServer;
use crate::proto::v1::refund_service_server::RefundServiceServer;
use crate::proto::v1::validation_status_service_server::ValidationStatusServiceServer;
use crate::telemetry::metrics::Metrics;
use crate::validation::Validation;

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The longest that a caller may wait in one call.
    pub max_wait: Duration,
    /// Calls at once, over all connections; further ones are answered UNAVAILABLE.
    pub max_calls: usize,
    /// Streams at once on one connection.
    pub max_streams_per_connection: u32,
}

/// Why the port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of the contract do not fit together.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport gave up.
    #[error("the gRPC port cannot be served: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The descriptor set of the public contract, for reflection.
const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("recoup_descriptors");

/// No message of the contract is near it: the longest is a Debitsuccess refund with all its labels,
/// some 25 kB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// A client that opens and resets streams faster than they can be served is attacking.
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 1024;
/// A peer that is gone without a word is noticed after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A service that takes messages compressed too, and none that is larger than
/// [`MAX_REQUEST_BYTES`], as it comes or inflated. (What is generated for each service has no
/// trait in common.)
macro_rules! bounded {
    ($service:expr) => {
        $service.max_decoding_message_size(MAX_REQUEST_BYTES).accept_compressed(CompressionEncoding::Gzip)
    };
}

/// Serves until `closing` is cancelled and the calls in flight have ended.
///
/// # Errors
/// [`ServeError`] where the port cannot be served.
pub async fn serve(
    listener: TcpListener,
    engine: Engine,
    validation: Validation,
    serving: watch::Receiver<Serving>,
    settings: ApiSettings,
    metrics: Metrics,
    closing: CancellationToken,
) -> Result<(), ServeError> {
    let refunds = RefundServiceServer::new(RefundsApi { engine: engine.clone(), max_wait: settings.max_wait });
    let accounts = AccountServiceServer::new(AccountsApi { engine });
    let validation = ValidationStatusServiceServer::new(ValidationApi::new(validation));
    let services =
        ["recoup.v1.RefundService", "recoup.v1.AccountService", "recoup.v1.ValidationStatusService"].to_vec();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What the details of an error are made of, so that tools can print them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let methods = Methods::of(&[
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]);
    let incoming = connection::accept(listener, CONNECTIONS, closing.clone());
    Server::builder()
        .max_concurrent_streams(settings.max_streams_per_connection)
        .http2_max_header_list_size(MAX_HEADERS_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(Guard::new(settings.max_calls, metrics, methods))
        .add_service(bounded!(refunds))
        .add_service(bounded!(accounts))
        .add_service(bounded!(validation))
        .add_service(bounded!(HealthServer::new(HealthApi { serving, services })))
        .add_service(bounded!(reflection().build_v1()?))
        .add_service(bounded!(reflection().build_v1alpha()?))
        .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
        .await?;
    Ok(())
}
