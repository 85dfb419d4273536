//! The file that notes are appended to: one after the other, with an empty line between two.
//!
//! Only the newest whole note matters at a start. A crash while a note is appended leaves a part of
//! one at the end (or zeros, where the file system had its length on disk and not its content): it
//! does not count, and the next note takes its place. A note takes some 300 bytes, so the file
//! grows by at most 13 MB a month at one a minute. Beyond [`MAX_FILE_BYTES`] it is kept as
//! `FILE.1`, which replaces an older one, and a new file begins with the newest note: at no moment
//! is there no file.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::note::{SIGNATURE_PREFIX, SignedCheckpoint, TEXT_LINES};
use crate::ledger::ORIGIN_PREFIX;

/// A file of notes.
#[derive(Debug, Clone)]
pub(super) struct CheckpointFile {
    path: PathBuf,
}

/// Why the file cannot be used. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFileError {
    #[error("cannot {doing} checkpoint.file {}: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },
    /// It is never overwritten then: the setting may name a wrong file.
    #[error("checkpoint.file {} is no file of checkpoints, or is damaged: its end is neither a note nor the beginning of one", path.display())]
    NotCheckpoints { path: PathBuf },
    #[error("another gateway writes to checkpoint.file {} too: its newest checkpoint is of the ledger {origin}", path.display())]
    Foreign { path: PathBuf, origin: String },
}

/// What is read of the file's end: some two hundred notes.
const MAX_END_BYTES: u64 = 64 * 1024;
/// The largest rest of a note that a crash leaves, or the zeros of one page.
const MAX_TORN_BYTES: usize = 4 * 1024;
/// Beyond it a new file begins: some 50,000 notes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

impl CheckpointFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest whole note. None: the file is missing, or has none.
    pub(super) fn newest(&self) -> Result<Option<SignedCheckpoint>, CheckpointFileError> {
        match File::open(&self.path) {
            Ok(mut file) => Ok(self.end_of(&mut file)?.0),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("open")(error)),
        }
    }

    /// Appends a note and syncs it. What a crash left behind the newest note is cut off.
    ///
    /// `after_any`: also behind a note of another ledger.
    pub(super) fn append(&self, signed: &SignedCheckpoint, after_any: bool) -> Result<(), CheckpointFileError> {
        let mut file = private_file().create(true).truncate(false).open(&self.path).map_err(self.io("open"))?;
        let (newest, end) = self.end_of(&mut file)?;
        let is_foreign = |newest: &SignedCheckpoint| newest.checkpoint.origin != signed.checkpoint.origin;
        if let Some(newest) = newest.filter(|newest| !after_any && is_foreign(newest)) {
            let origin = newest.checkpoint.origin;
            return Err(CheckpointFileError::Foreign { path: self.path.clone(), origin });
        }
        if end >= MAX_FILE_BYTES {
            return self.begin_new_file(signed).map_err(self.io("replace"));
        }
        let separator = if end > 0 { "\n" } else { "" };
        self.write_at(&mut file, end, &format!("{separator}{}", signed.note)).map_err(self.io("write"))
    }

    fn write_at(&self, file: &mut File, end: u64, text: &str) -> std::io::Result<()> {
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A file that was just created must be found again after a loss of power.
        self.sync_directory()
    }

    /// Keeps the file as `FILE.1`, and puts one that begins with this note in its place.
    fn begin_new_file(&self, signed: &SignedCheckpoint) -> std::io::Result<()> {
        let (new, kept) = (self.sibling(".new"), self.sibling(".1"));
        let mut file = private_file().create(true).truncate(true).open(&new)?;
        file.write_all(signed.note.as_bytes())?;
        file.sync_all()?;
        match std::fs::remove_file(&kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::hard_link(&self.path, &kept)?;
        std::fs::rename(&new, &self.path)?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all())
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(suffix);
        PathBuf::from(name)
    }

    /// The newest whole note, and where it ends.
    fn end_of(&self, file: &mut File) -> Result<(Option<SignedCheckpoint>, u64), CheckpointFileError> {
        let mut end = Vec::new();
        let mut read = || {
            let begin = file.metadata()?.len().saturating_sub(MAX_END_BYTES);
            file.seek(SeekFrom::Start(begin))?;
            file.take(MAX_END_BYTES).read_to_end(&mut end)?;
            Ok(begin)
        };
        let begin = read().map_err(self.io("read"))?;
        let damaged = || CheckpointFileError::NotCheckpoints { path: self.path.clone() };
        let newest = notes_in(&end).pop();
        let (note_end, note) = match newest {
            Some((note_end, note)) => (note_end, Some(SignedCheckpoint::parse(note).ok_or_else(damaged)?)),
            None if begin > 0 => return Err(damaged()),
            None => (0, None),
        };
        if !is_torn_note(end.get(note_end..).unwrap_or_default()) {
            return Err(damaged());
        }
        Ok((note, begin.saturating_add(u64::try_from(note_end).unwrap_or(u64::MAX))))
    }

    fn io(&self, doing: &'static str) -> impl Fn(std::io::Error) -> CheckpointFileError + '_ {
        move |source| CheckpointFileError::Io { path: self.path.clone(), doing, source }
    }
}

/// Every whole note, and where it ends. What is no note is passed over.
pub(super) fn notes_in(bytes: &[u8]) -> Vec<(usize, &str)> {
    let mut notes = Vec::new();
    // Where each line begins, up to the present one.
    let mut begins = Vec::new();
    let (mut at, mut is_signature) = (0_usize, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line_end = at.saturating_add(line.len());
        let was_signature = std::mem::replace(&mut is_signature, is_signature_line(line));
        if is_signature {
            if was_signature {
                // Another signature of the same note.
                notes.pop();
                begins.pop();
            }
            let first = begins.len().checked_sub(TEXT_LINES + 1).and_then(|first| begins.get(first));
            let note = first.and_then(|first| bytes.get(*first..line_end)).and_then(|note| str::from_utf8(note).ok());
            if let Some(note) = note {
                notes.push((line_end, note));
            }
        }
        begins.push(at);
        at = line_end;
    }
    notes
}

fn is_signature_line(line: &[u8]) -> bool {
    line.starts_with(SIGNATURE_PREFIX.as_bytes()) && line.ends_with(b"\n")
}

/// Whether these bytes are what a crash leaves of a note that was being appended: nothing, a
/// beginning of one, or zeros.
fn is_torn_note(rest: &[u8]) -> bool {
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    let written = rest.get(..rest.len() - zeros).unwrap_or_default();
    let compared = written.len().min(ORIGIN_PREFIX.len());
    rest.len() <= MAX_TORN_BYTES && written.get(..compared) == ORIGIN_PREFIX.as_bytes().get(..compared)
}

/// Notes are no secret, but another user's reading them is not needed either.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
