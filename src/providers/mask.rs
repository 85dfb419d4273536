//! Keeps an account's secrets out of every text that is kept or shown.
//!
//! A provider may repeat what it was sent ("the value 'hunter2' is invalid"), as it is or as it was encoded on the wire.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::escape::escape;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::outcome::{exact_text, provider_text};

/// What stands where a secret stood.
const MASKED: &str = "***";

/// The secrets of one account, in every form in which they travel.
pub(crate) struct Mask(Vec<SecretString>);

impl Mask {
    /// Of one secret, and of the login name that Basic authentication joins it to.
    pub(crate) fn new(login_name: &str, secret: &SecretString) -> Self {
        let plain = secret.expose_secret();
        if plain.is_empty() {
            return Self(Vec::new());
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
        let mut forms: Vec<String> = forms.into_iter().filter(|form| !form.is_empty()).collect();
        // The longest first: a form may hold a shorter one, whose masking would leave the rest of it standing.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self(forms.into_iter().map(SecretString::from).collect())
    }

    /// A provider's text, fit to be kept and shown: no secret, no control character, bounded.
    pub(crate) fn text(&self, raw: &str) -> String {
        // Before the text is cut to its bound: half a secret is one still.
        provider_text(&self.without_secrets(raw))
    }

    /// As [`Mask::text`], with the blanks at its ends: for evidence that lies in how something is written.
    pub(crate) fn exact_text(&self, raw: &str) -> String {
        exact_text(&self.without_secrets(raw)).0
    }

    /// The text as it is, but for secrets.
    pub(crate) fn without_secrets<'a>(&self, raw: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(raw);
        for form in &self.0 {
            if text.contains(form.expose_secret()) {
                text = Cow::Owned(text.replace(form.expose_secret(), MASKED));
            }
        }
        text
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
        assert_eq!(Mask::new("demo", &SecretString::from(secret)).text(text), shown);
    }

    proptest! {
        #[test]
        fn no_text_shows_the_secret(before in "\\PC{0,600}", after in "\\PC{0,40}") {
            let mask = Mask::new("demo", &SecretString::from("c4nary-secret"));
            let shown = mask.text(&format!("{before}c4nary-secret{after}"));
            prop_assert!(!shown.contains("c4nary"));
        }
    }
}
