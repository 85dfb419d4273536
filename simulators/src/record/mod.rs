//! What happened: the books hold the effects, the journal holds the requests, the audit compares
//! both with what a caller claims.

pub mod audit;
pub mod books;
pub mod journal;
pub(crate) mod masking;
pub(crate) mod packed;
pub mod parameters;
