//! recoup's gateway over TLS, with a token and a deadline on every call.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::recoup::create_refund_request::Target;
use crate::recoup::refund_service_client::RefundServiceClient;
use crate::recoup::validation_status_service_client::ValidationStatusServiceClient;
use crate::recoup::{
    CreateRefundRequest, CreateRefundResponse, GetValidationStatusRequest, Refund, RefundEvent, SectigoRefundReason,
    SectigoTarget, StreamRefundEventsRequest, StreamRefundEventsResponse, ValidationStatus, WaitRefundRequest,
    WaitRefundResponse,
};

/// The gateway answers shortly before it, with the refund as it then is.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where the gateway is and what it knows the caller by.
pub struct Settings {
    server: String,
    ca_file: PathBuf,
    token_file: PathBuf,
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Settings> {
        let read = |name: &str| std::env::var(name).ok().with_context(|| format!("{name} is not set"));
        Ok(Settings {
            server: read("RECOUP_SERVER")?,
            ca_file: read("RECOUP_CA_FILE")?.into(),
            token_file: read("RECOUP_TOKEN_FILE")?.into(),
        })
    }
}

#[derive(Clone)]
struct BearerToken(MetadataValue<Ascii>);

impl Interceptor for BearerToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Authenticated = InterceptedService<Channel, BearerToken>;

pub struct Gateway {
    refunds: RefundServiceClient<Authenticated>,
    validation: ValidationStatusServiceClient<Authenticated>,
}

impl Gateway {
    pub fn connect(settings: Settings) -> anyhow::Result<Gateway> {
        let read = |file: PathBuf| {
            std::fs::read_to_string(&file).with_context(|| format!("{} could not be read", file.display()))
        };
        let authority = Certificate::from_pem(read(settings.ca_file)?);
        let mut token: MetadataValue<Ascii> = format!("Bearer {}", read(settings.token_file)?.trim()).parse()?;
        token.set_sensitive(true);
        let channel = Channel::from_shared(format!("https://{}", settings.server))?
            .tls_config(ClientTlsConfig::new().ca_certificate(authority))?
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        let token = BearerToken(token);
        Ok(Gateway {
            refunds: RefundServiceClient::with_interceptor(channel.clone(), token.clone()),
            validation: ValidationStatusServiceClient::with_interceptor(channel, token),
        })
    }

    pub async fn create_refund(
        &mut self,
        account: &str,
        order: &str,
        refund_id: &str,
    ) -> Result<CreateRefundResponse, Status> {
        let target = SectigoTarget { order_number: order.to_owned(), reason: SectigoRefundReason::Other.into() };
        let request = CreateRefundRequest {
            refund_id: refund_id.to_owned(),
            account: account.to_owned(),
            target: Some(Target::Sectigo(target)),
            ..Default::default()
        };
        Ok(self.refunds.create_refund(with_deadline(request, DEADLINE)).await?.into_inner())
    }

    /// Returns when the refund has changed, or shortly before the deadline.
    pub async fn wait_refund(&mut self, seen: &Refund) -> Result<WaitRefundResponse, Status> {
        let request = WaitRefundRequest { name: seen.name.clone(), after_revision: seen.revision, timeout: None };
        Ok(self.refunds.wait_refund(with_deadline(request, DEADLINE)).await?.into_inner())
    }

    pub async fn validation_status(&mut self, account: &str, order: &str) -> Result<ValidationStatus, Status> {
        let request = GetValidationStatusRequest {
            account: account.to_owned(),
            order_number: order.to_owned(),
            ..Default::default()
        };
        let response = self.validation.get_validation_status(with_deadline(request, DEADLINE)).await?;
        Ok(response.into_inner().validation_status.unwrap_or_default())
    }

    pub async fn stream_events(&mut self, after_sequence: i64, deadline: Duration) -> Result<Events, Status> {
        let ends = Instant::now() + deadline;
        let request = with_deadline(StreamRefundEventsRequest { after_sequence }, deadline);
        let stream = self.refunds.stream_refund_events(request).await?.into_inner();
        Ok(Events { stream, ends })
    }
}

/// The events of the ledger, until the deadline.
pub struct Events {
    stream: Streaming<StreamRefundEventsResponse>,
    ends: Instant,
}

impl Events {
    /// `None`: the deadline has passed.
    pub async fn next(&mut self) -> Result<Option<RefundEvent>, Status> {
        match timeout_at(self.ends, self.stream.message()).await {
            Ok(Ok(response)) => Ok(response.and_then(|response| response.event)),
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded => Ok(None),
            Ok(Err(status)) => Err(status),
            Err(_) => Ok(None),
        }
    }
}

/// Whether the error leaves open what became of the refund, or passes by itself. Only an error with
/// an ErrorInfo says that the call recorded nothing.
pub fn is_unanswered(status: &Status) -> bool {
    status.get_details_error_info().is_none() || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
