//! `grpc.health.v1`: one status for the whole process, because every service needs the same ledger.
//!
//! Not `tonic_health`'s implementation: that one starts as SERVING before anything works, and
//! rejects watches of unknown services although the protocol requires SERVICE_UNKNOWN.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Whether the process accepts refunds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// SERVING
    Ready,
    /// NOT_SERVING: the process drains, or the ledger has failed.
    NotReady,
    /// The process ends, and watches end with it.
    Stopped,
}

/// The health service.
pub(super) struct HealthApi {
    pub(super) readiness: watch::Receiver<Readiness>,
    /// Names of the known services.
    pub(super) services: Vec<&'static str>,
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse { status: serving_status(*self.readiness.borrow()).into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let mut readiness = self.readiness.clone();
        readiness.mark_changed();
        let changes = stream::unfold((readiness, None), move |(mut readiness, last)| async move {
            loop {
                readiness.changed().await.ok()?;
                let now = *readiness.borrow_and_update();
                if now == Readiness::Stopped {
                    return None;
                }
                let status = if known { serving_status(now) } else { ServingStatus::ServiceUnknown };
                if last != Some(status) {
                    return Some((Ok(HealthCheckResponse { status: status.into() }), (readiness, Some(status))));
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

impl HealthApi {
    /// The empty name means the whole server.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn serving_status(readiness: Readiness) -> ServingStatus {
    match readiness {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::NotReady | Readiness::Stopped => ServingStatus::NotServing,
    }
}
