//! The history of a refund: one numbered and chained record per event, with a sentence for people.

use crate::domain::authority::Actor;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Decided, Event, EventKind, Observation, Resolution};
use crate::domain::ids::{ProviderKind, RefundId};
use crate::domain::refund::Refund;
use crate::domain::state::State;

/// One record of the ledger's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Counts the records of the whole ledger, without gaps, from 1.
    pub sequence: u64,
    pub refund: RefundId,
    /// The refund's revision after the event.
    pub revision: u64,
    pub time: Timestamp,
    /// The state before the event; None for the creation.
    pub from: Option<State>,
    /// The state after the event.
    pub to: State,
    pub kind: EventKind,
    /// The number of the attempt that the event is about, from 1; 0 if it is about none.
    pub attempt: u32,
    pub actor: Actor,
    /// One sentence for a person.
    pub note: String,
    /// SHA-256 over this record and the hash of the one before it.
    pub chain_hash: [u8; 32],
}

/// The note of every event of this kind about this attempt at this provider. None: the notes of the
/// kind differ.
pub(crate) fn usual_note(kind: EventKind, attempt: u32, provider: ProviderKind) -> Option<String> {
    match kind {
        EventKind::Created => Some("Recorded.".to_owned()),
        EventKind::Dispatched => Some(dispatched_note(attempt, provider)),
        _ => None,
    }
}

/// Whether [`usual_note`] is the note of this kind.
pub(crate) fn has_usual_note(kind: EventKind) -> bool {
    matches!(kind, EventKind::Created | EventKind::Dispatched)
}

fn dispatched_note(attempt: u32, provider: ProviderKind) -> String {
    format!("Attempt {attempt} may leave for {provider} from now on.")
}

/// In the note of an [`Event::Doubted`] whose attempt was not processed.
const NOT_PROCESSED: &str = " was not processed; an earlier attempt is still in doubt: ";

/// Whether this note of an [`Event::Doubted`] says that its attempt was not processed. The number
/// before these words is its only other text, so evidence cannot say so.
pub(crate) fn says_not_processed(note: &str) -> bool {
    note.strip_prefix("Attempt ")
        .is_some_and(|rest| rest.trim_start_matches(|one: char| one.is_ascii_digit()).starts_with(NOT_PROCESSED))
}

impl Event {
    /// The number of the attempt that the event begins or ends; 0 if there is none.
    pub fn attempt(&self, before: &Refund, after: &Refund) -> u32 {
        let concerns_one = before.state == State::Dispatching || after.state == State::Dispatching;
        if concerns_one { after.attempt_count } else { 0 }
    }

    /// One sentence for a person. `after` is the refund after the event.
    pub fn note(&self, after: &Refund) -> String {
        match self {
            Event::Dispatched { .. } => dispatched_note(after.attempt_count, after.provider()),
            // No answer was read: no byte of the attempt left.
            Event::NotSent { error, .. } if error.http_status == 0 => {
                format!("Attempt {} was not sent: {}. It is sent again.", after.attempt_count, error.to_text())
            }
            Event::NotSent { error, .. } => {
                format!("Attempt {} was not processed: {}. It is sent again.", after.attempt_count, error.to_text())
            }
            Event::Refunded(confirmation) => {
                let remarks = remarks(&confirmation.remarks);
                match confirmation.amount {
                    Some(amount) => format!("{} refunded {amount}{remarks}.", after.provider()),
                    None => format!("{} refunded the money{remarks}.", after.provider()),
                }
            }
            Event::Accepted(acceptance) => {
                let status = acceptance.status.as_deref().unwrap_or("accepted");
                let note = status_note(acceptance.status_note.as_deref());
                let remarks = remarks(&acceptance.remarks);
                format!("{} accepted the refund and has not finished it: {status}{note}{remarks}.", after.provider())
            }
            Event::Refused { error, .. } => format!("{} refused: {}.", after.provider(), error.to_text()),
            Event::Doubted { evidence, not_processed: true, .. } => {
                format!("Attempt {}{NOT_PROCESSED}{evidence}.", after.attempt_count)
            }
            Event::Doubted { evidence, .. } => {
                format!("It is not known what became of attempt {}: {evidence}.", after.attempt_count)
            }
            Event::Interrupted => {
                format!(
                    "The gateway stopped while attempt {} was on its way; its outcome is not known.",
                    after.attempt_count
                )
            }
            Event::Checked(Observation { evidence, status_note: note, .. }) => {
                let note = status_note(note.as_deref());
                format!("A lookup at {} was inconclusive: {evidence}{note}.", after.provider())
            }
            Event::Escalated { evidence, .. } => format!("A person must resolve this refund: {evidence}."),
            Event::Cancelled => "Cancelled before the provider had processed anything.".to_owned(),
            Event::Expired if after.approval.as_ref().is_some_and(|approval| !approval.is_complete()) => {
                "It was not approved in time. It was never processed and is not sent any more.".to_owned()
            }
            Event::Expired => {
                "It stayed PENDING longer than its account allows. It was never processed and is not sent any more."
                    .to_owned()
            }
            Event::Approved { by, comment, .. } => {
                let (count, needed) = after.approval.as_ref().map_or((0, 0), |one| (one.approval_count(), one.needed));
                format!("{} approved it, {count} of {needed}{}.", by.caller, remark(comment))
            }
            Event::Rejected { by, comment } => format!("{} rejected it{}.", by.caller, remark(comment)),
            Event::Resolved(Decided { resolution, evidence, .. }) => match resolution {
                Resolution::Refunded { items, .. } if items.iter().any(|item| !item.refunded) => {
                    let given: Vec<&str> =
                        items.iter().filter(|item| item.refunded).map(|item| item.item_id.as_str()).collect();
                    let given = given.join(", ");
                    format!("An operator found that only the items {given} were refunded: {evidence}.")
                }
                Resolution::Refunded { .. } => format!("An operator found that the money was refunded: {evidence}."),
                Resolution::NotRefunded => format!("An operator found that no money was refunded: {evidence}."),
                Resolution::SendAgain => format!(
                    "An operator found that no money was refunded and had it sent again as attempt {}: {evidence}.",
                    after.attempt_count
                ),
            },
            Event::Reassigned { account, place, evidence } => {
                format!("Reassigned to account {account} ({}): {evidence}.", place.endpoint)
            }
            Event::Corrected { confirmation, .. } => {
                let status = confirmation.status.as_deref().unwrap_or("refunded");
                let amount = confirmation.amount.map(|amount| format!(" {amount}")).unwrap_or_default();
                format!(
                    "{} now reports that it refunded{amount} after all: {status}{}.",
                    after.provider(),
                    status_note(confirmation.status_note.as_deref())
                )
            }
        }
    }
}

fn remark(comment: &str) -> String {
    let comment = comment.trim_end_matches('.');
    if comment.is_empty() { String::new() } else { format!(": {comment}") }
}

fn status_note(note: Option<&str>) -> String {
    note.map(|note| format!(" ({})", note.trim_end_matches('.'))).unwrap_or_default()
}

fn remarks(remarks: &[String]) -> String {
    let remarks: Vec<&str> = remarks.iter().map(|remark| remark.trim_end_matches('.')).collect();
    if remarks.is_empty() { String::new() } else { format!("; remarks: {}", remarks.join("; ")) }
}
