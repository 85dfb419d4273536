//! Converts between the public contract and the domain. Collects all violations of a request;
//! converting an answer cannot fail.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::api::status;
use crate::domain::approval::{Approval, ApprovalDecision, Verdict};
use crate::domain::authority::Authority;
use crate::domain::characters::is_control_or_format;
use crate::domain::clock::Timestamp;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::event::{EventKind, ItemResolution, Resolution};
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, InvalidName, ProviderKind, RefundId};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError};
use crate::domain::refund::{Doubt, Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{
    DebitsuccessFields, DebitsuccessTarget, FieldViolation, NamecomTarget, SectigoTarget, Target,
};
use crate::engine::{
    AccountHealth, AccountStatus, ApprovalCommand, ReassignCommand, ResolveCommand, SharedEvent, WaitingFor,
};
use crate::ledger::ListQuery;
use crate::proto::v1 as proto;
use crate::proto::v1::create_refund_request::Target as RequestTarget;

const MAX_LABELS: usize = 16;
const MAX_LABEL_KEY_BYTES: usize = 64;
const MAX_LABEL_VALUE_BYTES: usize = 256;
/// The longest google.protobuf.Duration: ten thousand years.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;
/// Room for a ticket's address and a sentence.
const MAX_SENTENCE_CHARS: usize = 1_000;
/// A billion: far above any refund.
const MAX_EXPECTED_MINOR_UNITS: i64 = 100_000_000_000;
/// Longer than any reference of a target.
const MAX_REFERENCE_BYTES: usize = 256;

/// Collects the invalid fields of a request.
#[derive(Default)]
pub(super) struct Violations(Vec<FieldViolation>);

impl Violations {
    pub(super) fn add(&mut self, field: &str, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    /// The value of `result`; records the error otherwise.
    pub(super) fn ok_or_record<T>(&mut self, field: &str, result: Result<T, InvalidName>) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }

    /// An error with all violations, if there are any.
    pub(super) fn check(self) -> Result<(), Status> {
        if self.0.is_empty() { Ok(()) } else { Err(status::invalid(self.0)) }
    }

    /// The value, or an error with all violations. A missing value always has a violation.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(status::invalid(self.0)),
        }
    }

    /// The value of `result`; records its violations under `prefix` otherwise.
    fn with_prefix<T>(&mut self, prefix: &str, result: Result<T, Vec<FieldViolation>>) -> Option<T> {
        let prefixed = |one: FieldViolation| FieldViolation::new(format!("{prefix}.{}", one.field), one.description);
        result.map_err(|violations| self.0.extend(violations.into_iter().map(prefixed))).ok()
    }
}

pub(super) fn intent(request: proto::CreateRefundRequest, violations: &mut Violations) -> Option<Intent> {
    let id = violations.ok_or_record("refund_id", RefundId::parse(&request.refund_id));
    let account = violations.ok_or_record("account", AccountName::parse(&request.account));
    let target = target(request.target, violations);
    let labels = labels(request.labels, violations);
    let expected_amount = expected_amount(request.expected_amount, target.as_ref(), violations);
    Some(Intent { id: id?, account: account?, target: target?, labels, expected_amount })
}

fn expected_amount(given: Option<proto::Money>, target: Option<&Target>, violations: &mut Violations) -> Option<Money> {
    if given.is_some() && matches!(target, Some(Target::Debitsuccess(_))) {
        violations.add("expected_amount", "must be unset: the target names the amount");
        return None;
    }
    let amount = given_amount("expected_amount", given, violations)?;
    if !(1..=MAX_EXPECTED_MINOR_UNITS).contains(&amount.minor_units) {
        let problem = format!("must be 1 to {MAX_EXPECTED_MINOR_UNITS}");
        violations.add("expected_amount.minor_units", problem);
    }
    Some(amount)
}

/// The id in `refunds/{refund_id}`.
pub(super) fn refund_name(name: &str) -> Result<RefundId, Status> {
    let mut violations = Violations::default();
    let id = violations.ok_or_record("name", RefundId::parse_resource(name));
    violations.into_result(id)
}

