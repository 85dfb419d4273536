//! Applied to every call: its message is read ([`request_message`]), its permits are acquired
//! ([`permits`]), and it gets metrics and a span ([`call_limit`], [`call_metrics`]). Requests that
//! are not gRPC are rejected, and answers compressed.

pub(super) mod call_limit;
pub(super) mod call_metrics;
pub(super) mod compression;
pub(super) mod grpc_only;
pub(super) mod permits;
pub(super) mod request_message;
