//! The form of a call and the checks of its arguments.
//!
//! The settings decide what no page documents: arguments in the query string, a body of another
//! type than `application/x-www-form-urlencoded`, bytes that are not UTF-8, repeated and empty
//! arguments. -2 is checked before -3 before -4.

use http::header;
use serde_json::Value;

use super::{
    ArgumentNames, ArgumentsInQuery, EmptyArgument, InvalidUtf8, OtherContentTypes, Refusal, RepeatedArgument,
    Settings, Wording, invalid,
};
use crate::{record::parameters::Parameters, request::Request};

/// The decoded arguments of a request, in order.
pub(super) struct Form {
    pairs: Vec<(String, String)>,
}

/// The definition of an argument.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    name: &'static str,
    required: bool,
    max_chars: usize,
    meaning: fn(&str) -> bool,
}

/// All arguments of all calls. In a body of another type only these are recognised.
const KNOWN: [&str; 7] =
    ["loginName", "loginPassword", "orderNumber", "refundReasonCode", "test", "CertificateID", "responseFormat"];

/// The maximum length of an unrecognized argument's name in a refusal, in characters.
const MAX_NAME_CHARS: usize = 64;

impl Argument {
    /// A required argument of at most `max_chars` characters.
    pub(super) const fn required(name: &'static str, max_chars: usize) -> Self {
        Self { name, required: true, max_chars, meaning: |_| true }
    }

    /// An optional argument; empty counts as absent.
    pub(super) const fn optional(name: &'static str, max_chars: usize) -> Self {
        Self { name, required: false, max_chars, meaning: |_| true }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Adds a condition on the value.
    pub(super) const fn meaning(self, meaning: fn(&str) -> bool) -> Self {
        Self { meaning, ..self }
    }

    fn accepts(&self, value: &str, settings: &Settings) -> bool {
        // The decoder replaces invalid UTF-8 with U+FFFD.
        let is_text = settings.invalid_utf8 == InvalidUtf8::Replaced || !value.contains(char::REPLACEMENT_CHARACTER);
        value.chars().count() <= self.max_chars && is_text && (self.meaning)(value)
    }
}

impl Form {
    /// The arguments of a call.
    pub(super) fn of(request: &Request, settings: &Settings) -> Form {
        let mut pairs = Vec::new();
        if is_form(request) || settings.other_content_types == OtherContentTypes::Read {
            pairs.extend(pairs_in(&request.body));
        }
        if settings.arguments_in_query == ArgumentsInQuery::Read {
            pairs.extend(pairs_in(query(request)));
        }
        if settings.argument_names == ArgumentNames::AnyCase {
            for (name, _) in &mut pairs {
                if let Some(known) = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(name)) {
                    known.clone_into(name);
                }
            }
        }
        Form { pairs }
    }

    /// Everything that might be an argument under any settings: the world, and with it the
    /// settings, is found by an argument.
    pub(super) fn outline(request: &Request) -> Form {
        let is_known = |(name, _): &(String, String)| KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name));
        let is_form = is_form(request);
        let in_body = pairs_in(&request.body).filter(|pair| is_form || is_known(pair));
        Form { pairs: in_body.chain(pairs_in(query(request)).filter(is_known)).collect() }
    }

    /// The first value of this name; none if it is absent or empty.
    pub(super) fn first(&self, name: &str) -> Option<String> {
        let (_, value) = self.pairs.iter().find(|(found, _)| found == name)?;
        (!value.is_empty()).then(|| value.clone())
    }

    /// As [`Self::first`], ignoring ASCII case. The documented spelling wins.
    pub(super) fn first_in_any_case(&self, name: &str) -> Option<String> {
        self.first(name).or_else(|| {
            let (_, value) =
                self.pairs.iter().find(|(found, value)| found.eq_ignore_ascii_case(name) && !value.is_empty())?;
            Some(value.clone())
        })
    }

    /// All arguments for the journal, with passwords masked.
    pub(super) fn masked(&self) -> Parameters {
        let mut parameters = Parameters::empty();
        for (name, value) in &self.pairs {
            let secret = name.to_ascii_lowercase().contains("password");
            let value = Value::String(if secret { "***".to_owned() } else { value.clone() });
            parameters.push(name.clone(), value);
        }
        parameters
    }

    /// Checks the whole form against the arguments of a call.
    pub(super) fn check(&self, takes: &[Argument], settings: &Settings, wording: &Wording) -> Result<(), Refusal> {
        let mut seen = Vec::new();
        for (name, _) in &self.pairs {
            let known = takes.iter().find(|argument| argument.name == name);
            match known {
                Some(argument) if !seen.contains(&argument.name) => seen.push(argument.name),
                Some(_) if settings.repeated_argument == RepeatedArgument::Ignored => {}
                Some(_) | None => return Err(unrecognized(name, wording)),
            }
        }
        let sent: Vec<(&Argument, Option<String>)> =
            takes.iter().map(|argument| (argument, self.first(argument.name))).collect();
        if let Some((argument, _)) = sent.iter().find(|(argument, value)| argument.required && value.is_none()) {
            if settings.empty_argument == EmptyArgument::Invalid && seen.contains(&argument.name) {
                return Err(invalid(argument.name));
            }
            return Err(Refusal { code: -3, message: format!("The '{}' argument is missing!", argument.name) });
        }
        let wrong = sent
            .iter()
            .find(|(argument, value)| value.as_ref().is_some_and(|value| !argument.accepts(value, settings)));
        wrong.map_or(Ok(()), |(argument, _)| Err(invalid(argument.name)))
    }
}

fn is_form(request: &Request) -> bool {
    let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn pairs_in(form: &[u8]) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(form).map(|(name, value)| (name.into_owned(), value.into_owned()))
}

fn query(request: &Request) -> &[u8] {
    request.query.as_deref().unwrap_or_default().as_bytes()
}

/// The refusal of an unknown argument, with its name on one line and shortened.
fn unrecognized(name: &str, wording: &Wording) -> Refusal {
    let said: String = name.chars().take(MAX_NAME_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Refusal { code: -2, message: format!("'{said}' {}", wording.unrecognized) }
}