/// A duration that is not negative. Not prost's own conversion, which overflows for the smallest
/// number of seconds.
pub(super) fn duration(
    field: &str,
    given: Option<prost_types::Duration>,
    violations: &mut Violations,
) -> Option<Duration> {
    let given = given?;
    let seconds = u64::try_from(given.seconds).ok().filter(|seconds| *seconds <= MAX_DURATION_SECONDS);
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    if seconds.is_none() || nanos.is_none() {
        violations.add(field, "must not be negative, with nanos of at most 999999999");
    }
    Some(Duration::new(seconds?, nanos?))
}

pub(super) fn resolve_command(request: proto::ResolveRefundRequest, by: Authority) -> Result<ResolveCommand, Status> {
    use proto::resolve_refund_request::Resolution as ProtoResolution;
    let mut violations = Violations::default();
    let id = violations.ok_or_record("name", RefundId::parse_resource(&request.name));
    require_etag(&request.etag, &mut violations);
    let evidence = evidence(&request.evidence, &mut violations);
    let resolution = ProtoResolution::try_from(request.resolution).unwrap_or(ProtoResolution::Unspecified);
    if request.refunded_amount.is_some() && resolution != ProtoResolution::Refunded {
        violations.add("refunded_amount", "must be unset: only RESOLUTION_REFUNDED has one");
    }
    if !request.items.is_empty() && resolution != ProtoResolution::Refunded {
        violations.add("items", "must be empty: only RESOLUTION_REFUNDED has them");
    }
    if request.take_over && resolution == ProtoResolution::SendAgain {
        violations.add("resolution", "must not be RESOLUTION_SEND_AGAIN together with take_over");
        violations.add(
            "take_over",
            "must not be set with RESOLUTION_SEND_AGAIN: an earlier attempt may still have an effect",
        );
    }
    let resolution = match resolution {
        ProtoResolution::Refunded => {
            let amount = given_amount("refunded_amount", request.refunded_amount, &mut violations);
            let items = request.items.into_iter().enumerate().map(|(index, item)| ItemResolution {
                item_id: item.item_id,
                refunded: item.refunded,
                amount: given_amount(&format!("items[{index}].refunded_amount"), item.refunded_amount, &mut violations),
            });
            Some(Resolution::Refunded { amount, items: items.collect() })
        }
        ProtoResolution::NotRefunded => Some(Resolution::NotRefunded),
        ProtoResolution::SendAgain => Some(Resolution::SendAgain),
        ProtoResolution::Unspecified => {
            violations.add("resolution", "is required: what you found out about the money");
            None
        }
    };
    let (id, resolution) = violations.into_result(id.zip(resolution))?;
    let (etag, take_over) = (request.etag, request.take_over);
    Ok(ResolveCommand { id, etag, resolution, evidence, take_over, by })
}

pub(super) fn reassign_command(
    request: proto::ReassignRefundRequest,
    by: Authority,
) -> Result<ReassignCommand, Status> {
    let mut violations = Violations::default();
    let id = violations.ok_or_record("name", RefundId::parse_resource(&request.name));
    require_etag(&request.etag, &mut violations);
    let account = violations.ok_or_record("account", AccountName::parse(&request.account));
    let evidence = evidence(&request.evidence, &mut violations);
    let (id, account) = violations.into_result(id.zip(account))?;
    Ok(ReassignCommand { id, etag: request.etag, account, evidence, by })
}

pub(super) fn approve_command(request: proto::ApproveRefundRequest, by: Authority) -> Result<ApprovalCommand, Status> {
    let proto::ApproveRefundRequest { name, etag, comment } = request;
    approval_command(&name, etag, Verdict::Approved, &comment, by)
}

pub(super) fn reject_command(request: proto::RejectRefundRequest, by: Authority) -> Result<ApprovalCommand, Status> {
    let proto::RejectRefundRequest { name, etag, comment } = request;
    approval_command(&name, etag, Verdict::Rejected, &comment, by)
}

