//! Applied to every call: limit, metrics and span ([`call_limit`], [`call_metrics`]), rejection of
//! requests that are not gRPC, compression of answers.

pub(super) mod call_limit;
pub(super) mod call_metrics;
pub(super) mod compression;
pub(super) mod grpc_only;
