//! Every control call, with its handler and its description.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::json;

use super::{
    faults, openapi,
    operation::{OperationDoc, Output},
    process, provider_state, records,
    route::{Route, delete, get, patch, post, put},
    worlds,
};

/// The OpenAPI document of all calls, in JSON.
pub(super) struct Document(pub(super) Bytes);

fn tagged<const N: usize>(tag: &'static str, routes: [Route; N]) -> impl Iterator<Item = Route> {
    routes.into_iter().map(move |route| Route { tag, ..route })
}

/// Every control call.
pub(super) fn routes() -> Vec<Route> {
    let provider_state = sectigo().chain(namecom()).chain(debitsuccess());
    process_and_worlds()
        .chain(clock_and_settings())
        .chain(faults_and_gates())
        .chain(records())
        .chain(provider_state)
        .collect()
}

fn process_and_worlds() -> impl Iterator<Item = Route> {
    let process = tagged(
        "simulators",
        [
            get("/openapi.json", "openapi", openapi_document)
                .of_the_process()
                .summary("This document.")
                .answer("This document."),
            get("/v1/health", "health", process::health)
                .of_the_process()
                .summary("Whether the simulators are up.")
                .answer("They are up."),
            get("/v1/ca.pem", "authority", process::ca_pem)
                .of_the_process()
                .summary("The certificate that a client of the TLS ports has to trust, in PEM; never a key.")
                .answer("The certificate of the authority, or the one given at the start."),
            get("/v1/magic", "magic", worlds::magic)
                .of_the_process()
                .summary("The magic values of the demo data: targets that fail without a rule.")
                .answer("All magic values."),
            post("/v1/reset", "reset", process::reset)
                .summary(
                    "Resets to the demo data, with settings and clock as at the start; books, journal and faults are \
                     empty. Requests that wait in a delay end without an effect.",
                )
                .answer("The world was reset."),
        ],
    );
    const TOO_MANY: &str = "There are too many worlds, or too many with ports of their own.";
    let worlds = tagged(
        "worlds",
        [
            get("/v1/worlds", "worlds", worlds::list)
                .of_the_process()
                .summary("All worlds, the demo world first.")
                .answer("All worlds."),
            post("/v1/worlds", "createWorld", worlds::create)
                .of_the_process()
                .summary("Creates a world with its own credentials.")
                .answer("The new world.")
                .error(409, TOO_MANY),
            get("/v1/worlds/{world}", "world", worlds::show)
                .of_the_process()
                .summary("One world and its credentials.")
                .answer("The world.")
                .error(404, "There is no such world."),
            delete("/v1/worlds/{world}", "deleteWorld", worlds::delete)
                .of_the_process()
                .summary("Deletes a world. A request in progress in it ends without an effect.")
                .answer("The world is deleted.")
                .error(404, "There is no such world.")
                .error(409, "The demo world cannot be deleted."),
            get("/v1/snapshot", "snapshot", worlds::snapshot)
                .summary("The whole world as JSON, credentials included.")
                .answer("The snapshot."),
            put("/v1/snapshot", "restore", worlds::restore)
                .summary("Replaces the content of the world with a snapshot; the world keeps its credentials.")
                .answer("The world.")
                .error(409, "A username in the snapshot belongs to another world."),
            post("/v1/fork", "fork", worlds::fork)
                .summary("Creates a copy of this world with its own credentials.")
                .answer("The new world.")
                .error(409, TOO_MANY),
        ],
    );
    process.chain(worlds)
}

fn clock_and_settings() -> impl Iterator<Item = Route> {
    let clock = tagged(
        "clock",
        [
            get("/v1/clock", "clock", process::clock).summary("What the clock shows.").answer("The clock."),
            put("/v1/clock", "setClock", process::set_clock)
                .summary("Sets the clock to a time, pauses it, or lets it run on.")
                .answer("The clock.")
                .error(409, "The clock only moves forward."),
            post("/v1/clock/advance", "advance", process::advance)
                .summary(
                    "Moves the clock forward. Everything that depends on time follows: refund periods, grace periods, \
                     key lifetimes, rate limits, settlement.",
                )
                .answer("The clock."),
        ],
    );
    let settings = tagged(
        "settings",
        [
            get("/v1/settings", "settings", process::settings).summary("The settings.").answer("All settings."),
            patch("/v1/settings", "changeSettings", process::change_settings)
                .summary("Changes the settings in the body and leaves the others.")
                .answer("All settings."),
        ],
    );
    clock.chain(settings)
}

