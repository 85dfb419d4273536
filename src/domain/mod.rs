//! The domain: plain values and the rules between them. No I/O, no async, no framework.
//!
//! Invalid values cannot be built: constructors check, so no other code has to.
//!
//! ```text
//! approval   the approval of a refund by a second person
//! authority  who acts, and the rules of the access file about money
//! characters invisible characters that references must not contain
//! ids        refund id, account name, resource name, provider
//! money      an amount in minor units, parsed from decimal text
//! target     what is refunded; target_fields: the same as named fields, for storage
//! outcome    what a provider's answer means
//! limits     what a refund counts, and whether the limits leave room for it
//! contract   what makes a second send safe at a provider
//! place      where a refund belongs: host, login, currency
//! event      what can happen to a refund
//! state      the states and the only transitions between them
//! refund     the refund, and how an event changes it
//! history    the records of events, and their sentences for people
//! validation the validation status of a certificate order
//! probe      the result of probing an account
//! clock      time as an argument
//! ```

pub mod approval;
pub mod authority;
pub mod characters;
pub mod clock;
pub mod contract;
pub mod event;
pub mod history;
pub mod ids;
pub mod limits;
pub mod money;
pub mod outcome;
pub mod place;
pub mod probe;
pub mod refund;
pub mod state;
pub mod target;
pub mod target_fields;
pub mod validation;
