//! Get Domain, derived from the order items, and Hello.
//!
//! A domain exists until the last registration of its name is refunded or stops half-way. The
//! answer has all documented members. Those that no order item determines (locks, name servers) are
//! the same for every domain.

use http::StatusCode;
use serde::Serialize;
use time::{Date, Duration, OffsetDateTime};

use super::orders::{Item, ItemStatus, Order, OrderStatus};
use super::reads::{Usd, moment_text};
use super::refusals::{Refusal, json_answer};
use super::state::State;
use super::{DeletedDomain, Settings};
use crate::request::Handled;

/// The maximum length of an unknown name in a refusal, in characters.
const MAX_NAME_CHARS: usize = 253;
/// How long a new domain cannot be transferred.
const TRANSFER_LOCK: Duration = Duration::days(60);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DomainBody {
    domain_name: String,
    create_date: String,
    expire_date: String,
    autorenew_enabled: bool,
    locked: bool,
    transfer_lock_expires_at: String,
    privacy_enabled: bool,
    nameservers: [&'static str; 4],
    renewal_price: Usd,
    locks: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HelloBody<'a> {
    server_name: &'static str,
    motd: &'static str,
    username: &'a str,
    server_time: String,
}

/// Answers `GET /core/v1/domains/{domainName}`.
pub(super) fn get_domain(state: &State, settings: &Settings, username: &str, name: &str) -> Result<Handled, Refusal> {
    let name = name.to_ascii_lowercase();
    let is_named = |item: &Item| item.name.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(&name));
    let bought = |item: &Item| is_named(item) && item.status != ItemStatus::Failed;
    let orders = state.orders_of(username).filter(|order| order.status == OrderStatus::Success);
    let lines: Vec<(OffsetDateTime, Item)> = orders
        .flat_map(|order| {
            let created = Order::created(&order, state.since());
            order.items.into_iter().filter(bought).map(move |item| (item.domain_created.unwrap_or(created), item))
        })
        .collect();
    let begins = |item: &Item| matches!(item.kind.as_str(), "registration" | "transfer");
    let last = |wanted: &dyn Fn(&Item) -> bool| {
        lines.iter().filter(|(_, item)| wanted(item)).max_by_key(|(created, _)| *created)
    };
    // A domain registered elsewhere exists if it was renewed or made private here.
    let found = last(&begins).or_else(|| last(&|_| true));
    let is_gone = |item: &Item| item.domain_deleted || (begins(item) && item.status == ItemStatus::Refunded);
    let (created, item) = found
        .filter(|(_, item)| !is_gone(item) || settings.deleted_domain == DeletedDomain::Shown)
        .ok_or_else(|| Refusal::NoSuchDomain(name.chars().take(MAX_NAME_CHARS).collect()))?;
    let is_private = |item: &Item| item.kind == "whois_privacy" && item.status == ItemStatus::Success;
    let body = DomainBody {
        domain_name: name.clone(),
        create_date: moment_text(*created),
        expire_date: moment_text(expires(*created, item)),
        autorenew_enabled: false,
        locked: true,
        transfer_lock_expires_at: moment_text(created.saturating_add(TRANSFER_LOCK)),
        privacy_enabled: lines.iter().any(|(_, item)| is_private(item)),
        nameservers: ["ns1.name.com", "ns2.name.com", "ns3.name.com", "ns4.name.com"],
        renewal_price: Usd(item.original_price_minor.unwrap_or(item.price_minor)),
        locks: ["clientTransferProhibited"],
    };
    Ok(Handled { response: json_answer(StatusCode::OK, &body), effects: Vec::new() })
}

/// Answers `GET /core/v1/hello`.
pub(super) fn hello(now: OffsetDateTime, username: &str) -> Handled {
    let body = HelloBody { server_name: "simulators", motd: "", username, server_time: moment_text(now) };
    Handled { response: json_answer(StatusCode::OK, &body), effects: Vec::new() }
}

/// The years or months of an item after its begin. A day beyond the end of a month becomes its
/// last.
fn expires(created: OffsetDateTime, item: &Item) -> OffsetDateTime {
    let count = item.duration.max(1).saturating_mul(item.quantity.max(1));
    let months = if item.interval.as_deref() == Some("month") { count } else { count.saturating_mul(12) };
    let total = created.year().saturating_mul(12).saturating_add(i32::from(u8::from(created.month())) - 1);
    let total = total.saturating_add(months);
    let month = u8::try_from(total.rem_euclid(12) + 1).ok().and_then(|month| time::Month::try_from(month).ok());
    let date = month.and_then(|month| {
        let year = total.div_euclid(12);
        let day = created.day().min(month.length(year));
        Date::from_calendar_date(year, month, day).ok()
    });
    date.map_or(created, |date| created.replace_date(date))
}
