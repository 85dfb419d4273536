//! The words of recoup and what they allow: plain values, no I/O, no async, no framework.
//!
//! Wrong values cannot be built: a constructor checks, and after it nobody checks again.
//!
//! ```text
//! characters what has no place in a reference
//! ids        refund_id, account name, resource names
//! money      an amount in minor units, read from decimal text
//! target     what is refunded; target_fields: the same as named fields, for storage
//! outcome    what a provider's answer means
//! contract   what makes a second send safe at a provider
//! place      where a refund belongs: host, login, currency
//! state      the states and the only moves between them
//! event      what can happen to a refund
//! refund     the refund itself, and how an event changes it
//! validation where a certificate order's validation stands
//! probe      what a probe of an account shows
//! clock      time as an argument
//! ```

pub mod characters;
pub mod clock;
pub mod contract;
pub mod event;
pub mod ids;
pub mod money;
pub mod outcome;
pub mod place;
pub mod probe;
pub mod refund;
pub mod state;
pub mod target;
pub mod target_fields;
pub mod validation;
