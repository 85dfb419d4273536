//! InitiateRefund and GetRefundStatus: the checks, their order, and what is recorded.
//!
//! The order is not documented. By default (inferred): the credentials alone; then everything that
//! can be checked in the request itself, with all notes together; then the account; then a known
//! identifier; then the amount against the collected sum.

use time::OffsetDateTime;

use super::accounts::{Account, Condition, Refund, format_amount};
use super::notes::{self, Code, Note};
use super::soap::{Call, Operation, OperationOutcome, OperationReply};
use super::state::{NewRefund, State};
use super::{
    AmountOutOfRange, CheckOrder, DifferingReferences, FailedNumber, MissingRefund, OverLength, RefundAmount,
    RefundLimit, Settings, StatusWithoutIdentifier, Texts, WrongCredentials,
};
use crate::request::{Deduplication, Effect};

const MAX_INITIATOR: usize = 100;
const MAX_DESCRIPTION: usize = 4000;
const MAX_IDENTIFIER: usize = 50;
/// Decimal (10, 2).
const MAX_WHOLE_DIGITS: usize = 8;

/// Answers a call. The effect is a recorded refund.
pub(super) fn answer(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    call: &Call<'_>,
) -> (OperationReply, Option<Effect>) {
    let (members, mut notes, effect) = match call.operation {
        Operation::InitiateRefund => match initiate(state, settings, now, call) {
            Ok((refund, notes)) => {
                let fee_minor = Some(settings.service_fee_minor).filter(|fee| *fee != 0);
                (initiated(&refund), notes, Some(Effect { fee_minor, ..refund.effect("refund") }))
            }
            Err(notes) => (not_initiated(state, settings, call), notes, None),
        },
        Operation::GetRefundStatus => match status(state, settings, call) {
            Ok(Some(refund)) => (found(settings, &refund), Vec::new(), None),
            Ok(None) => match settings.missing_refund {
                MissingRefund::NoRecord => (not_found(settings, call), vec![notes::NO_RECORD.note()], None),
                MissingRefund::Empty => (not_found(settings, call), Vec::new(), None),
            },
            Err(code) => (not_found(settings, call), vec![code.note()], None),
        },
    };
    let outcome = if notes.iter().any(Note::is_about_processing) {
        OperationOutcome::Unfinished
    } else if notes.iter().any(|note| note.kind == notes::NoteType::Error) {
        OperationOutcome::Failed
    } else {
        notes.push(notes::SUCCESS.note());
        OperationOutcome::Succeeded
    };
    if settings.texts == Texts::SystemPage {
        notes.iter_mut().for_each(Note::take_system_text);
    }
    let reply =
        OperationReply { date_created: date_text(now, settings), id: state.next_guid(), notes, outcome, members };
    (reply, effect)
}

fn initiate(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    call: &Call<'_>,
) -> Result<(Refund, Vec<Note>), Vec<Note>> {
    let username = log_in(state, call).map_err(|code| {
        let others = match settings.wrong_credentials {
            WrongCredentials::Alone => Vec::new(),
            WrongCredentials::WithOthers => RefundRequest::read(settings, call).err().unwrap_or_default(),
        };
        std::iter::once(code.note()).chain(others).collect::<Vec<_>>()
    })?;
    let (account, external) = references(call);
    if settings.check_order == CheckOrder::AccountFirst && (account.is_some() || external.is_some()) {
        find_account(state, settings, account, external).map_err(|code| vec![code.note()])?;
    }
    let (wanted, mut notes) = RefundRequest::read(settings, call)?;
    let accepted = accept(state, settings, &wanted);
    match accepted {
        Ok(account) => {
            let new = NewRefund {
                account: account.account_reference_no.clone(),
                currency: account.currency.clone(),
                identifier: wanted.identifier,
                amount_minor: wanted.amount_minor,
                description: wanted.description,
                request_initiator: wanted.initiator,
                username,
                created: now,
            };
            Ok((state.record(new), notes))
        }
        Err(code) => {
            notes.insert(0, code.note());
            Err(notes)
        }
    }
}

