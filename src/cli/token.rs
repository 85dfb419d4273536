//! `recoup token new`: makes a caller's token. The access file gets its hash, the caller the token.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use recoup::access::token::Token;
use recoup::access::{parse_caller_name, parse_expiry, parse_token_id};
use recoup::domain::clock::{Clock as _, SystemClock};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;

use super::{Failure, print_line};

/// The arguments of `recoup token`.
#[derive(Args)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(Subcommand)]
enum TokenAction {
    /// Make a token. Standard output gets the token, once, and standard error the line for the
    /// access file, which cannot be used to call.
    New(NewTokenArguments),
}

#[derive(Args)]
struct NewTokenArguments {
    /// The caller's name in the access file.
    #[arg(long, value_name = "NAME", value_parser = parse_caller_name)]
    caller: String,
    /// The token's id, which the history records. Default: today's date.
    #[arg(long, value_name = "ID", value_parser = parse_token_id)]
    id: Option<String>,
    /// When the token ends, such as 2027-02-01T00:00:00Z. Default: never.
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    expires: Option<String>,
}

/// Runs `recoup token`.
pub(crate) fn token(arguments: TokenArguments) -> ExitCode {
    let TokenAction::New(arguments) = arguments.action;
    let token = match Token::generate() {
        Ok(token) => token,
        Err(error) => return Failure::new(error.to_string()).report(false),
    };
    let NewTokenArguments { caller, id, expires } = arguments;
    let id = id.unwrap_or_else(today);
    let expires = expires.map(|time| format!(", expires = \"{time}\"")).unwrap_or_default();
    let line = format!("{{ id = \"{id}\", sha256 = \"{}\"{expires} }}", token.hash().hex());
    print_line(&mut std::io::stdout(), token.expose_secret());
    let explanation = format!(
        "The token is on standard output, and nowhere else. Add this to `tokens` of [callers.{caller}] in the access \
         file:\n{line},"
    );
    print_line(&mut std::io::stderr(), &explanation);
    ExitCode::SUCCESS
}

fn today() -> String {
    let seconds = SystemClock.now().as_micros() / 1_000_000;
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| "1".to_owned(), |time| time.date().to_string())
}
