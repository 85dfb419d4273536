//! The three providers, and what more than one of them needs.

pub mod debitsuccess;
pub mod namecom;
pub(crate) mod overlay;
pub mod sectigo;
pub(crate) mod setting_values;