fn approval_command(
    name: &str,
    etag: String,
    verdict: Verdict,
    comment: &str,
    by: Authority,
) -> Result<ApprovalCommand, Status> {
    let mut violations = Violations::default();
    let id = violations.ok_or_record("name", RefundId::parse_resource(name));
    require_etag(&etag, &mut violations);
    let is_required = verdict == Verdict::Rejected;
    let comment = match comment.trim() {
        "" if !is_required => String::new(),
        comment => sentence("comment", comment, &mut violations),
    };
    let id = violations.into_result(id)?;
    Ok(ApprovalCommand { id, etag, verdict, comment, by })
}

fn require_etag(etag: &str, violations: &mut Violations) {
    if etag.is_empty() {
        violations.add("etag", "is required: the etag of the state on which the decision is based");
    }
}

fn evidence(given: &str, violations: &mut Violations) -> String {
    sentence("evidence", given, violations)
}

/// A text that a person wrote for other people.
pub(super) fn sentence(field: &str, given: &str, violations: &mut Violations) -> String {
    let text = given.trim();
    let length = text.chars().count();
    if !(1..=MAX_SENTENCE_CHARS).contains(&length) || text.chars().any(is_control_or_format) {
        let problem = format!("must be 1 to {MAX_SENTENCE_CHARS} characters without control or format characters");
        violations.add(field, problem);
    }
    text.to_owned()
}

fn given_amount(field: &str, given: Option<proto::Money>, violations: &mut Violations) -> Option<Money> {
    let given = given?;
    match Currency::parse(&given.currency_code) {
        Ok(currency) => Some(Money { currency, minor_units: given.minor_units }),
        Err(error) => {
            violations.add(&format!("{field}.currency_code"), error.to_string());
            None
        }
    }
}

/// 0 means 50, values above 1,000 mean 1,000, and negative values are invalid.
pub(super) fn page_size(given: i32, violations: &mut Violations) -> u32 {
    match u32::try_from(given) {
        Ok(0) => 50,
        Ok(size) => size.min(1000),
        Err(_) => {
            violations.add("page_size", "must not be below 0");
            50
        }
    }
}

/// The query of a filter, without page and limit.
pub(super) fn filter(filter: Option<proto::RefundFilter>, violations: &mut Violations) -> ListQuery {
    let filter = filter.unwrap_or_default();
    let mut query = ListQuery::default();
    for (index, number) in filter.states.iter().enumerate() {
        match proto::refund::State::try_from(*number).ok().and_then(state_from_proto) {
            Some(state) => query.states.push(state),
            None => violations.add(&format!("filter.states[{index}]"), "must be a state"),
        }
    }
    query.states.sort_unstable();
    query.states.dedup();
    if !filter.account.is_empty() {
        query.account = violations.ok_or_record("filter.account", AccountName::parse(&filter.account));
    }
    if filter.target_reference.len() > MAX_REFERENCE_BYTES {
        violations.add("filter.target_reference", format!("must be at most {MAX_REFERENCE_BYTES} bytes"));
    } else if filter.target_reference.chars().any(is_control_or_format) {
        violations.add("filter.target_reference", "must not contain control or format characters");
    } else if !filter.target_reference.is_empty() {
        query.target_reference = Some(filter.target_reference);
    }
    if filter.created_by.len() > MAX_REFERENCE_BYTES {
        violations.add("filter.created_by", format!("must be at most {MAX_REFERENCE_BYTES} bytes"));
    } else if !filter.created_by.is_empty() {
        query.created_by = Some(filter.created_by);
    }
    query.created_from = instant("filter.create_time_start", filter.create_time_start, violations);
    query.created_before = instant("filter.create_time_end", filter.create_time_end, violations);
    query
}

/// Facts about a refund that the engine knows and the refund does not contain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EngineView {
    /// Whether sending again is safe now.
    pub(super) resend_safe: bool,
    /// What the refund waits for.
    pub(super) waiting_for: Option<WaitingFor>,
    /// Dry run: the answer shows what the refund would do.
    pub(super) is_hypothetical: bool,
}

