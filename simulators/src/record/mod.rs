//! What happened: the books hold the effects, the journal holds the requests, and the audit
//! compares both with a caller's claims.

pub mod audit;
pub mod books;
pub mod journal;
pub(crate) mod masking;
pub mod parameters;
