//! Get Order and List Orders: orders as the API shows them, with every field and exact decimals.

use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use super::orders::{Account, Item, ItemStatus, Order, OrderStatus};
use super::refusals::{Refusal, json_answer};
use super::state::State;
use super::{CreateDateEnd, LinkHeader, Settings, TooLargePage, UnknownOrderStatus, UnreadableQuery};
use crate::request::{Handled, Request};

/// US cents, written as a JSON number with two decimals: 10.99, 12.00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usd(pub(super) i64);

/// Answers `GET /core/v1/orders/{orderId}`.
pub(super) fn get_order(
    state: &State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    id: &str,
) -> Result<Handled, Refusal> {
    let id: i32 = id.parse().map_err(|_| Refusal::Malformed("orderId must be a 32-bit integer.".to_owned()))?;
    let order = state.order_of(username, id).ok_or(Refusal::NoSuchOrder(id))?;
    let account = state.account(username).ok_or(Refusal::Unauthorized)?;
    let order = OrderBody::of(&order, account, settings, state.since(), now);
    let answer = if settings.wrapped_order {
        json_answer(StatusCode::OK, &WrappedOrder { order })
    } else {
        json_answer(StatusCode::OK, &order)
    };
    Ok(Handled { response: answer, effects: Vec::new() })
}

/// Answers `GET /core/v1/orders`, oldest number first.
pub(super) fn list_orders(
    state: &State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    request: &Request,
) -> Result<Handled, Refusal> {
    let asked = Listing::parse(request.query.as_deref().unwrap_or_default(), settings)?;
    let account = state.account(username).ok_or(Refusal::Unauthorized)?;
    let mut found: Vec<Order> = state.orders_of(username).filter(|order| asked.matches(order, state.since())).collect();
    if asked.descending {
        found.reverse();
    }

    let total = found.len();
    let start = asked.page.saturating_sub(1).saturating_mul(asked.per_page).min(total);
    let end = start.saturating_add(asked.per_page).min(total);
    let last_page = total.div_ceil(asked.per_page).max(1);
    let shown = found.get(start..end).unwrap_or_default();
    let has_next = asked.page < last_page;
    let body = ListBody {
        orders: shown.iter().map(|order| OrderBody::of(order, account, settings, state.since(), now)).collect(),
        total_count: total,
        from: if shown.is_empty() { 0 } else { start + 1 },
        to: if shown.is_empty() { 0 } else { end },
        next_page: if has_next { asked.page + 1 } else { 0 },
        last_page: if has_next { last_page } else { 0 },
        parent_account_id: 0,
    };

    let mut answer = json_answer(StatusCode::OK, &body);
    if let Some(links) = links(settings.link_header, request, &asked, last_page) {
        answer.headers.insert(header::LINK, links);
    }
    Ok(Handled { response: answer, effects: Vec::new() })
}

/// The query of List Orders. Unknown names are ignored.
struct Listing {
    page: usize,
    per_page: usize,
    descending: bool,
    domain_name: Option<String>,
    tld: Option<String>,
    created_from: Option<OffsetDateTime>,
    /// Exclusive.
    created_before: Option<OffsetDateTime>,
    kind: Option<String>,
    status: Option<OrderStatus>,
}

/// The maximum number of orders on a page.
const MAX_PER_PAGE: usize = 1000;

impl Listing {
    fn parse(query: &str, settings: &Settings) -> Result<Self, Refusal> {
        let mut listing = Self {
            page: 1,
            per_page: default_page(settings),
            descending: false,
            domain_name: None,
            tld: None,
            created_from: None,
            created_before: None,
            kind: None,
            status: None,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
            match listing.take(&name, &value, settings) {
                Err(_) if settings.unreadable_query == UnreadableQuery::Ignored => {}
                taken => taken?,
            }
        }
        Ok(listing)
    }

