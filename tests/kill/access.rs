//! The access file of some starts: callers of two owners, a rule that asks for a second one, and a
//! limit. An operator pauses accounts and resumes them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use recoup::access::scope::Scope;
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use secrecy::ExposeSecret as _;
use simulators::request::Provider;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::callers::{self, CallerState};
use crate::plans::{Plan, Target};
use crate::providers;
use crate::rng::SeededRng;
use crate::run::PROVIDERS;
use crate::support::demo_accounts::account_name;

/// Refunds at Debitsuccess from here on need a second owner.
const LARGE_MINOR_UNITS: i64 = 34_000;
/// What the till may create in a day.
pub(crate) const DAILY_MAX_MINOR_UNITS: i64 = 800_000;

/// A caller of the access file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Person {
    Shop,
    /// Has a daily limit.
    Till,
    /// Approves; has the owner of shop and till.
    Colleague,
    /// Does everything but create.
    Finance,
}

const PERSONS: [Person; 4] = [Person::Shop, Person::Till, Person::Colleague, Person::Finance];

impl Person {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Person::Shop => "shop",
            Person::Till => "till",
            Person::Colleague => "colleague",
            Person::Finance => "finance",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Person> {
        PERSONS.into_iter().find(|person| person.name() == name)
    }

    pub(crate) fn owner(self) -> &'static str {
        if self == Person::Finance { "money" } else { "team" }
    }

    /// Who creates this refund, and repeats it.
    pub(crate) fn creator_of(plan: &Plan) -> Person {
        match &plan.target {
            Target::Account { reference, .. } if reference.ends_with(['0', '5']) => Person::Till,
            _ => Person::Shop,
        }
    }

    /// A call of this caller. Without an access file, its credential is ignored.
    pub(crate) fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.credential());
        request
    }

    fn credential(self) -> MetadataValue<Ascii> {
        format!("Bearer {}", self.token().expose_secret()).parse().unwrap()
    }

    fn token(self) -> &'static Token {
        static TOKENS: OnceLock<[Token; 4]> = OnceLock::new();
        let tokens = TOKENS.get_or_init(|| PERSONS.map(|_| Token::generate().ok().unwrap()));
        &tokens[PERSONS.iter().position(|person| *person == self).unwrap()]
    }
}

/// The amount that a refund counts against the till's limit.
pub(crate) fn amount(plan: &Plan) -> i64 {
    match plan.target {
        Target::Account { minor_units, .. } => minor_units,
        _ => 0,
    }
}

/// Whether the rule asks for a second owner.
pub(crate) fn is_large(plan: &Plan) -> bool {
    amount(plan) >= LARGE_MINOR_UNITS
}

/// Writes the access file into `folder`. Returns the setting that names it. A rule cannot name an
/// account that is not configured, at which nothing is created either.
pub(crate) fn settings(folder: &Path, has_debitsuccess: bool) -> String {
    let money = |minor_units: i64| format!("{{ AUD = \"{}.00\" }}", minor_units / 100);
    let mut text = format!("[callers.till.limits]\ndaily_max = {}\n", money(DAILY_MAX_MINOR_UNITS));
    if has_debitsuccess {
        let at_least = money(LARGE_MINOR_UNITS);
        text += &format!("[approvals.large]\naccounts = [\"debitsuccess\"]\nat_least = {at_least}\n");
    }
    for person in PERSONS {
        let scopes: Vec<Scope> = match person {
            Person::Shop | Person::Till => vec![Scope::RefundsCreate, Scope::RefundsRead],
            Person::Colleague => vec![Scope::RefundsApprove],
            Person::Finance => Scope::ALL.into_iter().filter(|scope| *scope != Scope::RefundsCreate).collect(),
        };
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("{:?}", scope.as_str())).collect();
        text += &format!(
            "[callers.{name}]\nowner = \"{}\"\ntokens = [{{ id = \"{name}-1\", sha256 = \"{}\" }}]\nscopes = [{}]\n\
             accounts = [\"*\"]\nrate = {{ calls_per_second = 10000, burst = 10000 }}\n",
            person.owner(),
            person.token().hash().hex(),
            scopes.join(", "),
            name = person.name(),
        );
    }
    let file = folder.join("access.toml");
    std::fs::write(&file, text).unwrap();
    format!("access.file = \"{}\"\n", file.display())
}

/// Adds finance's credential to calls that have none.
#[derive(Clone)]
pub(crate) struct AddCredential;

impl Interceptor for AddCredential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !request.metadata().contains_key("authorization") {
            request.metadata_mut().insert("authorization", Person::Finance.credential());
        }
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, AddCredential>;
pub(crate) type Client = RefundServiceClient<Connection>;

/// A client whose calls are finance's, unless they say otherwise.
pub(crate) fn client(channel: Channel) -> Client {
    RefundServiceClient::with_interceptor(channel, AddCredential)
}

/// From the answer to PauseAccount to the first call of ResumeAccount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    pub(crate) provider: Provider,
    pub(crate) after_micros: i64,
    pub(crate) until_micros: i64,
}

/// Pauses one account after another and resumes it, over every restart.
pub(crate) async fn operate(caller_state: Arc<CallerState>, mut rng: SeededRng) {
    while !caller_state.ended.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(rng.between(200, 1_200))).await;
        let Some(gateway) = *caller_state.address.borrow() else { continue };
        let provider = PROVIDERS[rng.index(PROVIDERS.len())];
        let account = account_name(provider).to_owned();
        let request = proto::PauseAccountRequest { account: account.clone(), reason: "a random pause".to_owned() };
        let answer = accounts(gateway).pause_account(request).await;
        let after_micros = micros();
        if answer.as_ref().is_err_and(is_refusal) {
            continue;
        }
        let lasts = if rng.percent(25) { rng.between(300, 1_000) } else { rng.between(10, 200) };
        tokio::time::sleep(Duration::from_millis(lasts)).await;
        if answer.is_ok() {
            let pause = Pause { provider, after_micros, until_micros: micros() };
            caller_state.pauses.lock().unwrap().push(pause);
        }
        // What is still paused at the end is resumed at quiescence.
        while !caller_state.ended.is_cancelled() {
            let there = *caller_state.address.borrow();
            if let Some(gateway) = there
                && resume(gateway, &account).await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Resumes every account.
pub(crate) async fn resume_all(gateway: SocketAddr) -> Result<(), String> {
    for provider in PROVIDERS {
        let resumed = resume(gateway, account_name(provider)).await;
        resumed.map_err(|status| format!("answers at quiescence: ResumeAccount was answered with {status}"))?;
    }
    Ok(())
}

async fn resume(gateway: SocketAddr, account: &str) -> Result<(), Status> {
    let request = proto::ResumeAccountRequest { account: account.to_owned() };
    accounts(gateway).resume_account(request).await.map(|_| ())
}

fn accounts(gateway: SocketAddr) -> AccountServiceClient<Connection> {
    AccountServiceClient::with_interceptor(callers::channel(gateway), AddCredential)
}

fn is_refusal(status: &Status) -> bool {
    status.get_error_details().error_info().is_some()
}

fn micros() -> i64 {
    i64::try_from(providers::now().unix_timestamp_nanos() / 1_000).unwrap()
}
