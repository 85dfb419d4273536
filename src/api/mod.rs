//! The gRPC server: services, limits and shutdown.
//!
//! ```text
//! refunds validation accounts audit health
//!                                     services: convert the request, call, convert the answer
//! convert page_token deadline         between the public contract and the domain
//! status                              the only mapping from an error to a tonic::Status
//! visibility                          what a caller sees of lists and of the history
//! layers                              applied to every call
//! web                                 the JSON endpoint, in front of the same services
//! http2                               one task for each stream of a connection
//! connection                          open connections, and which one is closed for a new one
//! ```

mod accounts;
mod audit;
mod connection;
mod convert;
mod deadline;
pub mod health;
mod http2;
mod layers;
mod page_token;
mod refunds;
mod status;
mod validation;
mod visibility;
mod web;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tonic_health::pb::health_server::HealthServer;
use tower::Layer as _;

use crate::api::accounts::AccountsApi;
use crate::api::audit::AuditApi;
use crate::api::connection::ClientConnection;
pub use crate::api::connection::{
    BoundListener, ConnectionRegistry, EndpointSettings, ListenError, ListenerSettings, ProtocolSettings,
    ReflectionSettings, WebSettings,
};
use crate::api::health::{HealthApi, Readiness};
use crate::api::layers::authentication::AuthenticationLayer;
pub use crate::api::layers::authentication::PolicyReceiver;
use crate::api::layers::call_limit::CallLimitLayer;
use crate::api::layers::call_metrics::KnownMethods;
use crate::api::layers::permits::PermitLimits;
use crate::api::layers::reflection::ReflectionLayer;
use crate::api::refunds::RefundsApi;
use crate::api::validation::ValidationApi;
use crate::api::web::WebEndpoint;
use crate::checkpoint::Checkpoints;
use crate::domain::clock::Clock;
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
    /// Maximum of concurrent calls over all connections that work, or whose response has not been
    /// taken; further calls are answered UNAVAILABLE.
    pub max_calls: usize,
    /// Maximum of concurrent calls that only wait, for a provider or a change. Beyond it
    /// CreateRefund answers without waiting, and WaitRefund UNAVAILABLE.
    pub max_waits: usize,
    /// Maximum of concurrent HTTP/2 streams on one connection.
    pub max_streams_per_connection: u32,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            // Below the 60 s after which many proxies end a call that sends nothing.
            max_wait: Duration::from_secs(50),
            max_calls: 256,
            max_waits: 4096,
            max_streams_per_connection: 100,
        }
    }
}

/// Who may call.
pub struct Callers {
    /// The access file in force. None: there is none, and every caller may do everything.
    pub policy: Option<PolicyReceiver>,
    /// Judges whether a token has expired.
    pub clock: Arc<dyn Clock>,
}

/// Where the server is reached, by how many, and by whom.
pub struct Port {
    /// Accept connections.
    pub listeners: Vec<BoundListener>,
    /// The open ones.
    pub connections: ConnectionRegistry,
    /// Who may call.
    pub callers: Callers,
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
    /// The same, for the JSON endpoint.
    #[error("could not build the JSON endpoint: {0}")]
    Contract(#[from] prost_reflect::DescriptorError),
}

/// The descriptor set of the public contract, for reflection.
const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("recoup_descriptors");

/// Well above every message of the contract: the longest is a Debitsuccess refund with all its
/// labels, some 25 kB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const MAX_HEALTH_BYTES: usize = 1024;
const MAX_REFLECTION_BYTES: usize = 4 * 1024;
/// Above it, a connection is closed for each new one.
pub const MAX_CONNECTIONS: usize = 1024;

/// Lets a service accept gzip, and limits its messages, compressed and uncompressed. A macro,
/// because the generated services have no common trait.
macro_rules! bounded {
    ($service:expr, $max_bytes:expr) => {
        $service.max_decoding_message_size($max_bytes).accept_compressed(CompressionEncoding::Gzip)
    };
}

/// Serves until `closing` is cancelled and the calls in flight have ended.
///
/// # Errors
/// [`ServeError`] if the port cannot be served.
pub async fn serve(
    port: Port,
    answering: Answering,
    readiness: watch::Receiver<Readiness>,
    settings: ApiSettings,
    metrics: Metrics,
    closing: CancellationToken,
) -> Result<(), ServeError> {
    let Answering { engine, validation, checkpoints } = answering;
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
    let limits = PermitLimits {
        calls: settings.max_calls,
        waits: settings.max_waits,
        event_streams: engine.max_event_streams(),
        status_watches: validation.max_watches(),
    };
    let refunds = RefundServiceServer::new(RefundsApi { engine: engine.clone(), max_wait: settings.max_wait });
    let accounts = AccountServiceServer::new(AccountsApi { engine });
    let audit = AuditServiceServer::new(AuditApi { checkpoints });
    let validation = ValidationStatusServiceServer::new(ValidationApi::new(validation));
    let routes = Routes::new(bounded!(refunds, MAX_REQUEST_BYTES))
        .add_service(bounded!(accounts, MAX_REQUEST_BYTES))
        .add_service(bounded!(audit, MAX_REQUEST_BYTES))
        .add_service(bounded!(validation, MAX_REQUEST_BYTES))
        .add_service(bounded!(HealthServer::new(HealthApi { readiness, services }), MAX_HEALTH_BYTES))
        .add_service(bounded!(reflection().build_v1()?, MAX_REFLECTION_BYTES))
        .add_service(bounded!(reflection().build_v1alpha()?, MAX_REFLECTION_BYTES))
        .prepare();
    let authentication = AuthenticationLayer::new(
        port.callers,
        port.listeners.iter().map(|listener| &**listener.name()),
        metrics.clone(),
        methods.clone(),
    );
    let incoming = connection::accept(port.listeners, port.connections, closing.clone());
    let calls = CallLimitLayer::new(limits, metrics.clone(), methods).layer(routes);
    let calls = authentication.layer(ReflectionLayer.layer(calls));
    let web = WebEndpoint::new(calls.clone())?;
    let max_streams = settings.max_streams_per_connection;
    let serve_one = |connection: ClientConnection| {
        let (metrics, closing) = (metrics.clone(), closing.clone());
        let (calls, web) = (calls.clone(), web.clone());
        async move {
            match connection.connect_info().peer().http {
                None => http2::serve_connection(connection, calls, max_streams, metrics, closing).await,
                Some(_) => web::serve_connection(connection, web, max_streams, metrics, closing).await,
            }
        }
    };
    http2::serve(incoming, serve_one, closing.clone()).await;
    Ok(())
}