pub(super) fn refund(refund: &Refund, view: EngineView) -> proto::Refund {
    let side_effects = side_effects(refund, view.is_hypothetical);
    proto::Refund {
        name: refund.id().resource(),
        refund_id: refund.id().to_string(),
        account: refund.account.to_string(),
        target: Some(target_to_proto(&refund.intent.target)),
        state: state(refund.state).into(),
        money_verdict: money_verdict(refund).into(),
        doubt: refund.doubt.as_ref().map(|known| doubt(refund, known, view)),
        provider_error: refund.provider_error.as_ref().map(provider_error),
        refunded_amount: refund.refunded_amount.map(money),
        items: refund.items.iter().map(item).collect(),
        provider_reference: refund.provider_reference.clone().unwrap_or_default(),
        provider_status: refund.provider_status.clone().unwrap_or_default(),
        side_effects: side_effects.into_iter().map(i32::from).collect(),
        attempt_count: i32::try_from(refund.attempt_count).unwrap_or(i32::MAX),
        revision: signed(refund.revision),
        etag: refund.etag(),
        create_time: Some(timestamp(refund.create_time)),
        update_time: Some(timestamp(refund.update_time)),
        dispatch_time: refund.dispatch_time.map(timestamp),
        complete_time: refund.complete_time.map(timestamp),
        labels: refund.intent.labels.clone().into_iter().collect(),
        created_by: refund.created_by.clone().unwrap_or_default(),
        waiting_for: view.waiting_for.map(waiting_for).unwrap_or_default().into(),
        provider_status_note: refund.provider_status_note.clone().unwrap_or_default(),
        expected_amount: refund.intent.expected_amount.map(money),
        approval: refund.approval.as_ref().map(approval),
    }
}

fn approval(approval: &Approval) -> proto::Approval {
    proto::Approval {
        rule: approval.rule.clone(),
        needed: i32::try_from(approval.needed).unwrap_or(i32::MAX),
        decisions: approval.decisions.iter().map(approval_decision).collect(),
        expire_time: Some(timestamp(approval.expire_time)),
    }
}

fn approval_decision(decision: &ApprovalDecision) -> proto::ApprovalDecision {
    use proto::approval_decision::Verdict as ProtoVerdict;
    let verdict = match decision.verdict {
        Verdict::Approved => ProtoVerdict::Approved,
        Verdict::Rejected => ProtoVerdict::Rejected,
    };
    proto::ApprovalDecision {
        caller: decision.by.caller.clone(),
        verdict: verdict.into(),
        comment: decision.comment.clone(),
        decision_time: Some(timestamp(decision.time)),
    }
}

pub(super) fn event(event: EventRecord) -> proto::RefundEvent {
    let from = event.from.map_or(proto::refund::State::Unspecified, state);
    proto::RefundEvent {
        sequence: signed(event.sequence),
        refund: event.refund.resource(),
        revision: signed(event.revision),
        event_time: Some(timestamp(event.time)),
        from_state: from.into(),
        to_state: state(event.to).into(),
        actor: event.actor.name,
        credential: event.actor.credential.unwrap_or_default(),
        policy: event.actor.policy.unwrap_or_default(),
        note: event.note,
        chain_hash: event.chain_hash.to_vec(),
        kind: event_kind(event.kind).into(),
        attempt: i32::try_from(event.attempt).unwrap_or(i32::MAX),
    }
}

/// A message of the event stream. An event is encoded once for all readers.
pub(super) fn stream_response(event: &SharedEvent) -> proto::StreamRefundEventsResponse {
    let encode = |record: &EventRecord| Bytes::from(self::event(record.clone()).encode_to_vec());
    proto::StreamRefundEventsResponse::from_encoded(event.encoded(encode))
}

/// `pending` of its refunds are PENDING.
pub(super) fn account(status: &AccountStatus, pending: u64) -> proto::Account {
    let AccountStatus { account, health, unhealthy_since, pause } = status;
    let provider = match account.provider {
        ProviderKind::Sectigo => proto::account::Provider::Sectigo,
        ProviderKind::Namecom => proto::account::Provider::Namecom,
        ProviderKind::Debitsuccess => proto::account::Provider::Debitsuccess,
    };
    let health = match health {
        _ if pause.is_some() => proto::account::Health::Paused,
        AccountHealth::Serving => proto::account::Health::Serving,
        AccountHealth::Suspended => proto::account::Health::Suspended,
        AccountHealth::CredentialsRefused => proto::account::Health::CredentialsRefused,
    };
    proto::Account {
        account: account.name.to_string(),
        provider: provider.into(),
        endpoint: account.place.endpoint.clone(),
        currency_code: account.place.currency.to_string(),
        retry_contract: Some(retry_contract(&account.contract)),
        health: health.into(),
        health_since_time: pause.as_ref().map(|pause| pause.begin).or(*unhealthy_since).map(timestamp),
        pending_count: signed(pending),
        pause_reason: pause.as_ref().map(|pause| pause.reason.clone()).unwrap_or_default(),
        paused_by: pause.as_ref().map(|pause| pause.by.name.clone()).unwrap_or_default(),
    }
}