/// Checks a valid request against the state.
fn accept<'a>(state: &'a State, settings: &Settings, wanted: &RefundRequest) -> Result<&'a Account, Code> {
    let account = find_account(state, settings, wanted.account.as_deref(), wanted.external_account.as_deref())?;
    match account.condition {
        Condition::Ready => {}
        Condition::Unavailable => return Err(notes::NOT_AVAILABLE),
        Condition::TimedOut => return Err(notes::TIMED_OUT),
        Condition::UnknownException => return Err(notes::UNKNOWN_EXCEPTION),
        Condition::NotCompleted => return Err(notes::NOT_COMPLETED),
        Condition::NotActive => return Err(notes::NOT_ACTIVE),
        Condition::Deadlock => return Err(notes::DEADLOCK),
    }
    if let Some(code) = account.refund_answer.as_deref().and_then(notes::by_code) {
        return Err(code);
    }
    let refunds = state.refunds_of(&account.account_reference_no);
    let is_unique = settings.deduplication == Deduplication::On;
    let is_known =
        is_unique && wanted.identifier.as_ref().is_some_and(|id| refunds.iter().any(|refund| refund.identifier == *id));
    let spent = match settings.refund_limit {
        RefundLimit::Collected => 0,
        RefundLimit::Remaining => refunds.iter().map(|refund| refund.counted_minor()).fold(0, i64::saturating_add),
    };
    let exceeds = wanted.amount_minor > account.collected_minor.saturating_sub(spent);
    match (is_known, exceeds, settings.check_order) {
        (false, false, _) => Ok(account),
        (true, false, _) | (true, true, CheckOrder::IdentifierFirst | CheckOrder::AccountFirst) => {
            Err(notes::IDENTIFIER_EXISTS)
        }
        (false, true, _) | (true, true, CheckOrder::AmountFirst) => Err(notes::EXCEEDS_PAID),
    }
}

/// The requested refund; none if the account has no such refund.
fn status(state: &State, settings: &Settings, call: &Call<'_>) -> Result<Option<Refund>, Code> {
    log_in(state, call)?;
    let (account, external) = references(call);
    if account.is_none() && external.is_none() {
        return Err(notes::MISSING_REFERENCE);
    }
    let account = find_account(state, settings, account, external)?;
    let number = call.member("RefundRequestNumber").or_else(|| call.member("RefundRequestNo"));
    let identifier = call.member("ExternalRefundIdentifier");
    if number.is_none() && identifier.is_none() {
        return Err(match settings.status_without_identifier {
            StatusWithoutIdentifier::NoRecord => notes::NO_RECORD,
            StatusWithoutIdentifier::MessageValidation => notes::MESSAGE_VALIDATION,
        });
    }
    let matches = |refund: &Refund| {
        number.is_none_or(|number| number.trim().parse() == Ok(refund.number))
            && identifier.is_none_or(|identifier| refund.identifier == identifier)
    };
    let refunds = state.refunds_of(&account.account_reference_no);
    Ok(refunds.iter().find(|refund| matches(refund)).map(|refund| Refund::clone(refund)))
}

fn log_in(state: &State, call: &Call<'_>) -> Result<String, Code> {
    match call.credentials() {
        (Some(username), Some(password)) if state.knows(username, password) => Ok(username.to_owned()),
        _ => Err(notes::INVALID_CREDENTIALS),
    }
}

fn references<'a>(call: &Call<'a>) -> (Option<&'a str>, Option<&'a str>) {
    let given = |name| call.member(name).filter(|text| !text.trim().is_empty());
    (given("AccountReferenceNo"), given("ExternalAccountReferenceNo"))
}

