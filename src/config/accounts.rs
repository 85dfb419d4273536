//! `[accounts.<name>]`: one account at one provider, and its secret from a file or a variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::reader::{Reader, read_bounded};
use crate::domain::contract::default_settle_time;
use crate::domain::ids::{AccountName, ProviderKind};
use crate::domain::money::Currency;
use crate::http::client::authorities_in;
use crate::providers::{AccountSettings, FormerPlace, ProviderSettings, Url};

/// The keys that only one provider's accounts have; all the others every account has.
pub(super) const OWN_KEYS: [(ProviderKind, &[&str]); 3] = [
    (ProviderKind::Sectigo, &["login_name", "login_password_file", "login_password_env"]),
    (ProviderKind::Namecom, &["username", "token_file", "token_env", "key_lifetime_s"]),
    (
        ProviderKind::Debitsuccess,
        &["username", "password_file", "password_env", "path", "service_namespace", "data_namespace", "action_prefix"],
    ),
];

/// Where a person would write a secret, and may not.
pub(super) const SECRETS: [&str; 3] = ["login_password", "password", "token"];

const SECTIGO_ENDPOINT: &str = "https://secure.trust-provider.com";
const NAMECOM_ENDPOINT: &str = "https://api.name.com";

const DEBITSUCCESS_PATH: &str = "/DSWebService/DSServices.svc";
// What WCF writes where nobody chose a namespace; the provider's own are not public.
const DEBITSUCCESS_SERVICE_NAMESPACE: &str = "http://tempuri.org/";
const DEBITSUCCESS_DATA_NAMESPACE: &str = "http://schemas.datacontract.org/2004/07/DSWebService";
const DEBITSUCCESS_ACTION_PREFIX: &str = "http://tempuri.org/IDSServices/";

/// Sectigo documents 64 and 128.
const SECTIGO_NAME_CHARS: usize = 64;
const SECTIGO_PASSWORD_CHARS: usize = 128;
/// Undocumented at the other two; a bound all the same, so that a wrong file is told and not sent.
const OTHER_CHARS: usize = 255;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_IN_FLIGHT: usize = 16;
/// Documented; the other two tell of no rate.
const NAMECOM_REQUESTS_PER_SECOND: u32 = 20;
const NAMECOM_REQUESTS_PER_HOUR: u32 = 3_000;
const PENDING_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// 50 minutes: documented as 12 hours and, newer, as 1 hour; the shorter, less a margin for clocks
/// that differ.
const KEY_LIFETIME: Duration = Duration::from_secs(3000);

/// What XML cannot represent, besides control characters.
const NO_XML: [char; 2] = ['\u{fffe}', '\u{ffff}'];

const MONTH_S: u64 = 30 * 24 * 3600;

/// The file that holds an account's secret. Its content may change while the gateway runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    longest: usize,
}

impl SecretFile {
    /// As configured. Symbolic links are resolved at each read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret. None where the file is no plain one: a pipe gives its content once.
    ///
    /// # Errors
    /// What is wrong with the file or the secret, without any part of its content.
    pub fn read(&self) -> Result<Option<SecretString>, String> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if !metadata.is_file() => Ok(None),
            _ => secret_in(&self.path, self.longest).map(Some),
        }
    }
}

/// Reads all accounts, and the secret files of those that have one. A faulty account is left out
/// and its faults are noted.
pub(super) fn read(read: &mut Reader<'_>) -> (Vec<AccountSettings>, BTreeMap<AccountName, SecretFile>) {
    read.section("accounts");
    let tables = read.names_in("accounts");
    if tables.is_empty() {
        read.fault("accounts", "must hold at least one account, such as `[accounts.sectigo]`");
    }
    let (mut accounts, mut secret_files) = (Vec::new(), BTreeMap::new());
    for (name, path) in tables {
        match AccountName::parse(&name) {
            Ok(name) => {
                let secret_files = &mut secret_files;
                accounts.extend(AccountReader { read, path, name, secret_files }.account());
            }
            Err(error) => read.fault(&path, format!("the name of an account {error}")),
        }
    }
    refuse_present_places(read, &accounts);
    (accounts, secret_files)
}

