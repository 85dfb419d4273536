//! What the providers know: accounts, orders, items, refunds. Passwords and tokens are accepted and
//! never returned.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::{
    ApiError, JsonBody, JsonOf, ListParams, ListPart, PathParam, QueryParams, WorldParam, parse_keyed,
};
use crate::{
    providers::debitsuccess::{self, MoveError},
    providers::namecom,
    providers::sectigo,
    request::Provider,
    worlds::{WorldRef, Worlds},
};

type Answer<T> = Result<Json<T>, ApiError>;
type List<T> = Result<Json<ListPart<T>>, ApiError>;

// Sectigo

pub(super) async fn sectigo_accounts(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<JsonOf<sectigo::Account>> {
    let world = world.lock();
    let accounts = world.providers.sectigo.accounts().into_iter().map(|account| without(account, "password"));
    page.part_of(accounts.collect(), after_text("login_name"))
}

pub(super) async fn sectigo_account(
    WorldParam(world): WorldParam,
    PathParam(name): PathParam<String>,
) -> Answer<JsonOf<sectigo::Account>> {
    let world = world.lock();
    let accounts = world.providers.sectigo.accounts();
    let found = accounts.into_iter().find(|account| account.login_name == name);
    found.map(|account| Json(without(account, "password"))).ok_or_else(|| not_found("account", &name))
}

pub(super) async fn put_sectigo_account(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    PathParam(name): PathParam<String>,
    JsonBody(body): JsonBody<JsonOf<sectigo::Account>>,
) -> Answer<JsonOf<sectigo::Account>> {
    let known =
        world.lock().providers.sectigo.accounts().into_iter().find(|account| account.login_name == name).cloned();
    let known = known.map(|account| account.password);
    let account: sectigo::Account =
        parse_keyed(with_known(body, "password", known), "login_name", name.clone().into())?;
    let shown = without(&account, "password");
    worlds.claim(&world, Provider::Sectigo, &name)?;
    world.lock().providers.sectigo.put_account(account).map_err(ApiError::bad_request)?;
    Ok(Json(shown))
}

pub(super) async fn sectigo_orders(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<sectigo::Order> {
    let world = world.lock();
    let orders: Vec<sectigo::Order> = world.providers.sectigo.orders().collect();
    page.part_of(orders, |order, after| order.order_number.as_str() > after)
}

pub(super) async fn sectigo_order(
    WorldParam(world): WorldParam,
    PathParam(number): PathParam<String>,
) -> Answer<sectigo::Order> {
    world.lock().providers.sectigo.order(&number).map(Json).ok_or_else(|| not_found("order", &number))
}

pub(super) async fn put_sectigo_order(
    WorldParam(world): WorldParam,
    PathParam(number): PathParam<String>,
    JsonBody(body): JsonBody<JsonOf<sectigo::Order>>,
) -> Answer<sectigo::Order> {
    let order = parse_keyed(body, "order_number", number.as_str().into())?;
    let mut world = world.lock();
    let now = world.now();
    world.providers.sectigo.put_order(order, now).map_err(ApiError::bad_request)?;
    world.providers.sectigo.order(&number).map(Json).ok_or_else(|| not_found("order", &number))
}

// name.com

pub(super) async fn namecom_accounts(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<JsonOf<namecom::Account>> {
    let world = world.lock();
    let accounts = world.providers.namecom.accounts().into_iter().map(|account| without(account, "token"));
    page.part_of(accounts.collect(), after_text("username"))
}

pub(super) async fn namecom_account(
    WorldParam(world): WorldParam,
    PathParam(name): PathParam<String>,
) -> Answer<JsonOf<namecom::Account>> {
    let world = world.lock();
    let accounts = world.providers.namecom.accounts();
    let found = accounts.into_iter().find(|account| account.username == name);
    found.map(|account| Json(without(account, "token"))).ok_or_else(|| not_found("account", &name))
}

pub(super) async fn put_namecom_account(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    PathParam(name): PathParam<String>,
    JsonBody(body): JsonBody<JsonOf<namecom::Account>>,
) -> Answer<JsonOf<namecom::Account>> {
    let known = world.lock().providers.namecom.accounts().into_iter().find(|account| account.username == name).cloned();
    let known = known.map(|account| account.token);
    let account: namecom::Account = parse_keyed(with_known(body, "token", known), "username", name.clone().into())?;
    let shown = without(&account, "token");
    worlds.claim(&world, Provider::Namecom, &name)?;
    world.lock().providers.namecom.put_account(account);
    Ok(Json(shown))
}

pub(super) async fn namecom_orders(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<namecom::Order> {
    let after = page.after.as_deref().map(str::parse::<i32>).transpose();
    let after = after.map_err(|_| ApiError::bad_request("`after` is an order id"))?;
    let world = world.lock();
    let orders = world.providers.namecom.orders();
    page.part_of(orders, |order, _| after.is_none_or(|after| order.id > after))
}

pub(super) async fn namecom_order(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<i32>,
) -> Answer<namecom::Order> {
    world.lock().providers.namecom.order(id).map(Json).ok_or_else(|| not_found("order", id))
}

pub(super) async fn put_namecom_order(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<i32>,
    JsonBody(body): JsonBody<JsonOf<namecom::Order>>,
) -> Answer<namecom::Order> {
    let order = parse_keyed(body, "id", id.into())?;
    put_order(&world, order)
}

pub(super) async fn namecom_item(
    WorldParam(world): WorldParam,
    PathParam((order, item)): PathParam<(i32, i32)>,
) -> Answer<namecom::Item> {
    let world = world.lock();
    let found =
        world.providers.namecom.order(order).and_then(|order| order.items.into_iter().find(|found| found.id == item));
    found.map(Json).ok_or_else(|| not_found("item", item))
}

/// Replaces an item of an order, or adds one.
pub(super) async fn put_namecom_item(
    WorldParam(world): WorldParam,
    PathParam((order, id)): PathParam<(i32, i32)>,
    JsonBody(body): JsonBody<JsonOf<namecom::Item>>,
) -> Answer<namecom::Item> {
    let item: namecom::Item = parse_keyed(body, "id", id.into())?;
    let mut changed = world.lock().providers.namecom.order(order).ok_or_else(|| not_found("order", order))?;
    match changed.items.iter_mut().find(|found| found.id == id) {
        Some(found) => *found = item,
        None => changed.items.push(item),
    }
    let Json(put) = put_order(&world, changed)?;
    put.items.into_iter().find(|found| found.id == id).map(Json).ok_or_else(|| not_found("item", id))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Settle {
    outcome: namecom::Outcome,
}

/// Decides a refund that was answered `initialized`.
pub(super) async fn settle_namecom_item(
    WorldParam(world): WorldParam,
    PathParam((order, id)): PathParam<(i32, i32)>,
    JsonBody(Settle { outcome }): JsonBody<Settle>,
) -> Answer<namecom::Item> {
    let mut world = world.lock();
    let now = world.now();
    let effects = world.providers.namecom.settle_item(order, id, outcome).map_err(|error| match error {
        namecom::SettleError::NoSuchItem { .. } => ApiError::not_found(error),
        namecom::SettleError::NotPending { .. } => ApiError::conflict(error),
    })?;
    world.write_books(now, Provider::Namecom, None, effects);
    let found =
        world.providers.namecom.order(order).and_then(|order| order.items.into_iter().find(|found| found.id == id));
    found.map(Json).ok_or_else(|| not_found("item", id))
}

// Debitsuccess

pub(super) async fn debitsuccess_logins(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<JsonOf<debitsuccess::Login>> {
    let world = world.lock();
    let logins = world.providers.debitsuccess.logins();
    let logins = logins.iter().map(|login| without(login, "password"));
    page.part_of(logins.collect(), after_text("username"))
}

pub(super) async fn put_debitsuccess_login(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    PathParam(name): PathParam<String>,
    JsonBody(body): JsonBody<JsonOf<debitsuccess::Login>>,
) -> Answer<JsonOf<debitsuccess::Login>> {
    let login: debitsuccess::Login = parse_keyed(body, "username", name.clone().into())?;
    let shown = without(&login, "password");
    worlds.claim(&world, Provider::Debitsuccess, &name)?;
    world.lock().providers.debitsuccess.put_login(login);
    Ok(Json(shown))
}

pub(super) async fn debitsuccess_accounts(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<debitsuccess::Account> {
    let world = world.lock();
    let accounts = world.providers.debitsuccess.accounts();
    let accounts = accounts.into_iter().cloned().collect();
    page.part_of(accounts, |account: &debitsuccess::Account, after| account.account_reference_no.as_str() > after)
}

pub(super) async fn debitsuccess_account(
    WorldParam(world): WorldParam,
    PathParam(reference): PathParam<String>,
) -> Answer<debitsuccess::Account> {
    world
        .lock()
        .providers
        .debitsuccess
        .account(&reference)
        .cloned()
        .map(Json)
        .ok_or_else(|| not_found("account", &reference))
}

pub(super) async fn put_debitsuccess_account(
    WorldParam(world): WorldParam,
    PathParam(reference): PathParam<String>,
    JsonBody(body): JsonBody<JsonOf<debitsuccess::Account>>,
) -> Answer<debitsuccess::Account> {
    let account: debitsuccess::Account = parse_keyed(body, "account_reference_no", reference.into())?;
    world.lock().providers.debitsuccess.put_account(account.clone()).map_err(ApiError::bad_request)?;
    Ok(Json(account))
}

pub(super) async fn debitsuccess_refunds(
    WorldParam(world): WorldParam,
    QueryParams(page): QueryParams<ListParams>,
) -> List<debitsuccess::Refund> {
    let after = page.after.as_deref().map(str::parse::<i32>).transpose();
    let after = after.map_err(|_| ApiError::bad_request("`after` is a refund's number"))?;
    let mut world = world.lock();
    world.now();
    let refunds = world.providers.debitsuccess.refunds();
    page.part_of(refunds, |refund, _| after.is_none_or(|after| refund.number > after))
}

/// Finds a refund by its number, or else by its identifier; where several accounts have a refund
/// with it, the first one.
pub(super) async fn debitsuccess_refund(
    WorldParam(world): WorldParam,
    PathParam(identifier): PathParam<String>,
) -> Answer<debitsuccess::Refund> {
    let mut world = world.lock();
    world.now();
    let refunds = world.providers.debitsuccess.refunds();
    let number = identifier.parse::<i32>().ok();
    let numbered = refunds.iter().find(|refund| Some(refund.number) == number);
    let found = numbered.or_else(|| refunds.iter().find(|refund| refund.identifier == identifier));
    found.map(|refund| Json(refund.clone())).ok_or_else(|| not_found("refund", &identifier))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Move {
    status: debitsuccess::RefundStatus,
    /// Extra text on the status.
    note: Option<String>,
}

pub(super) async fn move_debitsuccess_refund(
    WorldParam(world): WorldParam,
    PathParam(identifier): PathParam<String>,
    JsonBody(Move { status, note }): JsonBody<Move>,
) -> Answer<debitsuccess::Refund> {
    let mut world = world.lock();
    let now = world.now();
    let finals = world.settings.debitsuccess.final_statuses;
    let moved = world.providers.debitsuccess.move_refund(&identifier, status, note, finals);
    let (refund, effects) = moved.map_err(|error| match error {
        MoveError::NoSuchRefund => ApiError::not_found(error),
        MoveError::SeveralRefunds | MoveError::Final(_) => ApiError::conflict(error),
    })?;
    world.write_books(now, Provider::Debitsuccess, None, effects);
    Ok(Json(refund))
}

fn put_order(world: &WorldRef, order: namecom::Order) -> Answer<namecom::Order> {
    let id = order.id;
    let mut world = world.lock();
    let now = world.now();
    let effects = world.providers.namecom.put_order(order, now).map_err(ApiError::bad_request)?;
    world.write_books(now, Provider::Namecom, None, effects);
    world.providers.namecom.order(id).map(Json).ok_or_else(|| not_found("order", id))
}

fn not_found(kind: &str, key: impl std::fmt::Display) -> ApiError {
    ApiError::not_found(format!("there is no {kind} {key}"))
}

/// An entry without its secret.
fn without<T: Serialize>(entry: &T, secret: &str) -> JsonOf<T> {
    let mut shown = serde_json::to_value(entry).unwrap_or_else(|error| json!({ "error": error.to_string() }));
    if let Some(fields) = shown.as_object_mut() {
        fields.remove(secret);
    }
    shown.into()
}

/// A body with the known secret where it has none, so that an entry that was read can be changed
/// and put back.
fn with_known<T>(mut body: JsonOf<T>, secret: &str, known: Option<String>) -> JsonOf<T> {
    if let (Some(fields), Some(known)) = (body.value.as_object_mut(), known) {
        fields.entry(secret).or_insert(known.into());
    }
    body
}

fn after_text<T>(field: &'static str) -> impl Fn(&JsonOf<T>, &str) -> bool {
    move |entry, after| entry.value.get(field).and_then(Value::as_str).is_some_and(|key| key > after)
}