/// Both references should name the same account. The external one alone must name exactly one.
fn find_account<'a>(
    state: &'a State,
    settings: &Settings,
    account: Option<&str>,
    external: Option<&str>,
) -> Result<&'a Account, Code> {
    let is_external = |candidate: &Account| candidate.external_account_reference_no.as_deref() == external;
    match (account, external) {
        (Some(account), None) => state.account(account).ok_or(notes::NO_RECORD),
        (Some(account), Some(_)) => {
            let found = state.account(account).ok_or(notes::NO_RECORD)?;
            match settings.differing_references {
                _ if is_external(found) => Ok(found),
                DifferingReferences::AccountReference => Ok(found),
                DifferingReferences::Several if state.accounts().into_iter().any(is_external) => {
                    Err(notes::MULTIPLE_ACCOUNTS)
                }
                DifferingReferences::Several | DifferingReferences::NoRecord => Err(notes::NO_RECORD),
            }
        }
        (None, _) => {
            let mut named =
                state.accounts().into_iter().filter(|candidate| external.is_some() && is_external(candidate));
            match (named.next(), named.next()) {
                (Some(only), None) => Ok(only),
                (Some(_), Some(_)) => Err(notes::MULTIPLE_ACCOUNTS),
                (None, _) => Err(notes::NO_RECORD),
            }
        }
    }
}

/// A valid InitiateRefund request.
struct RefundRequest {
    account: Option<String>,
    external_account: Option<String>,
    amount_minor: i64,
    description: String,
    identifier: Option<String>,
    initiator: Option<String>,
}

impl RefundRequest {
    /// All errors, or the request with its warnings.
    fn read(settings: &Settings, call: &Call<'_>) -> Result<(Self, Vec<Note>), Vec<Note>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let (account, external_account) = references(call);
        if account.is_none() && external_account.is_none() {
            errors.push(notes::MISSING_REFERENCE.note());
        }
        let amount = call.member("Amount").and_then(|text| Amount::parse(text.trim()));
        let amount_minor = amount.as_ref().and_then(|amount| amount.minor);
        if amount_minor.is_none() {
            errors.push(match (&amount, settings.amount_out_of_range) {
                (Some(_), AmountOutOfRange::MessageValidation) => notes::MESSAGE_VALIDATION.note(),
                _ => notes::INVALID_AMOUNT.note(),
            });
        }
        if amount.is_some_and(|amount| amount.has_more_decimals) {
            warnings.push(notes::DECIMALS_IGNORED.note());
        }
        let description = call.member("Description").filter(|text| !text.trim().is_empty());
        if description.is_none() {
            errors.push(notes::MISSING_DESCRIPTION.note());
        }
        let identifier = call.member("ExternalRefundIdentifier");
        if identifier.is_some_and(|identifier| is_longer(identifier, MAX_IDENTIFIER)) {
            errors.push(notes::IDENTIFIER_TOO_LONG.note());
        }
        if identifier.is_some_and(|identifier| !identifier.chars().all(is_identifier_character)) {
            errors.push(notes::IDENTIFIER_CHARACTERS.note());
        }
        let initiator = call.member("RequestInitiator");
        let too_long = initiator.is_some_and(|text| is_longer(text, MAX_INITIATOR))
            || description.is_some_and(|text| is_longer(text, MAX_DESCRIPTION));
        let is_noted = errors.iter().any(|note| note.code == notes::MESSAGE_VALIDATION.note().code);
        if too_long && settings.over_length == OverLength::Refuse && !is_noted {
            errors.push(notes::MESSAGE_VALIDATION.note());
        }
        match (amount_minor, description) {
            (Some(amount_minor), Some(description)) if errors.is_empty() => {
                let wanted = Self {
                    account: account.map(str::to_owned),
                    external_account: external_account.map(str::to_owned),
                    amount_minor,
                    description: description.chars().take(MAX_DESCRIPTION).collect(),
                    identifier: identifier.map(str::to_owned),
                    initiator: initiator.map(|text| text.chars().take(MAX_INITIATOR).collect()),
                };
                Ok((wanted, warnings))
            }
            _ => {
                if settings.notes == super::Notes::First {
                    errors.truncate(1);
                }
                errors.extend(warnings);
                Err(errors)
            }
        }
    }
}