/// A former place that another account has now would give its refunds two accounts.
fn refuse_present_places(read: &mut Reader<'_>, accounts: &[AccountSettings]) {
    for account in accounts {
        let taken = account.former_places().into_iter().find_map(|former| {
            let is_present = |other: &&AccountSettings| other.name != account.name && other.place() == former;
            accounts.iter().find(is_present).map(|other| other.name.clone())
        });
        if let Some(other) = taken {
            read.fault(
                &format!("accounts.{}.former", account.name),
                format!("names the present endpoint and login of the account \"{other}\": its refunds are not this account's"),
            );
        }
    }
}

/// Reads one account.
struct AccountReader<'r, 'a> {
    read: &'r mut Reader<'a>,
    path: String,
    name: AccountName,
    secret_files: &'r mut BTreeMap<AccountName, SecretFile>,
}

impl AccountReader<'_, '_> {
    fn account(mut self) -> Option<AccountSettings> {
        self.read.section(&self.path);
        let which = "\"sectigo\", \"namecom\" or \"debitsuccess\"";
        let provider = self.read.required(&self.key("provider"), &format!("one of {which}"), |word| {
            ProviderKind::parse(word).ok_or_else(|| format!("must be {which}"))
        });
        self.refuse_inline_secrets();
        self.refuse_foreign_keys(provider);

        let endpoint = self.endpoint(provider);
        let currency = self.currency(provider);
        let ca_file = self.read.optional(&self.key("ca_file"), certificates);
        let (connect_timeout, total_timeout) = self.timeouts();
        let reuse_connections = self.reuse_connections(provider);
        let mut max_in_flight = MAX_IN_FLIGHT;
        self.read.number(&self.key("max_in_flight"), 1..=256, &mut max_in_flight);
        let mut settle_time = default_settle_time(provider.unwrap_or(ProviderKind::Debitsuccess));
        self.read.seconds(&self.key("settle_time_s"), 0..=MONTH_S, &mut settle_time);
        let (mut requests_per_second, mut requests_per_hour) = match provider {
            Some(ProviderKind::Namecom) => (NAMECOM_REQUESTS_PER_SECOND, NAMECOM_REQUESTS_PER_HOUR),
            _ => (0, 0),
        };
        self.read.number(&self.key("requests_per_second"), 0..=10_000, &mut requests_per_second);
        self.read.number(&self.key("requests_per_hour"), 0..=100_000, &mut requests_per_hour);
        let mut pending_limit = PENDING_LIMIT;
        self.read.seconds(&self.key("pending_limit_s"), 1..=MONTH_S, &mut pending_limit);
        let former = self.former();
        let login = match provider? {
            ProviderKind::Sectigo => self.sectigo(),
            ProviderKind::Namecom => self.namecom(),
            ProviderKind::Debitsuccess => self.debitsuccess(),
        };
        Some(AccountSettings {
            name: self.name,
            endpoint: endpoint?,
            currency: currency?,
            ca_file,
            connect_timeout,
            total_timeout,
            reuse_connections,
            max_in_flight,
            requests_per_second,
            requests_per_hour,
            pending_limit,
            settle_time,
            provider_settings: login?,
            former,
        })
    }

    fn endpoint(&mut self, provider: Option<ProviderKind>) -> Option<Url> {
        let key = self.key("endpoint");
        let default = match provider {
            Some(ProviderKind::Sectigo) => SECTIGO_ENDPOINT,
            Some(ProviderKind::Namecom) => NAMECOM_ENDPOINT,
            Some(ProviderKind::Debitsuccess) => {
                return self.read.required(&key, "no production host is public, ask Debitsuccess for yours", endpoint);
            }
            None => return self.read.optional(&key, endpoint),
        };
        self.read.optional(&key, endpoint).or_else(|| endpoint(default).ok())
    }

