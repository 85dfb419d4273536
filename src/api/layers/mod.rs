//! What is around every call, from the outside in.

pub(super) mod call_limit;
pub(super) mod call_metrics;
pub(super) mod compression;
pub(super) mod grpc_only;
