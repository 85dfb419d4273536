//! Keeps an account's secrets out of every text that is kept or shown.
//!
//! A provider may repeat what it was sent ("the value 'hunter2' is invalid"), as it is or as it was
//! encoded on the wire.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::escape::escape;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::outcome::{exact_text, sanitize_provider_text};
use crate::providers::secret::Secret;

/// What stands where a secret stood.
const REDACTED: &str = "***";

/// The secrets of one account, in every form in which they travel: the present one, and those that
/// it replaced.
pub(crate) struct Redactor {
    login_name: String,
    secret: Secret,
    forms: Mutex<Forms>,
}

/// The masked forms of this version of the secret.
struct Forms {
    version: u64,
    longest_first: Arc<[SecretString]>,
}

impl Redactor {
    /// Of a secret, and of the login name that Basic authentication joins it to.
    pub(crate) fn of(login_name: &str, secret: Secret) -> Self {
        let forms = Mutex::new(Forms::of(login_name, &secret));
        Self { login_name: login_name.to_owned(), secret, forms }
    }

    /// Of one that never changes.
    #[cfg(test)]
    pub(crate) fn new(login_name: &str, secret: &SecretString) -> Self {
        Self::of(login_name, Secret::new(secret.clone()))
    }

    /// A provider's text, fit to be kept and shown: no secret, no control character, bounded.
    pub(crate) fn text(&self, raw: &str) -> String {
        // Before the text is cut to its bound: half a secret is still a secret.
        sanitize_provider_text(&self.without_secrets(raw))
    }

    /// As [`Redactor::text`], but keeps the blanks at both ends: for evidence that depends on the
    /// exact spelling.
    pub(crate) fn exact_text(&self, raw: &str) -> String {
        exact_text(&self.without_secrets(raw)).0
    }

    /// The text as it is, but for secrets.
    pub(crate) fn without_secrets<'a>(&self, raw: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(raw);
        for form in self.longest_first().iter() {
            if text.contains(form.expose_secret()) {
                text = Cow::Owned(text.replace(form.expose_secret(), REDACTED));
            }
        }
        text
    }

    fn longest_first(&self) -> Arc<[SecretString]> {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if forms.version != self.secret.version() {
            *forms = Forms::of(&self.login_name, &self.secret);
        }
        forms.longest_first.clone()
    }
}

impl Forms {
    fn of(login_name: &str, secret: &Secret) -> Self {
        let (version, secrets) = secret.known();
        let mut forms: Vec<String> =
            secrets.iter().flat_map(|secret| Self::of_one(login_name, secret.expose_secret())).collect();
        // The longest first: a form may hold a shorter one, whose masking would leave the rest of
        // it standing.
        forms.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        forms.dedup();
        Self { version, longest_first: forms.into_iter().map(SecretString::from).collect() }
    }

    fn of_one(login_name: &str, plain: &str) -> Vec<String> {
        if plain.is_empty() {
            return Vec::new();
        }
        let json = serde_json::to_string(plain).unwrap_or_default();
        // Quotation marks need no escape in XML's text, and many escape them all the same: we do.
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
    fn a_secret_is_masked_in_every_form(#[case] secret: &str, #[case] text: &str, #[case] shown: &str) {
        assert_eq!(Redactor::new("demo", &SecretString::from(secret)).text(text), shown);
    }

    #[test]
    fn a_secret_that_was_replaced_stays_masked_beside_the_new_one() {
        let secret = Secret::new("old-token".into());
        let redactor = Redactor::of("demo", secret.clone());
        assert_eq!(redactor.text("'old-token' or 'old-token-2'"), "'***' or '***-2'");
        secret.replace("old-token-2".into());
        let basic = STANDARD.encode("demo:old-token");
        assert_eq!(redactor.text(&format!("'old-token' or 'old-token-2', {basic}")), "'***' or '***', ***");
    }

    proptest! {
        #[test]
        fn no_text_shows_the_secret(before in "\\PC{0,600}", after in "\\PC{0,40}") {
            let redactor = Redactor::new("demo", &SecretString::from("c4nary-secret"));
            let shown = redactor.text(&format!("{before}c4nary-secret{after}"));
            prop_assert!(!shown.contains("c4nary"));
        }
    }
}