/// Microseconds since the epoch as seconds and nanoseconds.
pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

fn target(given: Option<RequestTarget>, violations: &mut Violations) -> Option<Target> {
    match given {
        None => {
            violations.add("target", "is required: one of sectigo, namecom, debitsuccess");
            None
        }
        Some(RequestTarget::Sectigo(given)) => violations
            .with_prefix("sectigo", SectigoTarget::new(&given.order_number, given.reason))
            .map(Target::Sectigo),
        Some(RequestTarget::Namecom(given)) => violations
            .with_prefix("namecom", NamecomTarget::new(given.order_id, &given.order_item_ids))
            .map(Target::Namecom),
        Some(RequestTarget::Debitsuccess(given)) => {
            let fields = DebitsuccessFields {
                account_reference_no: &given.account_reference_no,
                external_account_reference_no: &given.external_account_reference_no,
                amount: given.amount.as_ref().map(|amount| (amount.currency_code.as_str(), amount.minor_units)),
                description: &given.description,
                request_initiator: &given.request_initiator,
            };
            violations.with_prefix("debitsuccess", DebitsuccessTarget::new(fields)).map(Target::Debitsuccess)
        }
    }
}

fn labels(given: HashMap<String, String>, violations: &mut Violations) -> BTreeMap<String, String> {
    if given.len() > MAX_LABELS {
        violations.add("labels", format!("must be at most {MAX_LABELS}"));
    }
    let labels: BTreeMap<String, String> = given.into_iter().collect();
    for (key, value) in labels.iter().take(MAX_LABELS) {
        let field = label_field(key);
        if !(1..=MAX_LABEL_KEY_BYTES).contains(&key.len()) {
            violations.add(&field, format!("must have a key of 1 to {MAX_LABEL_KEY_BYTES} bytes"));
        }
        if key.chars().any(is_control_or_format) {
            violations.add(&field, "must have a key without control or format characters");
        }
        if value.len() > MAX_LABEL_VALUE_BYTES {
            violations.add(&field, format!("must be at most {MAX_LABEL_VALUE_BYTES} bytes"));
        }
        if value.chars().any(is_control_or_format) {
            violations.add(&field, "must not contain control or format characters");
        }
    }
    labels
}

/// Such as `labels["team"]`.
fn label_field(key: &str) -> String {
    let printable: String = key.chars().take(MAX_LABEL_KEY_BYTES).flat_map(char::escape_debug).collect();
    format!("labels[\"{printable}\"]")
}

/// Rounds `given` up to the microseconds of the ledger. A filter's start is inclusive and its end
/// exclusive, so rounding up moves no refund across either bound.
fn instant(field: &str, given: Option<prost_types::Timestamp>, violations: &mut Violations) -> Option<Timestamp> {
    let given = given?;
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let micros = given.seconds.checked_mul(1_000_000).zip(nanos);
    let micros = micros.and_then(|(micros, nanos)| micros.checked_add(i64::from(nanos.div_ceil(1_000))));
    if micros.is_none() {
        violations.add(field, "must be a valid timestamp");
    }
    micros.map(Timestamp::from_micros)
}

