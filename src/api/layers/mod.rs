//! Applied to every call: who calls, and whether it may ([`authentication`], [`caller_share`],
//! [`refused_calls`]); limit, metrics and span ([`call_limit`], [`call_metrics`]), rejection of
//! requests that are not gRPC, compression of answers.

pub(super) mod authentication;
pub(super) mod call_limit;
pub(super) mod call_metrics;
pub(super) mod caller_share;
pub(super) mod compression;
pub(super) mod grpc_only;
pub(super) mod reflection;
pub(super) mod refused_calls;
