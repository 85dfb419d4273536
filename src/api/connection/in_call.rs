//! Tells the registry which connections have a call in progress.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::handle::{ConnectionHandle, StreamGuard};
use crate::api::status;

/// Wraps services in an [`InCall`].
#[derive(Clone)]
pub(in crate::api) struct InCallLayer;

/// A service whose calls hold their connection open until their answers have ended.
#[derive(Clone)]
pub(in crate::api) struct InCall<S>(S);

/// The body of an answer.
struct AnswerBody {
    inner: Body,
    handle: ConnectionHandle,
    _stream: StreamGuard,
}

impl<S> Layer<S> for InCallLayer {
    type Service = InCall<S>;

    fn layer(&self, inner: S) -> InCall<S> {
        InCall(inner)
    }
}

impl<S> Service<Request<Body>> for InCall<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(handle) = request.extensions().get::<ConnectionHandle>().cloned() else {
            return Box::pin(self.0.call(request));
        };
        let Some(stream) = handle.begin_stream() else {
            let refusal = status::overloaded("too many connections").into_http();
            return Box::pin(std::future::ready(Ok(refusal)));
        };
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|inner| Body::new(AnswerBody { inner, handle, _stream: stream })))
        })
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.handle.mark_completed_call();
    }
}
