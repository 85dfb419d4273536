//! recoup: a gRPC gateway that gives money back through Sectigo, name.com and Debitsuccess.
//!
//! **A refund is sent to its provider at most once, or its doubt is shown.** Everything below
//! serves this promise.
//!
//! # Layout
//!
//! Each layer names only layers that come earlier in this list; a test enforces this.
//!
//! ```text
//! domain      ids, money, targets, outcomes, the retry contract, state transitions
//! tls         certificates of the gateway's own ports, and of commands that call one
//! telemetry   logs, metrics, traces
//! ledger      durable storage of refunds and their history
//! http        the only outgoing HTTP client
//! providers   three provider protocols behind one trait
//! engine      sends each refund at most once, and finds out the outcome
//! validation  reads the validation status of certificate orders
//! access      who may call, and what each caller may do
//! checkpoint  signed notes about how far the ledger reaches
//! api         the gRPC server
//! config      reads settings and reports all errors together
//! app         builds a gateway and stops it in order
//! staging     the gateway and the simulators in one process (feature `staging`)
//! ```

/// The public contract, generated from `proto/`.
pub mod proto {
    #![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated from proto/, which has the comments")]
    /// Package `recoup.v1`.
    pub mod v1 {
        tonic::include_proto!("recoup.v1");
        pub use super::streamed::StreamRefundEventsResponse;
    }

    mod codes;
    mod streamed;

    pub use codes::code_name;
}

pub mod access;
pub mod domain;
pub mod tls;

pub mod checkpoint;
pub mod http;
pub mod ledger;
pub mod providers;

pub mod engine;
pub mod validation;

pub mod api;

pub mod app;
pub mod config;
#[cfg(feature = "staging")]
pub mod staging;
pub mod telemetry;