fn faults_and_gates() -> impl Iterator<Item = Route> {
    const NO_FAULT: &str = "There is no such fault.";
    let faults = tagged(
        "faults",
        [
            get("/v1/faults", "faults", faults::list)
                .summary("All faults and how often each has fired.")
                .answer("All faults, including those that will not fire again."),
            post("/v1/faults", "arm", faults::arm)
                .summary("Arms a fault.")
                .answer("The fault is armed.")
                .error(409, "Too many faults are armed."),
            get("/v1/faults/unfired", "unfiredFaults", faults::unfired)
                .summary("The faults that have never fired.")
                .answer("The faults that have never fired.")
                .error(409, "The query or one of the faults is strict, and at least one never fired."),
            get("/v1/faults/random", "random", faults::random)
                .summary("The random mode.")
                .answer("The random mode is on.")
                .error(404, "The random mode is off."),
            put("/v1/faults/random", "setRandom", faults::set_random)
                .summary(
                    "Switches the random mode on, or to other draws. For each request it draws whether a fault \
                     happens, and which one, from the seed and the request's provider, operation, target and attempt \
                     alone; the order of requests does not matter.",
                )
                .answer("The random mode is on."),
            delete("/v1/faults/random", "endRandom", faults::end_random)
                .summary("Switches the random mode off.")
                .answer("The random mode is off."),
            get("/v1/faults/{id}", "fault", faults::show)
                .summary("One fault.")
                .answer("The fault and how often it has fired.")
                .error(404, NO_FAULT),
            delete("/v1/faults/{id}", "disarm", faults::disarm)
                .summary("Deletes a fault.")
                .answer("The fault as it was.")
                .error(404, NO_FAULT),
        ],
    );
    const NO_GATE: &str = "There is no such gate.";
    let gates = tagged(
        "gates",
        [
            get("/v1/gates", "gates", faults::list_gates)
                .summary("All gates and the requests that wait there.")
                .answer("All gates."),
            post("/v1/gates", "putUpGate", faults::add_gate)
                .summary("Adds a gate: requests that reach its point wait there.")
                .answer("The gate is in place.")
                .error(409, "There are too many gates."),
            get("/v1/gates/{id}", "gate", faults::show_gate)
                .summary("One gate and the requests that wait there.")
                .answer("The gate.")
                .error(404, NO_GATE),
            delete("/v1/gates/{id}", "takeAwayGate", faults::remove_gate)
                .summary("Removes a gate; all requests that wait there continue.")
                .answer("The gate as it was.")
                .error(404, NO_GATE),
            post("/v1/gates/{id}/release", "release", faults::release)
                .summary("Lets one waiting request continue, or all.")
                .answer("The requests that continue.")
                .error(404, NO_GATE)
                .error(409, "That request does not wait there."),
        ],
    );
    faults.chain(gates)
}

fn records() -> impl Iterator<Item = Route> {
    tagged(
        "records",
        [
            get("/v1/books", "books", records::books)
                .summary("What really happened.")
                .answer("Part of the books, oldest first."),
            get("/v1/journal", "journal", records::journal)
                .summary("The requests that arrived and how they were answered.")
                .answer("Part of the journal, oldest first."),
            get("/v1/journal/{id}", "journalEntry", records::journal_entry)
                .summary("One request.")
                .answer("The request.")
                .error(404, "There is no such request, or it is no longer kept."),
            get("/v1/audit", "audit", records::audit)
                .summary("What is wrong, judged by the books and the journal alone.")
                .answer("The audit."),
            post("/v1/audit", "auditClaims", records::audit_claims)
                .summary("What is wrong, also judged by what a caller believes about its refunds.")
                .answer("The audit."),
        ],
    )
}

const NO_ACCOUNT: &str = "There is no such account.";
const NO_ORDER: &str = "There is no such order.";
const FOREIGN_USERNAME: &str = "The username belongs to another world.";

fn sectigo() -> impl Iterator<Item = Route> {
    tagged(
        "sectigo",
        [
            get("/v1/sectigo/accounts", "sectigoAccounts", provider_state::sectigo_accounts)
                .summary("All accounts.")
                .answer("Part of the accounts, sorted by login name."),
            get("/v1/sectigo/accounts/{login_name}", "sectigoAccount", provider_state::sectigo_account)
                .summary("One account.")
                .answer("The account.")
                .error(404, NO_ACCOUNT),
            put("/v1/sectigo/accounts/{login_name}", "putSectigoAccount", provider_state::put_sectigo_account)
                .summary("Adds an account, or replaces it.")
                .answer("The account as it is now.")
                .error(409, FOREIGN_USERNAME),
            get("/v1/sectigo/orders", "sectigoOrders", provider_state::sectigo_orders)
                .summary("All orders.")
                .answer("Part of the orders, sorted by order number."),
            get("/v1/sectigo/orders/{order_number}", "sectigoOrder", provider_state::sectigo_order)
                .summary("One order.")
                .answer("The order.")
                .error(404, NO_ORDER),
            put("/v1/sectigo/orders/{order_number}", "putSectigoOrder", provider_state::put_sectigo_order)
                .summary("Adds an order, or replaces it.")
                .answer("The order as it is now."),
        ],
    )
}

