//! `grpc.health.v1`: one word for the whole process, since every service needs the same ledger.
//!
//! Our own and not the ready-made one: that one begins as SERVING before anything works, and
//! refuses to watch services it does not know, where the protocol says SERVICE_UNKNOWN.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Where the process stands, as everybody who watches sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Refunds are taken.
    Yes,
    /// Not now: starting, draining, or the ledger has failed.
    No,
    /// The process ends; watches end with it.
    Ended,
}

/// The service over one word.
pub(super) struct HealthApi {
    pub(super) serving: watch::Receiver<Serving>,
    /// Every service that is known here.
    pub(super) services: Vec<&'static str>,
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(answer(*self.serving.borrow()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let mut serving = self.serving.clone();
        serving.mark_changed();
        let changes = stream::unfold((serving, None), move |(mut serving, told)| async move {
            loop {
                serving.changed().await.ok()?;
                let now = *serving.borrow_and_update();
                if now == Serving::Ended {
                    return None;
                }
                let word = if known { word(now) } else { ServingStatus::ServiceUnknown };
                if told != Some(word) {
                    return Some((Ok(HealthCheckResponse { status: word.into() }), (serving, Some(word))));
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

impl HealthApi {
    /// The empty name is the whole server.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn answer(serving: Serving) -> Response<HealthCheckResponse> {
    Response::new(HealthCheckResponse { status: word(serving).into() })
}

fn word(serving: Serving) -> ServingStatus {
    match serving {
        Serving::Yes => ServingStatus::Serving,
        Serving::No | Serving::Ended => ServingStatus::NotServing,
    }
}
