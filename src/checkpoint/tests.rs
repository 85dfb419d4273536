//! Keys, notes and their file.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use tempfile::TempDir;

use super::file::CheckpointFile;
use super::*;
use crate::domain::clock::Timestamp;

const ORIGIN: &str = "recoup/ledger/0123456789abcdef0123456789abcdef";

struct Bench {
    directory: TempDir,
    keys: KeyFile,
    file: CheckpointFile,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = KeyFile::create(&directory.path().join("key")).unwrap();
        let file = CheckpointFile::new(&directory.path().join("checkpoints"));
        Self { directory, keys, file }
    }

    fn signed(&self, sequence: u64) -> SignedCheckpoint {
        self.signed_for(ORIGIN, sequence)
    }

    fn signed_for(&self, origin: &str, sequence: u64) -> SignedCheckpoint {
        let (origin, time) = (origin.to_owned(), Timestamp::from_micros(1_764_568_800_123_456));
        let checkpoint = Checkpoint { origin, sequence, chain_hash: [7; 32], time };
        SignedCheckpoint::sign(checkpoint, self.keys.signing())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("checkpoints")
    }

    fn newest_sequence(&self) -> Option<u64> {
        self.file.newest().unwrap().map(|signed| signed.checkpoint.sequence)
    }
}

/// The example in the documentation of golang.org/x/mod/sumdb/note.
#[test]
fn a_signature_of_another_implementation_is_verified() {
    let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let key = VerifierKey::parse(text).unwrap();
    assert_eq!((key.name(), key.to_string().as_str()), ("PeterNeumann", text));
    let words = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
    let bytes = STANDARD.decode(signature).unwrap();
    assert_eq!(bytes[..4], key.id());
    assert!(key.verifies(words, &bytes[4..]));
    assert!(!key.verifies(&words.replace("know", "now"), &bytes[4..]));
}

#[rstest]
#[case::no_key("")]
#[case::no_hash("name+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")]
#[case::another_name("Peter+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")]
#[case::another_type("PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")]
#[case::no_base64("PeterNeumann+c74f20a3+!")]
fn what_is_no_verifier_key_is_refused(#[case] text: &str) {
    assert_eq!(VerifierKey::parse(text), Err(InvalidKey));
}

#[test]
fn a_note_has_the_form_of_the_specification() {
    let bench = Bench::new();
    let signed = bench.signed(42);
    let lines: Vec<&str> = signed.note.split('\n').collect();
    let [origin, sequence, hash, time, empty, signature, end] = lines.as_slice() else { panic!("{}", signed.note) };
    assert_eq!((*origin, *sequence, *time), (ORIGIN, "42", "2025-12-01T06:00:00.123456Z"));
    assert_eq!((STANDARD.decode(hash).unwrap(), *empty, *end), (vec![7; 32], "", ""));
    assert!(signature.starts_with(&format!("\u{2014} {ORIGIN} ")), "{signature}");
    assert_eq!(SignedCheckpoint::parse(&signed.note).unwrap(), signed);

    assert!(signed.is_signed_by(&bench.keys.verifier(ORIGIN)));
    assert!(!signed.is_signed_by(&bench.keys.verifier("recoup/ledger/other")));
    assert!(!signed.is_signed_by(&Bench::new().keys.verifier(ORIGIN)));
    let changed = SignedCheckpoint::parse(&signed.note.replace("\n42\n", "\n41\n")).unwrap();
    assert!(!changed.is_signed_by(&bench.keys.verifier(ORIGIN)));
    // A second signature, of a key that is not known, does not matter.
    let witnessed = format!("{}\u{2014} witness AAAAAAAA\n", signed.note);
    assert!(SignedCheckpoint::parse(&witnessed).unwrap().is_signed_by(&bench.keys.verifier(ORIGIN)));
    assert!(SignedCheckpoint::parse(&signed.note.replace("\n42\n", "\n042\n")).is_none());
}

