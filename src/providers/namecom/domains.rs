//! Get Domain: what a registration's domain proves beyond its order.
//!
//! The provider deletes the domain before it refunds the registration. So if the domain is still
//! the one of the order a settle time after the last attempt, nothing was refunded. If the domain
//! is gone and the item is not refunded, the provider has stopped half-way or is still at work.
//! Anything less proves nothing, and every unclear case counts as no proof, because an untouched
//! refund may be sent once more.

use crate::domain::clock::Timestamp;
use crate::domain::outcome::{Absence, Lookup};
use crate::http::client::HttpResponse;
use crate::providers::namecom::fields::JsonFields;
use crate::providers::namecom::order::{Registration, UnrefundedOrder};
use crate::providers::namecom::wire::ErrorBody;
use crate::providers::redact::Redactor;
use crate::providers::text;

/// Maximum length of a domain name, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// What is known about one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DomainState {
    /// The account has it, since `created` if the answer says so.
    There {
        created: Option<Timestamp>,
        /// `created` as the provider wrote it.
        written: String,
    },
    /// The account does not have it.
    Gone,
    /// The answer says neither.
    Unclear(String),
    /// No answer, or one that is not about the domain: asking for the next domain would go no
    /// better now.
    Unanswered(String),
}

/// Whether the text is a domain name in its wire form, so that it cannot lead to another path.
pub(super) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= MAX_NAME_BYTES && text.contains('.') && text.split('.').all(is_label)
}

/// What an answer to Get Domain says about `name`.
pub(super) fn read_domain(answer: &HttpResponse, name: &str, redactor: &Redactor) -> DomainState {
    let body = text::read(answer).unwrap_or_default();
    match answer.status {
        200 => {}
        404 if ErrorBody::read(&body, redactor).is_some() => return DomainState::Gone,
        status => return DomainState::Unanswered(format!("HTTP {status}")),
    }
    let Some(domain) = JsonFields::of(&body).and_then(|fields| fields.unwrapped("domainName", "domain")) else {
        return DomainState::Unclear("the answer contains no domain".to_owned());
    };
    let named = domain.text("domainName").unwrap_or_default();
    if !named.eq_ignore_ascii_case(name) {
        return DomainState::Unclear(redactor.text(&format!("the answer is about another domain, \"{named}\"")));
    }
    let written = redactor.text(&domain.text("createDate").unwrap_or_default());
    DomainState::There { created: domain.timestamp("createDate"), written }
}

/// What the order and its domains prove together. `known` contains the domains that were read.
pub(super) fn conclude(order: UnrefundedOrder, known: &[(String, DomainState)], redactor: &Redactor) -> Lookup {
    let domain_of = |registration: &Registration| {
        known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&registration.domain)).map(|(_, domain)| domain)
    };
    let mut findings = vec![order.evidence];
    let mut untouched = 0;
    let mut is_half_done = false;
    for registration in &order.registrations {
        let (item, name) = (registration.item, &registration.domain);
        let twice = order.registrations.iter().filter(|other| other.domain.eq_ignore_ascii_case(name)).count() > 1;
        findings.push(match domain_of(registration) {
            // One name cannot be registered twice, so it is unknown which item the domain belongs
            // to.
            Some(DomainState::There { .. }) if twice => {
                format!("domain {name} is there, and several items have its name")
            }
            Some(DomainState::There { created: Some(created), written }) => {
                // An order's time may be hours behind UTC, and then its own domain seems newer than
                // the order. There is no margin all the same: with one, a domain that was
                // registered again would pass for the order's.
                let is_of_order = order.created.is_some_and(|order_created| *created <= order_created);
                untouched += usize::from(is_of_order);
                let since = match order.created {
                    _ if is_of_order => "",
                    Some(_) => ", which is not before the order",
                    None => ", and the order has no creation date",
                };
                let restriction =
                    if registration.is_refundable { "" } else { ", and its item is not marked refundable" };
                format!("domain {name} is there, created {written}{since}{restriction}")
            }
            Some(DomainState::There { created: None, written }) if written.is_empty() => {
                format!("domain {name} is there, without a creation date")
            }
            Some(DomainState::There { created: None, written }) => {
                format!("domain {name} is there, created \"{written}\", which is not a timestamp")
            }
            Some(DomainState::Gone) => {
                is_half_done = true;
                format!(
                    "domain {name} is deleted and its item {item} is not refunded: the provider deletes first, so the \
                     refund may still come or may never come"
                )
            }
            Some(DomainState::Unclear(why) | DomainState::Unanswered(why)) => format!("domain {name}: {why}"),
            None => format!("domain \"{name}\" was not read"),
        });
    }
    let absence = match is_half_done {
        true => Absence::HalfDone,
        false if order.may_be_untouched && untouched == order.registrations.len() => Absence::Untouched,
        false => Absence::Unproven,
    };
    if is_half_done {
        // The most important part first, because the text is cut at its bound.
        findings.sort_by_key(|part| !part.contains(" is deleted and "));
    }
    Lookup::NotFound { evidence: redactor.text(&findings.join("; ")), items: order.items, absence }
}

#[cfg(test)]
mod tests;