    fn take(&mut self, name: &str, value: &str, settings: &Settings) -> Result<(), Refusal> {
        let wrong = |what: &str| Refusal::Malformed(format!("{name} must be {what}."));
        // 0 is the default of a number in this API, so it means that the parameter is not given.
        let count = || match value.parse::<i32>() {
            Ok(count) => usize::try_from(count).map_err(|_| wrong("a positive integer")),
            Err(_) => Err(wrong("a positive integer")),
        };
        match name {
            "page" => self.page = count()?.max(1),
            "perPage" => {
                let asked = count()?;
                if asked > MAX_PER_PAGE && settings.too_large_page == TooLargePage::Refused {
                    return Err(wrong("at most 1000"));
                }
                self.per_page = if asked == 0 { default_page(settings) } else { asked.min(MAX_PER_PAGE) };
            }
            "dir" => {
                self.descending = match value {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(wrong("'asc' or 'desc'")),
                }
            }
            "domainName" => self.domain_name = Some(value.to_ascii_lowercase()),
            "tld" => self.tld = Some(value.trim_start_matches('.').to_ascii_lowercase()),
            "createDateStart" => {
                let (from, _) = moment_or_day(value).ok_or_else(|| wrong("a date"))?;
                self.created_from = Some(from);
            }
            "createDateEnd" => {
                let (from, before) = moment_or_day(value).ok_or_else(|| wrong("a date"))?;
                self.created_before = Some(match settings.create_date_end {
                    CreateDateEnd::Exclusive => from,
                    CreateDateEnd::Inclusive => before,
                });
            }
            "type" => self.kind = Some(value.to_owned()),
            "orderStatus" => {
                self.status = order_status(value);
                if self.status.is_none() && settings.unknown_order_status == UnknownOrderStatus::Refused {
                    return Err(wrong("one of success, failed, initialized, review, started"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn matches(&self, order: &Order, since: OffsetDateTime) -> bool {
        let any = |test: &dyn Fn(&Item) -> bool| order.items.iter().any(test);
        let is_named = |item: &Item, wanted: &str| {
            let name = item.name.as_deref().unwrap_or_default().to_ascii_lowercase();
            wanted.strip_prefix('*').map_or(name == wanted, |ending| name.ends_with(ending))
        };
        self.status.is_none_or(|status| status == order.status)
            && self.created_from.is_none_or(|from| order.created(since) >= from)
            && self.created_before.is_none_or(|before| order.created(since) < before)
            && self.kind.as_ref().is_none_or(|kind| any(&|item| item.kind == *kind))
            && self.tld.as_ref().is_none_or(|tld| any(&|item| item.tld().as_ref() == Some(tld)))
            && self.domain_name.as_ref().is_none_or(|name| any(&|item| is_named(item, name)))
    }
}

/// The number of orders on a page without `perPage`.
fn default_page(settings: &Settings) -> usize {
    usize::try_from(settings.orders_per_page).unwrap_or(MAX_PER_PAGE).clamp(1, MAX_PER_PAGE)
}

/// The begin and the end of a day (UTC) or of a second.
fn moment_or_day(text: &str) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let (from, length) = match Date::parse(text, format_description!("[year]-[month]-[day]")) {
        Ok(day) => (day.midnight().assume_utc(), Duration::DAY),
        Err(_) => (OffsetDateTime::parse(text, &Rfc3339).ok()?, Duration::SECOND),
    };
    Some((from, from.checked_add(length)?))
}

fn order_status(word: &str) -> Option<OrderStatus> {
    let all = [
        OrderStatus::Success,
        OrderStatus::Failed,
        OrderStatus::Initialized,
        OrderStatus::Review,
        OrderStatus::Started,
    ];
    all.into_iter().find(|status| status.word() == word)
}

fn links(form: LinkHeader, request: &Request, asked: &Listing, last_page: usize) -> Option<HeaderValue> {
    let relations = [
        ("next", (asked.page < last_page).then_some(asked.page + 1)),
        ("prev", (asked.page > 1).then(|| (asked.page - 1).min(last_page))),
        ("last", (last_page > 1).then_some(last_page)),
    ];
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("api.name.com");
    let scheme = if request.tls { "https" } else { "http" };
    let per_page = asked.per_page;
    let links: Vec<String> = relations
        .into_iter()
        .filter_map(|(relation, page)| {
            let address = format!("{scheme}://{host}/core/v1/orders?page={}&perPage={per_page}", page?);
            Some(match form {
                LinkHeader::AsDocumented => format!("<{address}; rel=\"{relation}\">"),
                LinkHeader::Rfc8288 => format!("<{address}>; rel=\"{relation}\""),
            })
        })
        .collect();
    if links.is_empty() { None } else { HeaderValue::from_str(&links.join(",")).ok() }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListBody<'a> {
    orders: Vec<OrderBody<'a>>,
    total_count: usize,
    from: usize,
    to: usize,
    next_page: usize,
    last_page: usize,
    parent_account_id: i32,
}

#[derive(Serialize)]
struct WrappedOrder<'a> {
    order: OrderBody<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderBody<'a> {
    id: i32,
    create_date: String,
    status: &'static str,
    currency: &'static str,
    /// Set only if the currency is not USD.
    currency_rate: i32,
    auth_amount: Usd,
    total_capture: Usd,
    total_refund: Usd,
    final_amount: FinalAmount,
    registrar: &'a str,
    order_items: Vec<ItemBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemBody<'a> {
    id: i32,
    status: &'static str,
    name: Option<&'a str>,
    tld: Option<String>,
    #[serde(rename = "type")]
    kind: &'a str,
    price: Usd,
    original_price: Usd,
    price_non_usd: i32,
    tax_amount: Option<Usd>,
    quantity: i32,
    duration: i32,
    interval: Option<&'a str>,
    is_refundable: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FinalAmount {
    Number(Usd),
    Text(String),
}

impl<'a> OrderBody<'a> {
    fn of(
        order: &'a Order,
        account: &Account,
        settings: &Settings,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Self {
        let (captured, refunded) = order.totals_minor(settings.tax_refunded);
        let remains = Usd(captured - refunded);
        let items = order.items.iter().map(|item| {
            let refundable = account.approved_reseller && order.obstacle(item, account, settings, since, now).is_none();
            ItemBody::of(item, refundable)
        });
        Self {
            id: order.id,
            create_date: moment_text(
                order.created(since).saturating_sub(Duration::minutes(settings.order_times_behind_minutes.into())),
            ),
            status: order.status.word(),
            currency: "USD",
            currency_rate: 0,
            auth_amount: Usd(captured),
            total_capture: Usd(captured),
            total_refund: Usd(refunded),
            final_amount: if settings.final_amount_as_text {
                FinalAmount::Text(remains.text())
            } else {
                FinalAmount::Number(remains)
            },
            registrar: &order.registrar,
            order_items: items.collect(),
        }
    }
}

impl<'a> ItemBody<'a> {
    fn of(item: &'a Item, is_refundable: bool) -> Self {
        Self {
            id: item.id,
            status: item.status.word(),
            name: item.name.as_deref(),
            tld: item.tld(),
            kind: &item.kind,
            price: Usd(item.price_minor),
            original_price: Usd(item.original_price_minor.unwrap_or(item.price_minor)),
            price_non_usd: 0,
            tax_amount: item.tax_minor.map(Usd),
            quantity: item.quantity,
            duration: item.duration,
            interval: item.interval.as_deref(),
            is_refundable,
        }
    }
}

/// As in the documented sample: `2022-01-13T22:58:35Z`.
pub(super) fn moment_text(moment: OffsetDateTime) -> String {
    let utc = moment.to_offset(time::UtcOffset::UTC);
    // Every date-time has the parts of this format, so it cannot fail.
    utc.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

impl OrderStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Initialized => "initialized",
            Self::Review => "review",
            Self::Started => "started",
        }
    }
}

impl ItemStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Refunded => "refunded",
        }
    }
}

impl Usd {
    fn text(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        format!("{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As raw text, because a float would print 12.00 as 12.0 and some sums inexactly.
        RawValue::from_string(self.text()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}