fn target_to_proto(target: &Target) -> proto::refund::Target {
    match target {
        Target::Sectigo(target) => proto::refund::Target::Sectigo(proto::SectigoTarget {
            order_number: target.order_number().to_owned(),
            reason: i32::from(target.reason_code()),
        }),
        Target::Namecom(target) => proto::refund::Target::Namecom(proto::NamecomTarget {
            order_id: target.order_id(),
            order_item_ids: target.order_item_ids().to_vec(),
        }),
        Target::Debitsuccess(target) => proto::refund::Target::Debitsuccess(proto::DebitsuccessTarget {
            account_reference_no: target.account_reference_no().unwrap_or_default().to_owned(),
            external_account_reference_no: target.external_account_reference_no().unwrap_or_default().to_owned(),
            amount: Some(money(target.amount())),
            description: target.description().to_owned(),
            request_initiator: target.request_initiator().unwrap_or_default().to_owned(),
        }),
    }
}

fn state(state: State) -> proto::refund::State {
    match state {
        State::Pending => proto::refund::State::Pending,
        State::Dispatching => proto::refund::State::Dispatching,
        State::Submitted => proto::refund::State::Submitted,
        State::InDoubt => proto::refund::State::InDoubt,
        State::NeedsReview => proto::refund::State::NeedsReview,
        State::Succeeded => proto::refund::State::Succeeded,
        State::PartiallySucceeded => proto::refund::State::PartiallySucceeded,
        State::Failed => proto::refund::State::Failed,
        State::Cancelled => proto::refund::State::Cancelled,
        State::AwaitingApproval => proto::refund::State::AwaitingApproval,
    }
}

fn state_from_proto(given: proto::refund::State) -> Option<State> {
    State::ALL.into_iter().find(|one| state(*one) == given)
}

fn money_verdict(refund: &Refund) -> proto::refund::MoneyVerdict {
    match refund.state {
        State::Failed if refund.corrected_time.is_some() => proto::refund::MoneyVerdict::Moved,
        State::AwaitingApproval | State::Pending | State::Failed | State::Cancelled => {
            proto::refund::MoneyVerdict::NotMoved
        }
        State::Dispatching | State::Submitted | State::InDoubt | State::NeedsReview => {
            proto::refund::MoneyVerdict::MayHaveMoved
        }
        State::Succeeded | State::PartiallySucceeded => proto::refund::MoneyVerdict::Moved,
    }
}

fn waiting_for(waiting_for: WaitingFor) -> proto::refund::WaitingFor {
    match waiting_for {
        WaitingFor::Turn => proto::refund::WaitingFor::Turn,
        WaitingFor::Backoff => proto::refund::WaitingFor::Backoff,
        WaitingFor::Provider => proto::refund::WaitingFor::Provider,
        WaitingFor::Credentials => proto::refund::WaitingFor::Credentials,
        WaitingFor::Account => proto::refund::WaitingFor::Account,
        WaitingFor::Approval => proto::refund::WaitingFor::Approval,
        WaitingFor::Resume => proto::refund::WaitingFor::Resume,
    }
}

fn event_kind(kind: EventKind) -> proto::refund_event::Kind {
    use proto::refund_event::Kind;
    match kind {
        EventKind::Created => Kind::Created,
        EventKind::Dispatched => Kind::Dispatched,
        EventKind::Refunded => Kind::Refunded,
        EventKind::Accepted => Kind::Accepted,
        EventKind::Refused => Kind::Refused,
        EventKind::NotSent => Kind::NotSent,
        EventKind::Doubted => Kind::Doubted,
        EventKind::Interrupted => Kind::Interrupted,
        EventKind::Checked => Kind::Checked,
        EventKind::Escalated => Kind::Escalated,
        EventKind::Cancelled => Kind::Cancelled,
        EventKind::Expired => Kind::Expired,
        EventKind::Resolved => Kind::Resolved,
        EventKind::Reassigned => Kind::Reassigned,
        EventKind::Approved => Kind::Approved,
        EventKind::Rejected => Kind::Rejected,
        EventKind::Corrected => Kind::Corrected,
    }
}

