//! What the providers know: accounts, orders, items, refunds. Passwords and tokens go in and never
//! come out.

use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::{Asked, Body, Named, Of, Page, Refused, keyed};
use crate::{
    providers::debitsuccess::{self, MoveError},
    providers::namecom,
    providers::sectigo,
    request::Provider,
    worlds::{WorldRef, Worlds},
};

type Answer<T = Value> = Result<Json<T>, Refused>;
type List = Result<Response, Refused>;

// Sectigo

pub(super) async fn sectigo_accounts(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let world = world.lock();
    let accounts = world.providers.sectigo.accounts().into_iter().map(|account| without(account, "password"));
    page.of(accounts.collect(), after_text("login_name"))
}

pub(super) async fn sectigo_account(Of(world): Of, Named(name): Named<String>) -> Answer {
    let world = world.lock();
    let accounts = world.providers.sectigo.accounts();
    let found = accounts.into_iter().find(|account| account.login_name == name);
    found.map(|account| Json(without(account, "password"))).ok_or_else(|| no("account", &name))
}

pub(super) async fn put_sectigo_account(
    Of(world): Of,
    State(worlds): State<Worlds>,
    Named(name): Named<String>,
    Body(body): Body<Value>,
) -> Answer {
    let known =
        world.lock().providers.sectigo.accounts().into_iter().find(|account| account.login_name == name).cloned();
    let known = known.map(|account| account.password);
    let account: sectigo::Account = keyed(with(body, "password", known), "login_name", name.clone().into())?;
    let shown = without(&account, "password");
    worlds.claim(&world, Provider::Sectigo, &name)?;
    world.lock().providers.sectigo.put_account(account).map_err(Refused::bad_request)?;
    Ok(Json(shown))
}

pub(super) async fn sectigo_orders(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let world = world.lock();
    let orders: Vec<sectigo::Order> = world.providers.sectigo.orders().collect();
    page.of(orders, |order, after| order.order_number.as_str() > after)
}

pub(super) async fn sectigo_order(Of(world): Of, Named(number): Named<String>) -> Answer<sectigo::Order> {
    world.lock().providers.sectigo.order(&number).map(Json).ok_or_else(|| no("order", &number))
}

pub(super) async fn put_sectigo_order(
    Of(world): Of,
    Named(number): Named<String>,
    Body(body): Body<Value>,
) -> Answer<sectigo::Order> {
    let order = keyed(body, "order_number", number.as_str().into())?;
    let mut world = world.lock();
    let now = world.now();
    world.providers.sectigo.put_order(order, now).map_err(Refused::bad_request)?;
    world.providers.sectigo.order(&number).map(Json).ok_or_else(|| no("order", &number))
}

// name.com

pub(super) async fn namecom_accounts(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let world = world.lock();
    let accounts = world.providers.namecom.accounts().into_iter().map(|account| without(account, "token"));
    page.of(accounts.collect(), after_text("username"))
}

pub(super) async fn namecom_account(Of(world): Of, Named(name): Named<String>) -> Answer {
    let world = world.lock();
    let accounts = world.providers.namecom.accounts();
    let found = accounts.into_iter().find(|account| account.username == name);
    found.map(|account| Json(without(account, "token"))).ok_or_else(|| no("account", &name))
}

pub(super) async fn put_namecom_account(
    Of(world): Of,
    State(worlds): State<Worlds>,
    Named(name): Named<String>,
    Body(body): Body<Value>,
) -> Answer {
    let known = world.lock().providers.namecom.accounts().into_iter().find(|account| account.username == name).cloned();
    let known = known.map(|account| account.token);
    let account: namecom::Account = keyed(with(body, "token", known), "username", name.clone().into())?;
    let shown = without(&account, "token");
    worlds.claim(&world, Provider::Namecom, &name)?;
    world.lock().providers.namecom.put_account(account);
    Ok(Json(shown))
}