    fn currency(&mut self, provider: Option<ProviderKind>) -> Option<Currency> {
        let key = self.key("currency");
        let parse = |code: &str| match Currency::parse(code) {
            Ok(currency) if provider == Some(ProviderKind::Namecom) && currency != Currency::USD => {
                Err("must be \"USD\": name.com bills in nothing else".to_owned())
            }
            result => result.map_err(|error| error.to_string()),
        };
        if provider == Some(ProviderKind::Debitsuccess) {
            return self.read.required(&key, "what the business bills in, such as \"AUD\"", parse);
        }
        let mut currency = Currency::USD;
        self.read.parsed(&key, parse, &mut currency);
        Some(currency)
    }

    /// `former = [{ endpoint = "https://old.example", login = "old" }]`: a part left out is the
    /// present one.
    fn former(&mut self) -> Vec<FormerPlace> {
        let key = self.key("former");
        let mut places = Vec::new();
        for (index, table) in self.read.tables(&key).unwrap_or_default().into_iter().enumerate() {
            let mut place = FormerPlace::default();
            for (part, text) in &table {
                match part.as_str() {
                    "endpoint" => match endpoint(text) {
                        Ok(url) => place.endpoint = Some(url),
                        Err(why) => self.read.fault(&key, format!("[{index}].endpoint {why}")),
                    },
                    "login" if (1..=OTHER_CHARS).contains(&text.chars().count()) => place.login = Some(text.clone()),
                    "login" => self.read.fault(&key, format!("[{index}].login must be 1 to {OTHER_CHARS} characters")),
                    other => self.read.fault(
                        &key,
                        format!("[{index}].{other:?} is no part of a place: \"endpoint\" and \"login\" are"),
                    ),
                }
            }
            if table.is_empty() {
                self.read.fault(&key, format!("[{index}] names neither endpoint nor login"));
            }
            places.push(place);
        }
        places
    }

    fn timeouts(&mut self) -> (Duration, Duration) {
        let mut total = TOTAL_TIMEOUT;
        let total_key = self.key("total_timeout_ms");
        self.read.millis(&total_key, 10..=600_000, &mut total);
        let mut connect = CONNECT_TIMEOUT.min(total / 2);
        self.read.millis(&self.key("connect_timeout_ms"), 10..=60_000, &mut connect);
        // With both over at once, nothing could prove that no byte had left.
        if total <= connect {
            self.read.fault(&total_key, "must be above `connect_timeout_ms`");
        }
        (connect, total)
    }

    fn reuse_connections(&mut self, provider: Option<ProviderKind>) -> bool {
        let key = self.key("reuse_connections");
        let mut reuse = false;
        self.read.flag(&key, &mut reuse);
        if reuse && provider == Some(ProviderKind::Sectigo) {
            self.read.fault(
                &key,
                "must be false at Sectigo: a pooled connection may lose a request, and nothing there stops a second refund",
            );
        }
        reuse
    }

    fn sectigo(&mut self) -> Option<ProviderSettings> {
        let login_name = self.user("login_name", SECTIGO_NAME_CHARS, &[]);
        let login_password = self.secret("login_password", SECTIGO_PASSWORD_CHARS);
        Some(ProviderSettings::Sectigo { login_name: login_name?, login_password: login_password? })
    }

    fn namecom(&mut self) -> Option<ProviderSettings> {
        // A colon would end the name in HTTP Basic.
        let username = self.user("username", OTHER_CHARS, &[':']);
        let token = self.secret("token", OTHER_CHARS);
        let mut key_lifetime = KEY_LIFETIME;
        self.read.seconds(&self.key("key_lifetime_s"), 1..=12 * 3600, &mut key_lifetime);
        Some(ProviderSettings::Namecom { username: username?, token: token?, key_lifetime })
    }