/// Other effects that happened, or may have happened, at the provider. For a dry run: effects that
/// would happen.
fn side_effects(refund: &Refund, is_hypothetical: bool) -> Vec<proto::refund::SideEffect> {
    use proto::refund::SideEffect;
    let verdict = money_verdict(refund);
    if verdict == proto::refund::MoneyVerdict::NotMoved && !is_hypothetical {
        return Vec::new();
    }
    match refund.provider() {
        ProviderKind::Sectigo => vec![SideEffect::OrderCancelled],
        ProviderKind::Debitsuccess => vec![SideEffect::ServiceFeeCharged],
        // A refund whose money moved lists every item that was refunded with the requested ones.
        ProviderKind::Namecom if verdict == proto::refund::MoneyVerdict::Moved && !refund.items.is_empty() => {
            let is_attached = |item: &ItemResult| !item.requested && item.state == ItemState::Succeeded;
            let attached = refund.items.iter().any(is_attached).then_some(SideEffect::AttachedItemsRefunded);
            [SideEffect::DomainDeleted].into_iter().chain(attached).collect()
        }
        ProviderKind::Namecom => vec![SideEffect::DomainDeleted, SideEffect::AttachedItemsRefunded],
    }
}

fn doubt(refund: &Refund, doubt: &Doubt, view: EngineView) -> proto::Doubt {
    use proto::doubt::Reason;
    let reason = match doubt.reason {
        DoubtReason::Timeout => Reason::Timeout,
        DoubtReason::ConnectionLost => Reason::ConnectionLost,
        DoubtReason::ProviderServerError => Reason::ProviderServerError,
        DoubtReason::UnreadableReply => Reason::UnreadableReply,
        DoubtReason::ProviderSaysUnknown => Reason::ProviderSaysUnknown,
        DoubtReason::GatewayRestarted => Reason::GatewayRestarted,
        DoubtReason::Contradiction => Reason::Contradiction,
    };
    // An IN_DOUBT refund without a time in the ledger has been due since its last change.
    let due_since = (refund.state == State::InDoubt).then_some(refund.update_time);
    let next_check = refund.next_check.or(due_since);
    proto::Doubt {
        reason: reason.into(),
        since_time: Some(timestamp(doubt.since)),
        next_check_time: next_check.filter(|_| view.waiting_for != Some(WaitingFor::Account)).map(timestamp),
        check_count: i32::try_from(doubt.check_count).unwrap_or(i32::MAX),
        last_evidence: doubt.last_evidence.clone(),
        resend_safe: view.resend_safe,
    }
}

fn provider_error(error: &ProviderError) -> proto::ProviderError {
    use proto::provider_error::Category;
    let category = match error.category {
        ErrorCategory::InvalidRequest => Category::InvalidRequest,
        ErrorCategory::CredentialsRefused => Category::CredentialsRefused,
        ErrorCategory::PermissionDenied => Category::PermissionDenied,
        ErrorCategory::TargetNotFound => Category::TargetNotFound,
        ErrorCategory::TargetAmbiguous => Category::TargetAmbiguous,
        ErrorCategory::AlreadyRefunded => Category::AlreadyRefunded,
        ErrorCategory::NotEligible => Category::NotEligible,
        ErrorCategory::RefundPeriodOver => Category::RefundPeriodOver,
        ErrorCategory::AmountTooLarge => Category::AmountTooLarge,
        ErrorCategory::IdentifierInUse => Category::IdentifierInUse,
        ErrorCategory::LimitReached => Category::LimitReached,
        ErrorCategory::RejectedOnReview => Category::RejectedOnReview,
        ErrorCategory::Other => Category::Other,
    };
    proto::ProviderError {
        code: error.code.clone(),
        message: error.message.clone(),
        http_status: i32::from(error.http_status),
        category: category.into(),
    }
}

fn item(item: &ItemResult) -> proto::ItemResult {
    use proto::item_result::State;
    let state = match item.state {
        ItemState::Submitted => State::Submitted,
        ItemState::Succeeded => State::Succeeded,
        ItemState::Failed => State::Failed,
        ItemState::InDoubt => State::InDoubt,
    };
    proto::ItemResult {
        item_id: item.item_id.clone(),
        state: state.into(),
        refunded_amount: item.refunded_amount.map(money),
        message: item.message.clone(),
        requested: item.requested,
    }
}

fn money(money: Money) -> proto::Money {
    proto::Money { currency_code: money.currency.to_string(), minor_units: money.minor_units }
}

