//! The JSON endpoint: the Connect protocol and gRPC-Web, for PHP, browsers and curl, over HTTP/1.1
//! and HTTP/2.
//!
//! ```text
//! connection   HTTP/1.1 or HTTP/2, by the first bytes of a connection
//! endpoint     host, origin, path, method, media type; then a call of the gRPC services
//! origin       which hosts and which web pages may call
//! format       media types
//! request      the request as a gRPC call, converted as the services read it
//! response     gRPC responses as a whole, as envelopes, as gRPC-Web
//! error        a status as JSON
//! contract     messages as JSON and back
//! openapi      GET /openapi.json
//! ```
//!
//! Each request becomes a gRPC call of the same services, through the same layers, so callers,
//! scopes, limits, deadlines, errors and metrics are those of the gRPC port by construction.

#[cfg(test)]
mod conformance;
mod connection;
mod contract;
mod endpoint;
mod error;
mod format;
mod openapi;
mod origin;
mod request;
mod response;

pub(super) use self::connection::serve_connection;
pub(super) use self::endpoint::WebEndpoint;
