//! Applied to every call: who calls, and whether it may ([`authentication`], [`caller_share`],
//! [`refused_calls`]). Then its message is read ([`request_message`]), its permits are acquired
//! ([`permits`]), and it gets metrics and a span ([`call_limit`], [`call_metrics`]). Requests that
//! are not gRPC are rejected, large answers sent in parts ([`response_parts`]), and answers
//! compressed.

pub(super) mod authentication;
pub(super) mod call_limit;
pub(super) mod call_metrics;
pub(super) mod caller_share;
pub(super) mod compression;
pub(super) mod grpc_only;
pub(super) mod permits;
pub(super) mod reflection;
pub(super) mod refused_calls;
pub(super) mod request_message;
pub(super) mod response_parts;