fn retry_contract(contract: &RetryContract) -> proto::RetryContract {
    use proto::retry_contract::{Deduplication as ProtoDeduplication, Lookup};
    let (deduplication, key_lifetime) = match contract.deduplication {
        Deduplication::None => (ProtoDeduplication::None, None),
        Deduplication::Replay { key_lifetime } => (ProtoDeduplication::Replay, Some(key_lifetime)),
        Deduplication::Reject => (ProtoDeduplication::Reject, None),
    };
    let lookup = match contract.lookup {
        LookupKind::TargetState => Lookup::TargetState,
        LookupKind::Refund => Lookup::Refund,
    };
    proto::RetryContract {
        deduplication: deduplication.into(),
        key_lifetime: key_lifetime.and_then(|lifetime| lifetime.try_into().ok()),
        lookup: lookup.into(),
        settle_time: contract.settle_time.try_into().ok(),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn invalid_fields(read: impl FnOnce(&mut Violations)) -> Vec<String> {
        let mut violations = Violations::default();
        read(&mut violations);
        violations.0.into_iter().map(|one| one.field).collect()
    }

    #[rstest]
    #[case(0, 0, Some(0))]
    #[case(0, 1, Some(1))]
    #[case(0, 1_000, Some(1))]
    #[case(0, 1_001, Some(2))]
    #[case(0, 999_999_999, Some(1_000_000))]
    #[case(-1, 999_999_001, Some(0))]
    #[case(-1, 1, Some(-999_999))]
    #[case(0, -1, None)]
    #[case(0, 1_000_000_000, None)]
    #[case(i64::MAX, 0, None)]
    #[case(i64::MIN, 0, None)]
    #[case(i64::MAX / 1_000_000, 999_999_999, None)]
    fn a_bound_is_rounded_up_to_microseconds(#[case] seconds: i64, #[case] nanos: i32, #[case] expected: Option<i64>) {
        let mut violations = Violations::default();
        let read = instant("x", Some(prost_types::Timestamp { seconds, nanos }), &mut violations);
        assert_eq!(read, expected.map(Timestamp::from_micros));
        assert_eq!(violations.0.is_empty(), expected.is_some());
    }

    proptest! {
        /// The result equals a comparison in nanoseconds.
        #[test]
        fn rounding_moves_no_time_across_a_bound(micros in -5_000_000..5_000_000_i64, by in -3_000..3_000_i64) {
            let bound = micros * 1_000 + by;
            let nanos = i32::try_from(bound.rem_euclid(1_000_000_000)).unwrap();
            let given = prost_types::Timestamp { seconds: bound.div_euclid(1_000_000_000), nanos };
            let query = filter(
                Some(proto::RefundFilter {
                    create_time_start: Some(given),
                    create_time_end: Some(given),
                    ..Default::default()
                }),
                &mut Violations::default(),
            );
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(time >= query.created_from.unwrap(), micros * 1_000 >= bound);
            prop_assert_eq!(time < query.created_before.unwrap(), micros * 1_000 < bound);
        }
    }

    #[rstest]
    #[case("team", "payments é 退", &[])]
    #[case("team", "a\nb", &["labels[\"team\"]"])]
    #[case("team", "a\tb", &["labels[\"team\"]"])]
    #[case("team", "a\u{200b}b", &["labels[\"team\"]"])]
    #[case("te\u{ad}am", "a", &["labels[\"te\\u{ad}am\"]"])]
    #[case("te\u{7}am", "\u{7f}", &["labels[\"te\\u{7}am\"]", "labels[\"te\\u{7}am\"]"])]
    fn a_label_with_invisible_characters_is_invalid(#[case] key: &str, #[case] value: &str, #[case] wrong: &[&str]) {
        let given = HashMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(invalid_fields(|violations| drop(labels(given, violations))), wrong);
    }

    #[rstest]
    #[case("DS000001", &[])]
    #[case("DS\u{feff}000001", &["filter.target_reference"])]
    fn a_reference_with_invisible_characters_is_invalid(#[case] reference: &str, #[case] wrong: &[&str]) {
        let given = proto::RefundFilter { target_reference: reference.to_owned(), ..Default::default() };
        assert_eq!(invalid_fields(|violations| drop(filter(Some(given), violations))), wrong);
    }
}
