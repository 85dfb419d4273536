//! Get Domain: what the domain of a registration adds to what its order shows.
//!
//! The provider deletes the domain before it refunds the registration. So a domain that is still
//! the one of the order proves, a settle time after the last attempt, that nothing was refunded;
//! one that is gone beside an item that is not refunded says that the provider has stopped
//! half-way, or is on its way. Anything less proves nothing, and every doubtful case counts as no
//! proof: what is called untouched may be sent once more.

use crate::domain::clock::Timestamp;
use crate::domain::outcome::{Absence, Lookup};
use crate::http::client::HttpResponse;
use crate::providers::namecom::fields::JsonFields;
use crate::providers::namecom::order::{Registration, UnrefundedOrder};
use crate::providers::namecom::wire::ErrorBody;
use crate::providers::redact::Redactor;
use crate::providers::text;

/// The longest domain name.
const NAME_BYTES: usize = 253;

/// What is known of one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DomainState {
    /// The account has it, since then where the answer says so.
    There {
        created: Option<Timestamp>,
        /// The same as it was written.
        written: String,
    },
    /// The account does not have it.
    Gone,
    /// The answer says neither.
    Unclear(String),
    /// There was no answer, or none that is about the domain: the next one would be no better now.
    Unanswered(String),
}

/// Whether the text can be asked for: a name in the form in which it travels, and nothing that
/// leads to another path.
pub(super) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= NAME_BYTES && text.contains('.') && text.split('.').all(is_label)
}

/// What an answer to Get Domain says of `name`.
pub(super) fn read_domain(answer: &HttpResponse, name: &str, redactor: &Redactor) -> DomainState {
    let body = text::read(answer).unwrap_or_default();
    match answer.status {
        200 => {}
        404 if ErrorBody::read(&body, redactor).is_some() => return DomainState::Gone,
        status => return DomainState::Unanswered(format!("HTTP {status}")),
    }
    let Some(domain) = JsonFields::of(&body).and_then(|fields| fields.unwrapped("domainName", "domain")) else {
        return DomainState::Unclear("the answer holds no domain".to_owned());
    };
    let previous = domain.text("domainName").unwrap_or_default();
    if !previous.eq_ignore_ascii_case(name) {
        return DomainState::Unclear(redactor.text(&format!("the answer tells of another domain, \"{previous}\"")));
    }
    let written = redactor.text(&domain.text("createDate").unwrap_or_default());
    DomainState::There { created: domain.moment("createDate"), written }
}

/// What the order and its domains say together. `asked` names the domains of the order's
/// registrations that were asked for.
pub(super) fn conclude(open: UnrefundedOrder, asked: &[(String, DomainState)], redactor: &Redactor) -> Lookup {
    let domain_of = |registration: &Registration| {
        asked.iter().find(|(name, _)| name.eq_ignore_ascii_case(&registration.domain)).map(|(_, domain)| domain)
    };
    let mut seen = vec![open.evidence];
    let mut untouched = 0;
    let mut is_half_done = false;
    for registration in &open.registrations {
        let (item, name) = (registration.item, &registration.domain);
        let twice = open.registrations.iter().filter(|other| other.domain.eq_ignore_ascii_case(name)).count() > 1;
        seen.push(match domain_of(registration) {
            // One name cannot be registered twice: which of the items the domain is of is not
            // known.
            Some(DomainState::There { .. }) if twice => format!("domain {name} is there, and several items are of it"),
            Some(DomainState::There { created: Some(created), written }) => {
                // An order's time may be hours behind UTC, and then its own domain seems to be
                // newer than the order. There is still no margin: with one, a domain that was
                // registered again would pass for the order's.
                let is_of_order = open.created.is_some_and(|order| *created <= order);
                untouched += usize::from(is_of_order);
                let since = match open.created {
                    _ if is_of_order => "",
                    Some(_) => ", which is not before the order",
                    None => ", and the order does not say when it was made",
                };
                let kept = if registration.is_refundable { "" } else { ", and its item is not called refundable" };
                format!("domain {name} is there, created {written}{since}{kept}")
            }
            Some(DomainState::There { created: None, written }) if written.is_empty() => {
                format!("domain {name} is there, since when is not said")
            }
            Some(DomainState::There { created: None, written }) => {
                format!("domain {name} is there, created \"{written}\", which is no moment")
            }
            Some(DomainState::Gone) => {
                is_half_done = true;
                format!(
                    "domain {name} is deleted and its item {item} is not refunded: the provider deletes first, so the \
                     refund may still come or may never come"
                )
            }
            Some(DomainState::Unclear(why) | DomainState::Unanswered(why)) => format!("domain {name}: {why}"),
            None => format!("domain \"{name}\" not asked"),
        });
    }
    let absence = match is_half_done {
        true => Absence::HalfDone,
        false if open.may_be_untouched && untouched == open.registrations.len() => Absence::Untouched,
        false => Absence::Unproven,
    };
    if is_half_done {
        // What a person needs most comes first: the text is cut at its bound.
        seen.sort_by_key(|part| !part.contains(" is deleted and "));
    }
    Lookup::NotFound { evidence: redactor.text(&seen.join("; ")), items: open.items, absence }
}

#[cfg(test)]
mod tests;
