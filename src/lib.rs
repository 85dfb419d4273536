//! recoup: a gRPC gateway that gives money back through Sectigo, name.com and Debitsuccess.
//!
//! A refund is sent to its provider at most once, or its doubt is shown.
//!
//! # Layout
//!
//! ```text
//! main -> app -> api -> engine, validation -> providers, ledger -> domain
//! ```

/// The public contract, generated from `proto/`.
pub mod proto {
    #![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated from proto/, where the comments are")]
    /// Package `recoup.v1`.
    pub mod v1 {
        tonic::include_proto!("recoup.v1");
    }
}

pub mod domain;
pub mod ledger;
pub mod providers;