fn namecom() -> impl Iterator<Item = Route> {
    const ORDER: &str = "/v1/namecom/orders/{order_id}";
    const ITEM: &str = "/v1/namecom/orders/{order_id}/items/{item_id}";
    const SETTLE: &str = "/v1/namecom/orders/{order_id}/items/{item_id}/settle";
    tagged(
        "namecom",
        [
            get("/v1/namecom/accounts", "namecomAccounts", provider_state::namecom_accounts)
                .summary("All accounts.")
                .answer("Part of the accounts, sorted by username."),
            get("/v1/namecom/accounts/{username}", "namecomAccount", provider_state::namecom_account)
                .summary("One account.")
                .answer("The account.")
                .error(404, NO_ACCOUNT),
            put("/v1/namecom/accounts/{username}", "putNamecomAccount", provider_state::put_namecom_account)
                .summary("Adds an account, or replaces it.")
                .answer("The account as it is now.")
                .error(409, FOREIGN_USERNAME),
            get("/v1/namecom/orders", "namecomOrders", provider_state::namecom_orders)
                .summary("All orders.")
                .answer("Part of the orders, sorted by id."),
            get(ORDER, "namecomOrder", provider_state::namecom_order)
                .summary("One order.")
                .answer("The order.")
                .error(404, NO_ORDER),
            put(ORDER, "putNamecomOrder", provider_state::put_namecom_order)
                .summary("Adds an order, or replaces it.")
                .answer("The order as it is now."),
            get(ITEM, "namecomItem", provider_state::namecom_item)
                .summary("One item.")
                .answer("The item.")
                .error(404, "There is no such item."),
            put(ITEM, "putNamecomItem", provider_state::put_namecom_item)
                .summary("Adds an item to an order, or replaces it.")
                .answer("The item as it is now.")
                .error(404, NO_ORDER),
            post(SETTLE, "settleNamecomItem", provider_state::settle_namecom_item)
                .summary("Decides a refund that was answered `initialized`.")
                .answer("The item as it is now.")
                .error(404, "There is no such item.")
                .error(409, "The item has no undecided refund."),
        ],
    )
}

fn debitsuccess() -> impl Iterator<Item = Route> {
    const ACCOUNT: &str = "/v1/debitsuccess/accounts/{reference}";
    const REFUND: &str = "/v1/debitsuccess/refunds/{identifier}";
    const STATUS: &str = "/v1/debitsuccess/refunds/{identifier}/status";
    tagged(
        "debitsuccess",
        [
            get("/v1/debitsuccess/logins", "debitsuccessLogins", provider_state::debitsuccess_logins)
                .summary("All credentials.")
                .answer("Part of the credentials, sorted by username."),
            put("/v1/debitsuccess/logins/{username}", "putDebitsuccessLogin", provider_state::put_debitsuccess_login)
                .summary("Adds credentials, or replaces their password.")
                .answer("The credentials without their password.")
                .error(409, FOREIGN_USERNAME),
            get("/v1/debitsuccess/accounts", "debitsuccessAccounts", provider_state::debitsuccess_accounts)
                .summary("All accounts.")
                .answer("Part of the accounts, sorted by reference."),
            get(ACCOUNT, "debitsuccessAccount", provider_state::debitsuccess_account)
                .summary("One account.")
                .answer("The account.")
                .error(404, NO_ACCOUNT),
            put(ACCOUNT, "putDebitsuccessAccount", provider_state::put_debitsuccess_account)
                .summary("Adds an account, or replaces it; its refunds stay.")
                .answer("The account as it is now."),
            get("/v1/debitsuccess/refunds", "debitsuccessRefunds", provider_state::debitsuccess_refunds)
                .summary("All refunds.")
                .answer("Part of the refunds, sorted by number."),
            get(REFUND, "debitsuccessRefund", provider_state::debitsuccess_refund)
                .summary("One refund, by its number or its identifier.")
                .answer("The refund.")
                .error(404, "There is no such refund."),
            post(STATUS, "moveDebitsuccessRefund", provider_state::move_debitsuccess_refund)
                .summary("Moves a refund to another status.")
                .answer("The refund as it is now.")
                .error(404, "There is no such refund.")
                .error(409, "It is in a final status, or several accounts have a refund with this identifier."),
        ],
    )
}

pub(super) async fn openapi_document() -> Document {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    Document(DOCUMENT.get_or_init(|| openapi::document(&routes()).to_string().into()).clone())
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl Output for Document {
    fn describe(operation: &mut OperationDoc<'_>) {
        operation.answers_with(200, "application/json", &json!({ "type": "object" }));
    }
}
