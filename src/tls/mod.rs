//! TLS of the gateway's own ports, and of commands that call one.
//!
//! ```text
//! server    certificate, key, client authorities and CRLs of a port, read again while it runs
//! client_chain  the certificates that a client has shown, judged while its connection is open
//! client    what a command trusts and shows
//! pem       certificates and keys in files
//! validity  until when a certificate or a CRL is valid
//! ```

mod client;
mod client_chain;
mod pem;
mod server;
mod validity;

pub use self::client::{ClientTlsSettings, client_config};
pub use self::client_chain::ClientChain;
pub use self::pem::TlsError;
pub use self::server::{CertificateStatus, ServerTls, TlsSettings};
