//! Server reflection is served where the listener says so: what is off is answered like a service
//! that is not there.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::ReflectionSettings;
use crate::api::connection::ConnectionHandle;
use crate::api::status;

/// Wraps services in a [`ListenerReflection`].
#[derive(Clone)]
pub(in crate::api) struct ReflectionLayer;

/// A service whose reflection depends on the listener.
#[derive(Clone)]
pub(in crate::api) struct ListenerReflection<S>(S);

/// Prefix of both versions.
const PREFIX: &str = "/grpc.reflection.";

impl<S> Layer<S> for ReflectionLayer {
    type Service = ListenerReflection<S>;

    fn layer(&self, inner: S) -> ListenerReflection<S> {
        ListenerReflection(inner)
    }
}

impl<S> Service<Request<Body>> for ListenerReflection<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let is_off = |handle: &ConnectionHandle| handle.peer().reflection == ReflectionSettings::Off;
        if path.starts_with(PREFIX) && request.extensions().get().is_some_and(is_off) {
            return Either::Left(ready(Ok(status::not_offered(&format!("unknown method {path}")).into_http())));
        }
        Either::Right(self.0.call(request))
    }
}
