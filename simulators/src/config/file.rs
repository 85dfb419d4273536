//! The configuration file, TOML. An invalid file is refused with one sentence that says where and
//! why.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::Config;

/// The maximum size of a file, so that a wrong file is refused before it is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a configuration file is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is invalid.
    #[error("the configuration {}{}: {reason}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, if known.
        line: Option<usize>,
        /// What is wrong, in one line.
        reason: String,
    },
}

impl Config {
    /// Reads a TOML file. Paths in it are relative to the working directory, as on the command
    /// line.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or contains an unknown key or an invalid value.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let wrong = |line, reason| ConfigError::Wrong { path: path.to_owned(), line, reason };
        let unread = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(unread)?.len();
        if size > MAX_FILE_BYTES {
            return Err(wrong(None, format!("{size} bytes are too many for a configuration")));
        }
        let text = fs::read_to_string(path).map_err(unread)?;
        toml::from_str(&text).map_err(|error| {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            // The message may have several lines.
            wrong(line, error.message().split_whitespace().collect::<Vec<_>>().join(" "))
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("simulators.toml");
        fs::write(&path, text).unwrap();
        let shown = format!("{}", path.display());
        Config::read(&path).map_err(|error| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn the_readme_shows_every_key_with_its_default() {
        let readme = include_str!("../../README.md");
        let block = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let shown = Config { ca_file: Some(super::super::CA_FILE_NAME.into()), ..Config::default() };
        assert_eq!(read(block).unwrap(), shown);
        let unknown = read("none_of_them = 1").unwrap_err();
        let (_, keys) = unknown.split_once("expected one of ").unwrap();
        for key in keys.split(", ").map(|key| key.trim_matches('`')) {
            assert!(block.contains(&format!("{key} = ")) || block.contains(&format!("[{key}.")), "{key}");
        }
    }

    #[test]
    fn keys_that_are_left_out_have_their_defaults() {
        let config = read(
            "namecom = '127.0.0.1:9000'\nseed = 7\nca_file = 'ca.pem'\ntls_names = ['sim']\n[settings.sectigo]\nrefund_period_days = 14",
        );
        let mut expected = Config {
            namecom: "127.0.0.1:9000".parse().unwrap(),
            seed: 7,
            ca_file: Some("ca.pem".into()),
            tls_names: vec!["sim".to_owned()],
            ..Config::default()
        };
        expected.settings.sectigo.refund_period_days = 14;
        assert_eq!(config.unwrap(), expected);
    }

    #[rstest]
    #[case::no_toml("control", "FILE, line 1: ")]
    #[case::an_unknown_key("seed = 1\ncontrl = '127.0.0.1:1'", "FILE, line 2: unknown field `contrl`")]
    #[case::an_unknown_setting("\n[settings.sectigo]\nx = 1", "FILE, line 3: unknown field `x`")]
    #[case::no_address("control = 'here'", "FILE, line 1: invalid socket address")]
    #[case::a_negative_seed("seed = -1", "FILE, line 1: invalid value")]
    #[case::another_type("[settings.namecom]\nagp_days = 'five'", "FILE, line 2: invalid type")]
    fn an_error_is_one_line(#[case] text: &str, #[case] begins: &str) {
        let sentence = read(text).unwrap_err();
        assert!(sentence.contains(begins), "{sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }

    #[test]
    fn a_missing_and_a_huge_file_are_refused() {
        let missing = Config::read(Path::new("no/such/file.toml")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read the configuration no/such/file.toml: "), "{missing}");
        assert!(read(&"#".repeat(2_000_000)).unwrap_err().ends_with("too many for a configuration"));
    }
}