    fn debitsuccess(&mut self) -> Option<ProviderSettings> {
        let username = self.user("username", OTHER_CHARS, &[]);
        let password = self.secret("password", OTHER_CHARS);
        let mut path = DEBITSUCCESS_PATH.to_owned();
        let mut service_namespace = DEBITSUCCESS_SERVICE_NAMESPACE.to_owned();
        let mut data_namespace = DEBITSUCCESS_DATA_NAMESPACE.to_owned();
        let mut action_prefix = DEBITSUCCESS_ACTION_PREFIX.to_owned();
        self.read.parsed(&self.key("path"), service_path, &mut path);
        self.read.parsed(&self.key("service_namespace"), namespace, &mut service_namespace);
        self.read.parsed(&self.key("data_namespace"), namespace, &mut data_namespace);
        self.read.parsed(&self.key("action_prefix"), namespace, &mut action_prefix);
        Some(ProviderSettings::Debitsuccess {
            username: username?,
            password: password?,
            path,
            service_namespace,
            data_namespace,
            action_prefix,
        })
    }

    fn user(&mut self, last: &str, longest: usize, refused: &[char]) -> Option<String> {
        self.read.required(&self.key(last), "the provider's name for this account", |text| {
            let fits = (1..=longest).contains(&text.chars().count())
                && !text.chars().any(|character| character.is_control() || refused.contains(&character));
            fits.then(|| text.to_owned()).ok_or_else(|| {
                let besides: String = refused.iter().map(|character| format!(" and no {character:?}")).collect();
                format!("must be 1 to {longest} characters, no control character among them{besides}")
            })
        })
    }

    /// The secret that `<stem>_file` or `<stem>_env` leads to. A variable takes the place of what
    /// the file says, here too.
    fn secret(&mut self, stem: &str, longest: usize) -> Option<SecretString> {
        let (file, env) = (self.key(&format!("{stem}_file")), self.key(&format!("{stem}_env")));
        self.read.know(&file);
        self.read.know(&env);
        let from_variable = |read: &Reader<'_>, key: &str| read.is_set(key).then(|| read.is_from_variable(key));
        match (from_variable(self.read, &file), from_variable(self.read, &env)) {
            (None, None) => {
                let hint =
                    format!("is required: the file that holds the secret; or `{stem}_env`, the variable that does");
                self.read.fault(&file, hint);
                None
            }
            (Some(one), Some(other)) if one == other => {
                self.read
                    .fault(&file, format!("must not stand beside `{stem}_env`: one of the two would be forgotten"));
                None
            }
            (Some(true), _) | (Some(false), None) => self.secret_of_file(&file, longest),
            (_, Some(_)) => self.secret_of_variable(&env, longest),
        }
    }

    fn secret_of_file(&mut self, key: &str, longest: usize) -> Option<SecretString> {
        let mut open_to_all = false;
        let secret = self.read.optional(key, |path| {
            let path = PathBuf::from(path);
            let secret = secret_in(&path, longest)?;
            open_to_all = is_open_to_all(&path);
            Ok::<_, String>((secret, SecretFile { path, longest }))
        });
        let secret = secret.map(|(secret, file)| {
            self.secret_files.insert(self.name.clone(), file);
            secret
        });
        if open_to_all {
            self.read.warn(key, "every user of this machine may read the file; `chmod o-r` would end that");
        }
        secret
    }

    fn secret_of_variable(&mut self, key: &str, longest: usize) -> Option<SecretString> {
        let name = self.read.optional(key, |name| {
            let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            fits.then(|| name.to_owned()).ok_or("must be the name of an environment variable: A-Z a-z 0-9 and \"_\"")
        })?;
        match self.read.secret_variable(&name).map(|text| checked_secret(text, longest)) {
            Some(Ok(secret)) => return Some(secret),
            Some(Err(why)) => self.read.fault(key, format!("the secret in the variable {why}")),
            None => self.read.fault(key, "the variable that it names is not set, or is no UTF-8 text"),
        }
        None
    }

