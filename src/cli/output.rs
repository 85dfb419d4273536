//! Prints refunds as aligned text, or as JSON with the contract's field names.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;
use recoup::proto::v1 as proto;
use recoup::proto::v1::approval_decision::Verdict;
use recoup::proto::v1::refund::{MoneyVerdict, State, Target, WaitingFor};
use serde::{Serialize, Serializer};

use super::Failure;

/// A message of the contract, serialized in its ProtoJSON form.
///
/// Fields with their default value are written too, so that a script always finds the same keys.
/// Absent messages and an absent target are left out.
pub(super) struct Json(DynamicMessage);

/// The JSON output of each command about one refund.
#[derive(Serialize)]
pub(super) struct RefundOutput {
    pub(super) refund: Json,
    /// The history; only `show` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) events: Option<Vec<Json>>,
}

static CONTRACT: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(tonic::include_file_descriptor_set!("recoup_descriptors").as_ref()).ok());

/// Length of a table row's last column. `show` prints the full text.
const MAX_REASON_CHARS: usize = 100;

impl Json {
    /// `name` is the contract's full name of the type of `message`.
    pub(super) fn from_message(name: &str, message: &impl Message) -> Result<Self, Failure> {
        let unknown = || Failure::new(format!("{name} has no JSON form: this program was built incorrectly"));
        let descriptor = CONTRACT.as_ref().and_then(|pool| pool.get_message_by_name(name)).ok_or_else(unknown)?;
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map(Json).map_err(|_| unknown())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &SerializeOptions::new().skip_default_fields(false))
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::new(format!("could not write JSON: {error}")))
}

/// A table with one line per refund.
pub(super) fn table(refunds: &[proto::Refund]) -> String {
    let header = ["REFUND", "STATE", "ACCOUNT", "TARGET", "ATTEMPTS", "UPDATED", "NEXT CHECK", "REASON"];
    let rows = refunds.iter().map(|refund| {
        [
            refund.refund_id.clone(),
            state(refund.state()).to_owned(),
            refund.account.clone(),
            target(refund),
            refund.attempt_count.to_string(),
            time(refund.update_time.as_ref()),
            next_check(refund),
            truncated(&reason(refund)),
        ]
    });
    aligned(std::iter::once(header.map(str::to_owned)).chain(rows).collect())
}

/// All fields of a refund, one per line.
pub(super) fn refund(refund: &proto::Refund) -> String {
    let mut lines: Vec<[String; 2]> = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push([name.to_owned(), value]);
        }
    };
    let verdict = match refund.money_verdict() {
        MoneyVerdict::NotMoved => "no money has moved",
        MoneyVerdict::MayHaveMoved => "the money may have moved",
        MoneyVerdict::Moved => "the money has moved",
        MoneyVerdict::Unspecified => "it is unknown whether the money has moved",
    };
    line("refund", refund.refund_id.clone());
    line("state", format!("{}: {verdict}", state(refund.state())));
    line("account", refund.account.clone());
    line("target", target(refund));
    if let Some(doubt) = &refund.doubt {
        let reason = doubt.reason().as_str_name().trim_start_matches("REASON_");
        line("doubt", format!("{reason} since {}", time(doubt.since_time.as_ref())));
        line("last evidence", doubt.last_evidence.clone());
        line("lookups", doubt.check_count.to_string());
        line("resend", if doubt.resend_safe { "safe at this provider now" } else { "not safe" }.to_owned());
    }
    line("waiting for", waiting_for(refund));
    if let Some(approval) = &refund.approval {
        let count = approval.decisions.iter().filter(|one| one.verdict() == Verdict::Approved).count();
        let until = time(approval.expire_time.as_ref());
        let (rule, needed) = (&approval.rule, approval.needed);
        line("approval", format!("{count} of {needed}, asked for by the rule {rule}, until {until}"));
        for decision in &approval.decisions {
            let verdict = decision.verdict().as_str_name().trim_start_matches("VERDICT_");
            let (by, at) = (&decision.caller, time(decision.decision_time.as_ref()));
            let comment = if decision.comment.is_empty() { String::new() } else { format!(": {}", decision.comment) };
            line("decision", format!("{verdict} by {by}, {at}{comment}"));
        }
    }
    line("next check", next_check(refund));
    if let Some(error) = &refund.provider_error {
        let category = error.category().as_str_name().trim_start_matches("CATEGORY_");
        let http = if error.http_status == 0 { String::new() } else { format!(", HTTP {}", error.http_status) };
        line("provider error", format!("{}: {} ({category}{http})", error.code, error.message));
    }
    line("refunded", refund.refunded_amount.as_ref().map(money).unwrap_or_default());
    for item in &refund.items {
        let state = item.state().as_str_name().trim_start_matches("STATE_");
        let amount = item.refunded_amount.as_ref().map(|amount| format!(", {}", money(amount))).unwrap_or_default();
        let attached = if item.requested { "" } else { ", refunded with it" };
        let message = if item.message.is_empty() { String::new() } else { format!(": {}", item.message) };
        line("item", format!("{} {state}{amount}{attached}{message}", item.item_id));
    }
    line("reference", refund.provider_reference.clone());
    line("provider status", refund.provider_status.clone());
    line("provider's note", refund.provider_status_note.clone());
    line("attempts", refund.attempt_count.to_string());
    line("created", time(refund.create_time.as_ref()));
    line("first attempt", time(refund.dispatch_time.as_ref()));
    line("updated", time(refund.update_time.as_ref()));
    line("completed", time(refund.complete_time.as_ref()));
    let mut labels: Vec<_> = refund.labels.iter().collect();
    labels.sort_unstable();
    for (key, value) in labels {
        line("label", format!("{key} = {value}"));
    }
    line("etag", refund.etag.clone());
    aligned(lines)
}

