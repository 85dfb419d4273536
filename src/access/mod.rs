//! Who may call the port, and what each caller may do: the access file, the credentials that name a
//! caller, and the scope that each method needs.
//!
//! ```text
//! connection, metadata --> ShownCredentials --> AccessPolicy::identify --> Caller, Authority
//!                                              ^
//! access file --> reader, callers, rules ------+
//!
//! token        tokens: made, checked, kept as a hash
//! certificate  the names that a client certificate proves
//! credentials  what one call showed
//! scope        scopes, and the one that each method needs
//! summary      what each caller may do, for people
//! errors       every wrong key of an access file, with its line
//! ```
//!
//! It does no I/O: a text goes in, and an answer comes out.

mod callers;
pub mod certificate;
pub mod credentials;
mod errors;
mod policy;
mod reader;
mod rules;
pub mod scope;
mod summary;
#[cfg(test)]
mod tests;
pub mod token;

pub use callers::{Caller, CallerRate, parse_name as parse_caller_name, parse_token_id};
pub use errors::{AccessError, AccessErrors};
pub use policy::AccessPolicy;
pub use reader::parse_expiry;