    /// A secret in the configuration's text would be in every copy of it. The sentence never
    /// repeats it.
    fn refuse_inline_secrets(&mut self) {
        for stem in SECRETS {
            let key = self.key(stem);
            if self.read.is_set(&key) {
                self.read.fault(
                    &key,
                    format!(
                        "a secret does not belong in the configuration: put it in a file and name that in \
                         `{stem}_file`, or in an environment variable and name that in `{stem}_env`"
                    ),
                );
            }
        }
    }

    /// A key that only other providers' accounts have is most likely in the wrong account. (Where
    /// the provider is not known, any may be right.)
    fn refuse_foreign_keys(&mut self, provider: Option<ProviderKind>) {
        let keys: BTreeSet<&str> = OWN_KEYS.into_iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        for last in keys {
            let key = self.key(last);
            match provider {
                None => self.read.know(&key),
                Some(provider) if owners(last).contains(&provider.as_str()) || !self.read.is_set(&key) => {}
                Some(provider) => {
                    let sentence =
                        format!("is no setting of {provider} accounts, but of {} ones", owners(last).join(" and "));
                    self.read.fault(&key, sentence);
                }
            }
        }
    }

    fn key(&self, last: &str) -> String {
        format!("{}.{last}", self.path)
    }
}

/// Whose accounts have a key.
fn owners(last: &str) -> Vec<&'static str> {
    OWN_KEYS.into_iter().filter(|(_, keys)| keys.contains(&last)).map(|(owner, _)| owner.as_str()).collect()
}

/// The scheme and host of a provider: `https`, or `http` to this machine alone.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("must be a URL such as \"https://host\": {error}"))?;
    let host = url.host_str().unwrap_or_default();
    let is_loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => {
            return Err("must be https: only to this machine itself (127.0.0.0/8, ::1, localhost) may it be http, \
                              for anybody on the way could read the password"
                .to_owned());
        }
        _ => return Err("must be https".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user and no password: they have keys of their own".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end with the host or its port: the paths are the provider's and fixed".to_owned());
    }
    Ok(url)
}

fn certificates(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let pem = read_bounded(&path).map_err(|why| format!("the file {why}"))?;
    match authorities_in(pem.as_bytes()) {
        Ok(_) => Ok(path),
        Err(why) => Err(format!("the file cannot be used: {why}")),
    }
}

fn service_path(text: &str) -> Result<String, &'static str> {
    let fits = text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\' | b'"' | b'<' | b'>'));
    fits.then(|| text.to_owned()).ok_or("must begin with \"/\" and hold no query, no blank and nothing but ASCII")
}

/// A name that stands in an XML attribute and in a header's quotes.
fn namespace(text: &str) -> Result<String, &'static str> {
    let fits = (1..=OTHER_CHARS).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'&' | b'\\'));
    fits.then(|| text.to_owned())
        .ok_or("must be a URI of 1 to 255 ASCII characters, without blanks, quotes, \"<\", \">\", \"&\"")
}

fn secret_in(path: &Path, longest: usize) -> Result<SecretString, String> {
    let text = read_bounded(path).map_err(|why| format!("the file {why}"))?;
    // Strips the one line end that editors and `echo` add; further ones may be part of the secret.
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    checked_secret(line, longest).map_err(|why| format!("the secret in the file {why}"))
}

fn checked_secret(text: &str, longest: usize) -> Result<SecretString, String> {
    match text.chars().count() {
        0 => Err("is empty".to_owned()),
        chars if chars > longest => Err(format!("is longer than {longest} characters")),
        _ if text.chars().any(char::is_control) => Err("holds a line end or another control character".to_owned()),
        _ if text.contains(NO_XML) => Err("holds a character that XML cannot carry".to_owned()),
        _ => Ok(SecretString::from(text)),
    }
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS_MAY_READ: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_MAY_READ != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Path) -> bool {
    false
}