/// A text in the form of an `xs:decimal`.
struct Amount {
    /// Hundredths, without further decimals; none if out of range (0.01 to 99999999.99).
    minor: Option<i64>,
    /// Whether more than two decimals were written, even if zeros.
    has_more_decimals: bool,
}

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => (text.starts_with('-'), digits),
            None => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || whole.len() + decimals.len() == 0 {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let cents = decimals.bytes().chain(*b"00").take(2);
        let digits = whole.bytes().chain(cents).map(|digit| i64::from(digit - b'0'));
        let fits = !negative && whole.len() <= MAX_WHOLE_DIGITS;
        let minor = fits.then(|| digits.fold(0, |minor, digit| minor * 10 + digit)).filter(|minor| *minor > 0);
        Some(Self { minor, has_more_decimals: decimals.len() > 2 })
    }
}

fn is_longer(text: &str, limit: usize) -> bool {
    text.chars().nth(limit).is_some()
}

/// Documented: alphanumeric # + - ( ) * _ space , ; : . /
fn is_identifier_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "#+-()*_ ,;:./".contains(character)
}

type ReplyMembers = Vec<(&'static str, Option<String>)>;

fn initiated(refund: &Refund) -> ReplyMembers {
    vec![
        ("ExternalRefundIdentifier", Some(refund.identifier.clone())),
        ("RefundRequestNumber", Some(refund.number.to_string())),
    ]
}

/// The caller's identifier or a generated one, although nothing is recorded under it.
fn not_initiated(state: &mut State, settings: &Settings, call: &Call<'_>) -> ReplyMembers {
    let identifier = call.member("ExternalRefundIdentifier").map_or_else(|| state.next_guid(), str::to_owned);
    vec![("ExternalRefundIdentifier", Some(identifier)), ("RefundRequestNumber", failed_number(settings))]
}

fn found(settings: &Settings, refund: &Refund) -> ReplyMembers {
    let amount = match settings.refund_amount {
        RefundAmount::Decimal => format_amount(refund.amount_minor),
        RefundAmount::Integer => (refund.amount_minor / 100).to_string(),
    };
    vec![
        ("ExternalRefundIdentifier", Some(refund.identifier.clone())),
        ("Note", refund.note.clone()),
        ("RefundAmount", Some(amount)),
        ("RefundRequestNumber", Some(refund.number.to_string())),
        ("RefundStatus", Some(refund.status.word().to_owned())),
    ]
}

fn not_found(settings: &Settings, call: &Call<'_>) -> ReplyMembers {
    vec![
        ("ExternalRefundIdentifier", call.member("ExternalRefundIdentifier").map(str::to_owned)),
        ("Note", None),
        ("RefundAmount", failed_number(settings)),
        ("RefundRequestNumber", failed_number(settings)),
        ("RefundStatus", None),
    ]
}

fn failed_number(settings: &Settings) -> Option<String> {
    match settings.failed_number {
        FailedNumber::Zero => Some("0".to_owned()),
        FailedNumber::Nil => None,
    }
}

/// `xs:dateTime` as .NET writes it: seven decimals and the offset.
fn date_text(now: OffsetDateTime, settings: &Settings) -> String {
    let minutes = i32::from(settings.utc_offset_minutes);
    let offset = time::UtcOffset::from_whole_seconds(minutes * 60).unwrap_or(time::UtcOffset::UTC);
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:7][offset_hour sign:mandatory]:[offset_minute]"
    );
    let local = now.checked_to_offset(offset).unwrap_or(now);
    // Every date-time has the parts of this format, so it cannot fail.
    local.format(format).unwrap_or_default()
}