pub(super) async fn namecom_orders(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let after = page.after.as_deref().map(str::parse::<i32>).transpose();
    let after = after.map_err(|_| Refused::bad_request("`after` is an order id"))?;
    let world = world.lock();
    let orders = world.providers.namecom.orders();
    page.of(orders, |order, _| after.is_none_or(|after| order.id > after))
}

pub(super) async fn namecom_order(Of(world): Of, Named(id): Named<i32>) -> Answer<namecom::Order> {
    world.lock().providers.namecom.order(id).map(Json).ok_or_else(|| no("order", id))
}

pub(super) async fn put_namecom_order(
    Of(world): Of,
    Named(id): Named<i32>,
    Body(body): Body<Value>,
) -> Answer<namecom::Order> {
    let order = keyed(body, "id", id.into())?;
    put_order(&world, order)
}

pub(super) async fn namecom_item(Of(world): Of, Named((order, item)): Named<(i32, i32)>) -> Answer<namecom::Item> {
    let world = world.lock();
    let found =
        world.providers.namecom.order(order).and_then(|order| order.items.into_iter().find(|found| found.id == item));
    found.map(Json).ok_or_else(|| no("item", item))
}

/// Replaces an item of an order, or adds one.
pub(super) async fn put_namecom_item(
    Of(world): Of,
    Named((order, id)): Named<(i32, i32)>,
    Body(body): Body<Value>,
) -> Answer<namecom::Item> {
    let item: namecom::Item = keyed(body, "id", id.into())?;
    let mut changed = world.lock().providers.namecom.order(order).ok_or_else(|| no("order", order))?;
    match changed.items.iter_mut().find(|found| found.id == id) {
        Some(found) => *found = item,
        None => changed.items.push(item),
    }
    let Json(put) = put_order(&world, changed)?;
    put.items.into_iter().find(|found| found.id == id).map(Json).ok_or_else(|| no("item", id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    outcome: namecom::Outcome,
}

/// Decides a refund that was answered `initialized`.
pub(super) async fn settle_namecom_item(
    Of(world): Of,
    Named((order, id)): Named<(i32, i32)>,
    Body(Settle { outcome }): Body<Settle>,
) -> Answer<namecom::Item> {
    let mut world = world.lock();
    let now = world.now();
    let effects = world.providers.namecom.settle_item(order, id, outcome).map_err(|error| match error {
        namecom::SettleError::NoSuchItem { .. } => Refused::not_found(error),
        namecom::SettleError::NotPending { .. } => Refused::conflict(error),
    })?;
    world.write_books(now, Provider::Namecom, None, effects);
    let found =
        world.providers.namecom.order(order).and_then(|order| order.items.into_iter().find(|found| found.id == id));
    found.map(Json).ok_or_else(|| no("item", id))
}

// Debitsuccess

pub(super) async fn debitsuccess_logins(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let world = world.lock();
    let logins = world.providers.debitsuccess.logins();
    let logins = logins.iter().map(|login| without(login, "password"));
    page.of(logins.collect(), after_text("username"))
}

pub(super) async fn put_debitsuccess_login(
    Of(world): Of,
    State(worlds): State<Worlds>,
    Named(name): Named<String>,
    Body(body): Body<Value>,
) -> Answer {
    let login: debitsuccess::Login = keyed(body, "username", name.clone().into())?;
    let shown = without(&login, "password");
    worlds.claim(&world, Provider::Debitsuccess, &name)?;
    world.lock().providers.debitsuccess.put_login(login);
    Ok(Json(shown))
}

pub(super) async fn debitsuccess_accounts(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let world = world.lock();
    let accounts = world.providers.debitsuccess.accounts();
    page.of(accounts, |account, after| account.account_reference_no.as_str() > after)
}

pub(super) async fn debitsuccess_account(
    Of(world): Of,
    Named(reference): Named<String>,
) -> Answer<debitsuccess::Account> {
    world.lock().providers.debitsuccess.account(&reference).cloned().map(Json).ok_or_else(|| no("account", &reference))
}

pub(super) async fn put_debitsuccess_account(
    Of(world): Of,
    Named(reference): Named<String>,
    Body(body): Body<Value>,
) -> Answer<debitsuccess::Account> {
    let account: debitsuccess::Account = keyed(body, "account_reference_no", reference.into())?;
    world.lock().providers.debitsuccess.put_account(account.clone()).map_err(Refused::bad_request)?;
    Ok(Json(account))
}

pub(super) async fn debitsuccess_refunds(Of(world): Of, Asked(page): Asked<Page>) -> List {
    let after = page.after.as_deref().map(str::parse::<i32>).transpose();
    let after = after.map_err(|_| Refused::bad_request("`after` is a refund's number"))?;
    let mut world = world.lock();
    world.now();
    let refunds = world.providers.debitsuccess.refunds();
    page.of(refunds, |refund, _| after.is_none_or(|after| refund.number > after))
}

/// By its number, or else by its identifier: the first account's, where several have one.
pub(super) async fn debitsuccess_refund(
    Of(world): Of,
    Named(identifier): Named<String>,
) -> Answer<debitsuccess::Refund> {
    let mut world = world.lock();
    world.now();
    let refunds = world.providers.debitsuccess.refunds();
    let number = identifier.parse::<i32>().ok();
    let numbered = refunds.iter().find(|refund| Some(refund.number) == number);
    let found = numbered.or_else(|| refunds.iter().find(|refund| refund.identifier == identifier));
    found.map(|refund| Json(refund.clone())).ok_or_else(|| no("refund", &identifier))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Move {
    status: debitsuccess::RefundStatus,
    note: Option<String>,
}

pub(super) async fn move_debitsuccess_refund(
    Of(world): Of,
    Named(identifier): Named<String>,
    Body(Move { status, note }): Body<Move>,
) -> Answer<debitsuccess::Refund> {
    let mut world = world.lock();
    let now = world.now();
    let finals = world.settings.debitsuccess.final_statuses;
    let moved = world.providers.debitsuccess.move_refund(&identifier, status, note, finals);
    let (refund, effects) = moved.map_err(|error| match error {
        MoveError::NoSuchRefund => Refused::not_found(error),
        MoveError::SeveralRefunds | MoveError::Final(_) => Refused::conflict(error),
    })?;
    world.write_books(now, Provider::Debitsuccess, None, effects);
    Ok(Json(refund))
}

fn put_order(world: &WorldRef, order: namecom::Order) -> Answer<namecom::Order> {
    let id = order.id;
    let mut world = world.lock();
    let now = world.now();
    let effects = world.providers.namecom.put_order(order, now).map_err(Refused::bad_request)?;
    world.write_books(now, Provider::Namecom, None, effects);
    world.providers.namecom.order(id).map(Json).ok_or_else(|| no("order", id))
}

fn no(kind: &str, key: impl std::fmt::Display) -> Refused {
    Refused::not_found(format!("there is no {kind} {key}"))
}

/// What is told of something that holds a secret.
fn without(entry: &impl Serialize, secret: &str) -> Value {
    let mut shown = serde_json::to_value(entry).unwrap_or_else(|error| json!({ "error": error.to_string() }));
    if let Some(fields) = shown.as_object_mut() {
        fields.remove(secret);
    }
    shown
}

/// A secret that is known already need not be given again: what was read can be changed and put
/// back.
fn with(mut body: Value, secret: &str, known: Option<String>) -> Value {
    if let (Some(fields), Some(known)) = (body.as_object_mut(), known) {
        fields.entry(secret).or_insert(known.into());
    }
    body
}

fn after_text(field: &'static str) -> impl Fn(&Value, &str) -> bool {
    move |entry, after| entry.get(field).and_then(Value::as_str).is_some_and(|key| key > after)
}
