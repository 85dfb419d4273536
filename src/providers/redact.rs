//! Removes an account's secrets from every text that is kept or shown.
//!
//! A provider may repeat what it was sent ("the value 'hunter2' is invalid"), either verbatim or as
//! it was encoded on the wire.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::escape::escape;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::outcome::{exact_text, sanitize_provider_text};
use crate::providers::secret::Secret;

/// Replaces a secret in a text.
const REDACTED: &str = "***";

/// The current and former secrets of one account, in every form in which they appear on the wire.
pub(crate) struct Redactor {
    login_name: String,
    secret: Secret,
    forms: Mutex<RedactedForms>,
}

/// The encoded forms of one version of the secret.
struct RedactedForms {
    version: u64,
    by_descending_length: Arc<[SecretString]>,
}

impl Redactor {
    /// `login_name` is the name that Basic authentication joins to the secret.
    pub(crate) fn of(login_name: &str, secret: Secret) -> Self {
        let forms = Mutex::new(RedactedForms::of(login_name, &secret));
        Self { login_name: login_name.to_owned(), secret, forms }
    }

    /// A redactor for a secret that never changes.
    #[cfg(test)]
    pub(crate) fn new(login_name: &str, secret: &SecretString) -> Self {
        Self::of(login_name, Secret::new(secret.clone()))
    }

    /// Makes a provider's text safe to keep and to show: without secrets and control characters,
    /// and bounded.
    pub(crate) fn text(&self, raw: &str) -> String {
        // Redacts before cutting: half a secret is still a secret.
        sanitize_provider_text(&self.without_secrets(raw))
    }

    /// As [`Redactor::text`], but keeps the blanks at both ends: for evidence that depends on the
    /// exact spelling.
    pub(crate) fn exact_text(&self, raw: &str) -> String {
        exact_text(&self.without_secrets(raw)).0
    }

    /// Redacts secrets and leaves the rest of the text unchanged.
    pub(crate) fn without_secrets<'a>(&self, raw: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(raw);
        for form in self.by_descending_length().iter() {
            if text.contains(form.expose_secret()) {
                text = Cow::Owned(text.replace(form.expose_secret(), REDACTED));
            }
        }
        text
    }

    fn by_descending_length(&self) -> Arc<[SecretString]> {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if forms.version != self.secret.version() {
            *forms = RedactedForms::of(&self.login_name, &self.secret);
        }
        forms.by_descending_length.clone()
    }
}

impl RedactedForms {
    fn of(login_name: &str, secret: &Secret) -> Self {
        let (version, secrets) = secret.all();
        let mut forms: Vec<String> =
            secrets.iter().flat_map(|secret| Self::encodings(login_name, secret.expose_secret())).collect();
        // The longest first: a form may contain a shorter one, whose redaction would leave the rest
        // of it visible.
        forms.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        forms.dedup();
        Self { version, by_descending_length: forms.into_iter().map(SecretString::from).collect() }
    }

    fn encodings(login_name: &str, plain: &str) -> Vec<String> {
        if plain.is_empty() {
            return Vec::new();
        }
        let json = serde_json::to_string(plain).unwrap_or_default();
        // XML text need not escape quotation marks, but many writers do, and so do we.
        let xml = plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let forms = [
            STANDARD.encode(format!("{login_name}:{plain}")),
            form_urlencoded::byte_serialize(plain.as_bytes()).collect(),
            escape(plain).into_owned(),
            xml,
            json.trim_matches('"').to_owned(),
            plain.to_owned(),
        ];
        forms.into_iter().filter(|form| !form.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("p&ss w<rd", "The value 'p&ss w<rd' is invalid!", "The value '***' is invalid!")]
    #[case("p&ss w<rd", "loginPassword=p%26ss+w%3Crd", "loginPassword=***")]
    #[case("p&ss w<rd", "<Password>p&amp;ss w&lt;rd</Password>", "<Password>***</Password>")]
    #[case("p\"ss 'w<rd", "<Password>p&quot;ss &apos;w&lt;rd</Password>", "<Password>***</Password>")]
    #[case("p\"ss 'w<rd", "<Password>p\"ss 'w&lt;rd</Password>", "<Password>***</Password>")]
    #[case("tok\"en", "{\"token\":\"tok\\\"en\"}", "{\"token\":\"***\"}")]
    #[case("token", "Authorization: Basic ZGVtbzp0b2tlbg==", "Authorization: Basic ***")]
    #[case("", "nothing to hide", "nothing to hide")]
    fn a_secret_is_redacted_in_every_encoded_form(#[case] secret: &str, #[case] text: &str, #[case] shown: &str) {
        assert_eq!(Redactor::new("demo", &SecretString::from(secret)).text(text), shown);
    }

    #[test]
    fn a_former_secret_is_redacted_beside_the_current_one() {
        let secret = Secret::new("old-token".into());
        let redactor = Redactor::of("demo", secret.clone());
        assert_eq!(redactor.text("'old-token' or 'old-token-2'"), "'***' or '***-2'");
        secret.replace("old-token-2".into());
        let basic = STANDARD.encode("demo:old-token");
        assert_eq!(redactor.text(&format!("'old-token' or 'old-token-2', {basic}")), "'***' or '***', ***");
    }

    proptest! {
        #[test]
        fn no_text_contains_the_secret(before in "\\PC{0,600}", after in "\\PC{0,40}") {
            let redactor = Redactor::new("demo", &SecretString::from("c4nary-secret"));
            let shown = redactor.text(&format!("{before}c4nary-secret{after}"));
            prop_assert!(!shown.contains("c4nary"));
        }
    }
}