#[test]
fn a_key_is_private_and_is_never_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let path = bench.directory.path().join("key");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let line = std::fs::read_to_string(&path).unwrap();
    assert!(KeyFile::create(&path).unwrap_err().to_string().starts_with("cannot create the key file"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
    let secret = line.trim().rsplit(':').next().unwrap();
    assert!(!format!("{:?}", bench.keys).contains(secret));

    // A new key on top signs, and notes of the former one are accepted.
    let newer = Bench::new();
    let newer_line = std::fs::read_to_string(newer.directory.path().join("key")).unwrap();
    std::fs::write(&path, format!("{newer_line}\n{line}")).unwrap();
    let both = KeyFile::read(&path).unwrap();
    assert_eq!(both.verifier(ORIGIN), newer.keys.verifier(ORIGIN));
    assert_eq!(both.verifiers(ORIGIN), [newer.keys.verifier(ORIGIN), bench.keys.verifier(ORIGIN)]);

    std::fs::write(&path, format!("{newer_line}{secret}\n")).unwrap();
    let error = KeyFile::read(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("line 2: is no private key of `recoup audit keygen`") && !error.contains(secret),
        "{error}"
    );
    std::fs::write(&path, "\n").unwrap();
    assert!(matches!(KeyFile::read(&path), Err(KeyFileError::Empty { .. })));
}

/// What a crash leaves at any byte of an append, as an empty or as a zero-filled rest.
#[test]
fn the_newest_whole_note_counts_wherever_a_crash_cuts_the_next_one() {
    let bench = Bench::new();
    let (first, second) = (bench.signed(1), bench.signed(2));
    bench.file.append(&first, false).unwrap();
    bench.file.append(&second, false).unwrap();
    let whole = std::fs::read(bench.path()).unwrap();
    assert_eq!(String::from_utf8(whole.clone()).unwrap(), format!("{}\n{}", first.note, second.note));
    for cut in first.note.len()..whole.len() {
        for zeros in [0, 1, 300] {
            let mut torn = whole[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            std::fs::write(bench.path(), &torn).unwrap();
            assert_eq!(bench.newest_sequence(), Some(1), "cut at {cut}, {zeros} zeros");
        }
        bench.file.append(&second, false).unwrap();
        assert_eq!(std::fs::read(bench.path()).unwrap(), whole, "cut at {cut}");
    }
    // The first note of all.
    for cut in 0..first.note.len() {
        std::fs::write(bench.path(), &whole[..cut]).unwrap();
        assert_eq!(bench.newest_sequence(), None, "cut at {cut}");
    }
    bench.file.append(&first, false).unwrap();
    assert_eq!(std::fs::read_to_string(bench.path()).unwrap(), first.note);
}

#[rstest]
#[case::a_configuration("listen = \"127.0.0.1:0\"\n")]
#[case::another_programs_zeros_and_text("\0\0\0text")]
#[case::a_private_key("recoup-checkpoint-private-key:AAAA\n")]
fn another_file_is_never_overwritten(#[case] content: &str) {
    let bench = Bench::new();
    std::fs::write(bench.path(), content).unwrap();
    for error in [bench.file.newest().unwrap_err(), bench.file.append(&bench.signed(1), true).unwrap_err()] {
        assert!(matches!(error, CheckpointFileError::NotCheckpoints { .. }), "{error}");
    }
    assert_eq!(std::fs::read_to_string(bench.path()).unwrap(), content);
}

#[test]
fn two_ledgers_do_not_share_a_file() {
    let bench = Bench::new();
    let other = "recoup/ledger/ffffffffffffffffffffffffffffffff";
    bench.file.append(&bench.signed_for(other, 9), false).unwrap();
    let refused = bench.file.append(&bench.signed(1), false).unwrap_err();
    assert!(matches!(refused, CheckpointFileError::Foreign { .. }), "{refused}");
    bench.file.append(&bench.signed(1), true).unwrap();
    assert_eq!(bench.newest_sequence(), Some(1));
}

#[test]
fn a_large_file_is_kept_once_and_a_new_one_begins() {
    let bench = Bench::new();
    let kept = bench.directory.path().join("checkpoints.1");
    for round in 1..=2 {
        let block = format!("{}\n", bench.signed(round).note);
        let large = block.repeat(17 * 1024 * 1024 / block.len());
        std::fs::write(bench.path(), large.trim_end_matches('\n').to_owned() + "\n").unwrap();
        let length = bench.path().metadata().unwrap().len();
        let next = bench.signed(100 + round);
        bench.file.append(&next, false).unwrap();
        assert_eq!(std::fs::read_to_string(bench.path()).unwrap(), next.note);
        assert_eq!(kept.metadata().unwrap().len(), length);
        assert_eq!(CheckpointFile::new(&kept).newest().unwrap().unwrap().checkpoint.sequence, round);
    }
}
