//! Files of the configuration that others may write: who can replace them, can refund.
//!
//! Symbolic links are followed first. A folder with the sticky bit counts as one that others cannot
//! write: only its owner can replace a file in it. Writing by a group counts only where the
//! process is not in that group.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, getgroups};

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Says who else may write a file or its folder. None if no one may, or neither is there.
pub(super) fn foreign_writer_of(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok();
    let folders = [Some(path), real.as_deref()].into_iter().flatten().map(|path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    });
    let file = real.as_deref().and_then(|real| Some(("file", writer_of(real)?)));
    let found = file.or_else(|| folders.into_iter().find_map(|folder| Some(("folder", writer_of(&folder)?))));
    found.map(|(what, who)| format!("its {what} may be written by {who}, who could then refund"))
}

fn writer_of(path: &Path) -> Option<&'static str> {
    let metadata = fs::metadata(path).ok()?;
    let (mode, group) = (metadata.mode(), metadata.gid());
    if metadata.is_dir() && mode & STICKY != 0 {
        return None;
    }
    let is_own_group = || {
        let groups = getgroups().unwrap_or_default();
        groups.iter().chain([&getegid()]).any(|own| own.as_raw() == group)
    };
    if mode & OTHERS_WRITE != 0 {
        Some("every user of this machine")
    } else if mode & GROUP_WRITE != 0 && !is_own_group() {
        Some("a group that is not the gateway's own")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rstest::rstest;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The file's group is this process's own.
    #[rstest]
    #[case::private(0o600, 0o700, None)]
    #[case::readable(0o644, 0o755, None)]
    #[case::own_group(0o660, 0o770, None)]
    #[case::file(0o646, 0o755, Some("file"))]
    #[case::folder(0o600, 0o777, Some("folder"))]
    #[case::sticky_folder(0o600, 0o1777, None)]
    #[case::file_in_a_sticky_folder(0o666, 0o1777, Some("file"))]
    fn what_others_may_write_is_found(#[case] file: u32, #[case] folder: u32, #[case] expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("ledger.db"), dir.path().join("link"));
        fs::write(&path, "").unwrap();
        set_mode(&path, file);
        set_mode(dir.path(), folder);
        let linked = tempfile::tempdir().unwrap();
        symlink(&path, linked.path().join("link")).unwrap();
        for path in [path, linked.path().join("link")] {
            let found = foreign_writer_of(&path);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(expected.is_none_or(|what| found.unwrap().starts_with(&format!("its {what}"))), "{path:?}");
        }
        assert_eq!(foreign_writer_of(&link).is_some(), folder == 0o777, "a file to come");
    }

    #[test]
    fn a_foreign_group_counts_where_the_process_may_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "").unwrap();
        set_mode(&path, 0o660);
        // Only root may give a file away.
        if std::os::unix::fs::chown(&path, None, Some(54_321)).is_ok() {
            set_mode(&path, 0o660);
            assert!(foreign_writer_of(&path).unwrap().contains("a group"));
        }
    }
}
