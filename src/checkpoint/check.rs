//! Checks an exported history offline: each event against the one before it, and against the
//! checkpoints. Needs the verifier key alone: no ledger, no gateway, no secret.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::file::notes_in;
use super::key::VerifierKey;
use super::note::{Checkpoint, SignedCheckpoint};
use crate::ledger::export::ExportedEvent;

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryCheck {
    pub events: u64,
    /// The first and the last event. 0: there is none.
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub last_chain_hash: [u8; 32],
    /// Checkpoints that cover an exported event, or the one before the first, and fit.
    pub fitting_checkpoints: u64,
    /// Right checkpoints of events before the exported ones.
    pub earlier_checkpoints: u64,
    /// At most [`MAX_PROBLEMS`], one sentence each.
    pub problems: Vec<String>,
    pub problem_count: u64,
}

/// Why nothing was checked. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is too large: at most {MAX_FILE_BYTES} bytes of checkpoints are read", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} has no checkpoint", path.display())]
    NoCheckpoint { path: PathBuf },
}

/// Problems that are listed; further ones are counted.
const MAX_PROBLEMS: usize = 1_000;
/// Twice what a gateway lets its file grow to.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Far above the longest event.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// Checks `events`, the output of `recoup audit export`, and the notes of a file of checkpoints.
///
/// # Errors
/// [`CheckError`] if a file cannot be read. What does not fit is a problem.
pub fn check(
    events_path: &Path,
    events: &mut impl BufRead,
    checkpoints: Option<(&Path, &VerifierKey)>,
) -> Result<HistoryCheck, CheckError> {
    let mut found = HistoryCheck::default();
    let mut by_sequence: BTreeMap<u64, Vec<Checkpoint>> = BTreeMap::new();
    if let Some((path, key)) = checkpoints {
        for checkpoint in read_checkpoints(path, key, &mut found)? {
            by_sequence.entry(checkpoint.sequence).or_default().push(checkpoint);
        }
    }
    let io = |source| CheckError::Io { path: events_path.to_owned(), source };
    let mut before: Option<ExportedEvent> = None;
    let mut number = 0_u64;
    loop {
        let mut line = String::new();
        let read = events.by_ref().take(MAX_LINE_BYTES).read_line(&mut line).map_err(io)?;
        if read == 0 {
            break;
        }
        number = number.saturating_add(1);
        let event = match ExportedEvent::parse(&line) {
            Ok(event) => event,
            Err(problem) => {
                found.add(format!("line {number}: {problem}"));
                before = None;
                continue;
            }
        };
        found.add_event(before.as_ref(), &event);
        if found.events == 1 {
            let begin = (event.sequence().saturating_sub(1), *event.previous());
            found.compare(begin, &mut by_sequence);
        }
        found.compare((event.sequence(), *event.chain_hash()), &mut by_sequence);
        before = Some(event);
    }
    for checkpoint in by_sequence.into_values().flatten() {
        if checkpoint.sequence < found.first_sequence {
            found.earlier_checkpoints = found.earlier_checkpoints.saturating_add(1);
        } else {
            let (sequence, time, last) = (checkpoint.sequence, checkpoint.time_text(), found.last_sequence);
            found.add(format!(
                "event {sequence}: the checkpoint of {time} covers it, but the exported history ends at {last}"
            ));
        }
    }
    Ok(found)
}

fn read_checkpoints(path: &Path, key: &VerifierKey, found: &mut HistoryCheck) -> Result<Vec<Checkpoint>, CheckError> {
    let io = |source| CheckError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(CheckError::TooLarge { path: path.to_owned() });
    }
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let notes = notes_in(&bytes);
    if notes.is_empty() {
        return Err(CheckError::NoCheckpoint { path: path.to_owned() });
    }
    for ((_, note), number) in notes.into_iter().zip(1_u64..) {
        let Some(signed) = SignedCheckpoint::parse(note) else {
            found.add(format!("checkpoint {number}: is no checkpoint"));
            continue;
        };
        let checkpoint = &signed.checkpoint;
        let (sequence, time) = (checkpoint.sequence, checkpoint.time_text());
        if checkpoint.origin != key.name() {
            found.add(format!(
                "checkpoint {number}, of {time}: is of the ledger {}, and not of {}",
                checkpoint.origin,
                key.name()
            ));
        } else if !signed.is_signed_by(key) {
            found.add(format!("checkpoint {number}, of {time}: has no right signature of this key"));
        } else {
            if let Some(earlier) = checkpoints.last().filter(|earlier| earlier.sequence > sequence) {
                found.add(format!(
                    "checkpoint {number}, of {time}: covers event {sequence}, and the one before it, of {}, event {}: \
                     the ledger was put back",
                    earlier.time_text(),
                    earlier.sequence
                ));
            }
            checkpoints.push(signed.checkpoint);
        }
    }
    Ok(checkpoints)
}

impl HistoryCheck {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, problem: String) {
        self.problem_count = self.problem_count.saturating_add(1);
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Each event is compared with the one before it as it is exported, so one edited event is one
    /// problem and not one for every event after it.
    fn add_event(&mut self, before: Option<&ExportedEvent>, event: &ExportedEvent) {
        let sequence = event.sequence();
        if event.computed_hash() != *event.chain_hash() {
            self.add(format!("event {sequence}: its chain_hash does not follow from its fields"));
        }
        match before {
            None if sequence == 1 && *event.previous() != [0; 32] => {
                self.add("event 1: its previous hash is not that of an empty history".to_owned());
            }
            None => {}
            Some(before) => {
                if sequence != before.sequence().saturating_add(1) {
                    self.add(format!("event {sequence}: follows {}: events are missing", before.sequence()));
                } else if event.previous() != before.chain_hash() {
                    self.add(format!("event {sequence}: its previous hash is not the chain_hash of the one before it"));
                }
            }
        }
        if self.events == 0 {
            self.first_sequence = sequence;
        }
        self.events = self.events.saturating_add(1);
        (self.last_sequence, self.last_chain_hash) = (sequence, *event.chain_hash());
    }

    fn compare(&mut self, (sequence, hash): (u64, [u8; 32]), by_sequence: &mut BTreeMap<u64, Vec<Checkpoint>>) {
        for checkpoint in by_sequence.remove(&sequence).unwrap_or_default() {
            if checkpoint.chain_hash == hash {
                self.fitting_checkpoints = self.fitting_checkpoints.saturating_add(1);
            } else {
                self.add(format!(
                    "event {sequence}: its hash is {}, and that of the checkpoint of {} is {}: the history was rewritten",
                    STANDARD.encode(hash),
                    checkpoint.time_text(),
                    STANDARD.encode(checkpoint.chain_hash)
                ));
            }
        }
    }
}
