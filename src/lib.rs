//! recoup: a gRPC gateway that gives money back through Sectigo, name.com and Debitsuccess.
//!
//! **A refund is sent to its provider at most once, or its doubt is shown.** Everything below
//! serves that sentence.
//!
//! # Layout
//!
//! From the ground up: a layer names some of those before it and none after it; a test keeps it so.
//!
//! ```text
//! domain      what there is: ids, money, targets, outcomes, the retry contract, the moves between states
//! telemetry   logs, metrics, traces
//! ledger      what is on disk, and what is true once a method returns
//! providers   three wires behind one trait, and the only HTTP client
//! engine      sends each refund once, and says what became of it
//! validation  where a certificate order's validation stands
//! api         the gRPC port
//! config      settings, all faults at once
//! app         puts it all together, and takes it apart in order
//! staging     the gateway and the simulators in one process (feature `staging`)
//! ```

/// The public contract, generated from `proto/`.
pub mod proto {
    #![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated from proto/, where the comments are")]
    /// Package `recoup.v1`.
    pub mod v1 {
        tonic::include_proto!("recoup.v1");
        pub use super::streamed::StreamRefundEventsResponse;
    }

    mod codes;
    mod streamed;

    pub use codes::code_name;
}

pub mod domain;

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
