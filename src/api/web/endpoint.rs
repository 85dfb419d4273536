//! Answers one request: is it for us, from whom may it come, is it a call; then it becomes a call
//! of the gRPC services.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use super::contract::Contract;
use super::format::Format;
use super::origin::AllowedOrigin;
use super::response::WholeBody;
use super::{error, openapi, request, response};
use crate::api::connection::ConnectionHandle;
use crate::api::layers::grpc_only::drain;
use crate::api::{WebSettings, status};

/// The JSON endpoint in front of the gRPC services.
#[derive(Clone)]
pub(in crate::api) struct WebEndpoint<S> {
    services: S,
    contract: Contract,
    openapi: Bytes,
}

const OPENAPI_PATH: &str = "/openapi.json";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

impl<S> WebEndpoint<S> {
    /// # Errors
    /// A descriptor set of this program is inconsistent.
    pub(in crate::api) fn new(services: S) -> Result<Self, prost_reflect::DescriptorError> {
        Ok(Self::of(services, Contract::new()?))
    }

    /// In front of services of another contract.
    pub(super) fn of(services: S, contract: Contract) -> Self {
        let openapi = openapi::document(&contract).to_string().into();
        Self { services, contract, openapi }
    }
}

impl<S> Service<Request<Body>> for WebEndpoint<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let endpoint = self.clone();
        Box::pin(async move { Ok(endpoint.answer(request).await) })
    }
}

impl<S> WebEndpoint<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let connection = request.extensions().get::<ConnectionHandle>();
        let settings = connection.and_then(|connection| connection.peer().http.clone());
        let settings: Arc<WebSettings> = settings.unwrap_or_default();
        let origin = match AllowedOrigin::of(request.uri(), request.headers(), &settings) {
            Ok(origin) => origin,
            Err(refusal) => return refuse(&self.contract, request, StatusCode::FORBIDDEN, &refusal.to_string()).await,
        };
        let mut response = self.route(request, &origin).await;
        origin.allow(response.headers_mut());
        response
    }

    async fn route(self, request: Request<Body>, origin: &AllowedOrigin) -> Response<Body> {
        let path = request.uri().path();
        let is_document = path == OPENAPI_PATH;
        if !is_document && !self.contract.is_service_path(path) {
            return refuse(&self.contract, request, StatusCode::NOT_FOUND, "there is nothing at this path").await;
        }
        let (method, allow) = if is_document { ("GET", "GET, HEAD, OPTIONS") } else { ("POST", "POST, OPTIONS") };
        match request.method() {
            &Method::OPTIONS => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
                origin.allow_requests(response.headers_mut(), method);
                response
            }
            &Method::GET | &Method::HEAD if is_document => {
                let mut response = Response::new(WholeBody::boxed(self.openapi, None));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            &Method::POST if !is_document => self.call(request).await,
            _ => {
                let message = format!("this path takes {allow}");
                let mut response = refuse(&self.contract, request, StatusCode::METHOD_NOT_ALLOWED, &message).await;
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
                response
            }
        }
    }

    async fn call(self, request: Request<Body>) -> Response<Body> {
        let method = self.contract.method(request.uri().path());
        let format = Format::of(request.headers());
        let is_stream = method.as_ref().is_some_and(prost_reflect::MethodDescriptor::is_server_streaming);
        // A stream has envelopes, and a unary call has none. gRPC-Web has both.
        let fits = |format: &Format| match format {
            Format::Unary(_) => !is_stream,
            Format::Stream(_) => is_stream || method.is_none(),
            Format::GrpcWeb { .. } => true,
        };
        let Some(format) = format.filter(fits) else {
            let message = format!("the content-type is none of {}, or not that of this call", Format::accepted());
            let mut response = refuse(&self.contract, request, StatusCode::UNSUPPORTED_MEDIA_TYPE, &message).await;
            if let Ok(accepted) = HeaderValue::try_from(Format::accepted()) {
                response.headers_mut().insert(ACCEPT_POST, accepted);
            }
            return response;
        };
        let accepted = request.headers().clone();
        let Some(method) = method else {
            // Counted, and refused with its reason, as a gRPC call of an unknown method.
            let Ok(answered) = self.services.oneshot(unknown_call(request)).await;
            let failure = Status::from_header_map(answered.headers());
            return failed(&self.contract, &failure.unwrap_or_else(status::internal), format);
        };
        match request::to_grpc(request, format, method.clone()) {
            Err(refusal) => failed(&self.contract, &refusal, format),
            Ok(call) => {
                let Ok(answered) = self.services.oneshot(call).await;
                match format {
                    Format::Unary(codec) => response::unary(answered, &self.contract, &method, codec, &accepted).await,
                    Format::Stream(codec) => response::stream(answered, &self.contract, &method, codec),
                    Format::GrpcWeb { is_text } => response::grpc_web(answered, is_text),
                }
            }
        }
    }
}

/// The answer to a request that is no call. What is left of it is read, within limits, so that its
/// answer does not overtake it.
async fn refuse(contract: &Contract, request: Request<Body>, code: StatusCode, message: &str) -> Response<Body> {
    drain(request.into_body()).await;
    error::with_code(contract, &status::not_a_call(message, grpc_code(code)), code)
}

/// As a call of its format says that it failed.
fn failed(contract: &Contract, failure: &Status, format: Format) -> Response<Body> {
    let mut headers = HeaderMap::new();
    let mut grpc = Response::new(Body::empty());
    match format {
        Format::Unary(_) => error::response(contract, failure),
        Format::Stream(codec) => response::refused_stream(contract, failure, codec),
        Format::GrpcWeb { is_text } => {
            // A status that is no header is one without its text.
            let _added = failure.add_header(&mut headers);
            *grpc.headers_mut() = headers;
            response::grpc_web(grpc, is_text)
        }
    }
}

fn unknown_call(request: Request<Body>) -> Request<Body> {
    let (mut head, _) = request.into_parts();
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
    Request::from_parts(head, Body::empty())
}

/// As Connect's clients read the HTTP status.
fn grpc_code(code: StatusCode) -> Code {
    match code {
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        _ => Code::InvalidArgument,
    }
}