/// A table with one line per event.
pub(super) fn history(events: &[proto::RefundEvent]) -> String {
    let header = ["SEQUENCE", "REVISION", "TIME", "STATE", "ACTOR", "NOTE"];
    let rows = events.iter().map(|event| {
        [
            event.sequence.to_string(),
            event.revision.to_string(),
            time(event.event_time.as_ref()),
            state(event.to_state()).to_owned(),
            event.actor.clone(),
            event.note.clone(),
        ]
    });
    aligned(std::iter::once(header.map(str::to_owned)).chain(rows).collect())
}

/// Aligns columns, with two spaces between them.
fn aligned<const N: usize>(rows: Vec<[String; N]>) -> String {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = rows.iter().map(|row| {
        let padded: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{}{:width$}  ", printable(cell), "", width = width - cell.chars().count()))
            .collect();
        padded.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces control characters, which a terminal would execute.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect()
}

fn state(state: State) -> &'static str {
    state.as_str_name().trim_start_matches("STATE_")
}

fn target(refund: &proto::Refund) -> String {
    match &refund.target {
        Some(Target::Sectigo(order)) => format!("order {}", order.order_number),
        Some(Target::Namecom(order)) => {
            let items: Vec<String> = order.order_item_ids.iter().map(i32::to_string).collect();
            format!("order {} item {}", order.order_id, items.join(","))
        }
        Some(Target::Debitsuccess(target)) => {
            let reference = if target.account_reference_no.is_empty() {
                &target.external_account_reference_no
            } else {
                &target.account_reference_no
            };
            format!("{reference} {}", target.amount.as_ref().map(money).unwrap_or_default())
        }
        None => String::new(),
    }
}

fn next_check(refund: &proto::Refund) -> String {
    match (refund.state(), &refund.doubt) {
        (State::InDoubt | State::NeedsReview, Some(doubt)) => match &doubt.next_check_time {
            Some(at) => time(Some(at)),
            None if refund.state() == State::InDoubt && waiting_for(refund).is_empty() => "now".to_owned(),
            None => String::new(),
        },
        _ => String::new(),
    }
}

fn waiting_for(refund: &proto::Refund) -> String {
    match refund.waiting_for() {
        WaitingFor::Unspecified => "",
        WaitingFor::Turn => "its turn",
        WaitingFor::Backoff => "the backoff after an attempt that was not processed",
        WaitingFor::Provider => "the provider, which gives no usable answer",
        WaitingFor::Credentials => "credentials that the provider accepts",
        WaitingFor::Resume => "an operator who resumes its account",
        WaitingFor::Account => {
            "its account, which is not configured or has another provider, endpoint, login or currency"
        }
        WaitingFor::Approval => "a second person who approves or rejects it",
    }
    .to_owned()
}

fn reason(refund: &proto::Refund) -> String {
    if matches!(refund.waiting_for(), WaitingFor::Account | WaitingFor::Approval) {
        return format!("waiting for {}", waiting_for(refund));
    }
    match (&refund.doubt, &refund.provider_error) {
        (Some(doubt), _) => {
            let reason = doubt.reason().as_str_name().trim_start_matches("REASON_");
            format!("{reason}: {}", doubt.last_evidence)
        }
        (None, Some(error)) => format!("{}: {}", error.code, error.message),
        (None, None) => refund.provider_status.clone(),
    }
}

fn truncated(text: &str) -> String {
    if text.chars().count() <= MAX_REASON_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_REASON_CHARS).chain("...".chars()).collect()
}

fn money(amount: &proto::Money) -> String {
    let magnitude = amount.minor_units.unsigned_abs();
    let sign = if amount.minor_units < 0 { "-" } else { "" };
    format!("{sign}{}.{:02} {}", magnitude / 100, magnitude % 100, amount.currency_code)
}

/// In UTC, truncated to seconds.
fn time(at: Option<&Timestamp>) -> String {
    at.map(|at| Timestamp { seconds: at.seconds, nanos: 0 }.to_string()).unwrap_or_default()
}
