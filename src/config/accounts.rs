//! `[accounts.<name>]`: one account at one provider, and its secret from a file or a variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::reader::{Reader, read_bounded};
use crate::domain::ids::{AccountName, ProviderKind};
use crate::domain::money::Currency;
use crate::http::client::authorities_in;
use crate::providers::defaults::{self, ProviderDefaults};
use crate::providers::{AccountSettings, FormerPlace, ProviderSettings, Url, defaults_of};

/// The keys that only one provider's accounts have. Every other key exists for all accounts.
pub(super) const OWN_KEYS: [(ProviderKind, &[&str]); 3] = [
    (ProviderKind::Sectigo, &["login_name", "login_password_file", "login_password_env"]),
    (ProviderKind::Namecom, &["username", "token_file", "token_env", "key_lifetime_s"]),
    (
        ProviderKind::Debitsuccess,
        &["username", "password_file", "password_env", "path", "service_namespace", "data_namespace", "action_prefix"],
    ),
];

/// Keys under which a user might write a secret itself, which is refused.
pub(super) const SECRETS: [&str; 3] = ["login_password", "password", "token"];

/// Sectigo documents 64 and 128.
const MAX_SECTIGO_NAME_CHARS: usize = 64;
const MAX_SECTIGO_PASSWORD_CHARS: usize = 128;
/// The other two document no limit. With this bound, a wrong file is an error here and not sent.
const MAX_OTHER_CHARS: usize = 255;

/// Characters that XML cannot represent, besides control characters.
const NOT_IN_XML: [char; 2] = ['\u{fffe}', '\u{ffff}'];

const MONTH_S: u64 = 30 * 24 * 3600;

/// The file that holds an account's secret. Its content may change while the gateway runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    max_chars: usize,
}

impl SecretFile {
    /// The path as configured. Each read resolves symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret. None if this is not a regular file: a pipe delivers its content only once.
    ///
    /// # Errors
    /// A sentence about the file or the secret, without any part of its content.
    pub fn read(&self) -> Result<Option<SecretString>, String> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if !metadata.is_file() => Ok(None),
            _ => read_secret(&self.path, self.max_chars).map(Some),
        }
    }
}

/// Reads all accounts, and the secret files of those that have one. Leaves a faulty account out and
/// records its errors.
pub(super) fn read(read: &mut Reader<'_>) -> (Vec<AccountSettings>, BTreeMap<AccountName, SecretFile>) {
    read.section("accounts");
    let tables = read.names_in("accounts");
    if tables.is_empty() {
        read.error("accounts", "must contain at least one account, such as `[accounts.sectigo]`");
    }
    let (mut accounts, mut secret_files) = (Vec::new(), BTreeMap::new());
    for (name, path) in tables {
        match AccountName::parse(&name) {
            Ok(name) => {
                let secret_files = &mut secret_files;
                accounts.extend(AccountReader { read, path, name, secret_files }.account());
            }
            Err(error) => read.error(&path, format!("an account name {error}")),
        }
    }
    reject_former_places_in_use(read, &accounts);
    (accounts, secret_files)
}

/// Rejects a former place that is the present place of another account: its refunds would belong to
/// two accounts.
fn reject_former_places_in_use(read: &mut Reader<'_>, accounts: &[AccountSettings]) {
    for account in accounts {
        let taken = account.former_places().into_iter().find_map(|former| {
            let is_present = |other: &&AccountSettings| other.name != account.name && other.place() == former;
            accounts.iter().find(is_present).map(|other| other.name.clone())
        });
        if let Some(other) = taken {
            read.error(
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
        let names = "\"sectigo\", \"namecom\" or \"debitsuccess\"";
        let provider = self.read.required(&self.key("provider"), &format!("one of {names}"), |name| {
            ProviderKind::parse(name).ok_or_else(|| format!("must be {names}"))
        });
        self.reject_inline_secrets();
        self.reject_other_providers_keys(provider);

        let endpoint = self.endpoint(provider);
        let currency = self.currency(provider);
        let ca_file = self.read.optional(&self.key("ca_file"), parse_ca_file);
        let (connect_timeout, total_timeout) = self.timeouts();
        let reuse_connections = self.reuse_connections(provider);
        let mut max_in_flight = defaults::MAX_IN_FLIGHT;
        self.read.number(&self.key("max_in_flight"), 1..=256, &mut max_in_flight);
        // An unknown provider is reported elsewhere; its account is checked all the same.
        let ProviderDefaults { mut requests_per_second, mut requests_per_hour, mut settle_time, .. } =
            defaults_of(provider.unwrap_or(ProviderKind::Debitsuccess));
        self.read.seconds(&self.key("settle_time_s"), 0..=MONTH_S, &mut settle_time);
        self.read.number(&self.key("requests_per_second"), 0..=10_000, &mut requests_per_second);
        self.read.number(&self.key("requests_per_hour"), 0..=100_000, &mut requests_per_hour);
        let mut pending_limit = defaults::PENDING_LIMIT;
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
        let Some(provider) = provider else { return self.read.optional(&key, parse_endpoint) };
        match defaults_of(provider).endpoint {
            Some(default) => self.read.optional(&key, parse_endpoint).or_else(|| parse_endpoint(default).ok()),
            None => self.read.required(
                &key,
                "there is no public production host; ask the provider for yours",
                parse_endpoint,
            ),
        }
    }

    fn currency(&mut self, provider: Option<ProviderKind>) -> Option<Currency> {
        let key = self.key("currency");
        let parse = |code: &str| match Currency::parse(code) {
            Ok(currency) if provider == Some(ProviderKind::Namecom) && currency != Currency::USD => {
                Err("must be \"USD\": name.com bills in no other currency".to_owned())
            }
            result => result.map_err(|error| error.to_string()),
        };
        if provider == Some(ProviderKind::Debitsuccess) {
            return self.read.required(&key, "the currency of the business, such as \"AUD\"", parse);
        }
        let mut currency = Currency::USD;
        self.read.parsed(&key, parse, &mut currency);
        Some(currency)
    }

    /// `former = [{ endpoint = "https://old.example", login = "old" }]`. A part that is left out is
    /// the present one.
    fn former(&mut self) -> Vec<FormerPlace> {
        let key = self.key("former");
        let mut places = Vec::new();
        for (index, table) in self.read.tables(&key).unwrap_or_default().into_iter().enumerate() {
            let mut place = FormerPlace::default();
            for (part, text) in &table {
                match part.as_str() {
                    "endpoint" => match parse_endpoint(text) {
                        Ok(url) => place.endpoint = Some(url),
                        Err(why) => self.read.error(&key, format!("[{index}].endpoint {why}")),
                    },
                    "login" if (1..=MAX_OTHER_CHARS).contains(&text.chars().count()) => {
                        place.login = Some(text.clone())
                    }
                    "login" => {
                        self.read.error(&key, format!("[{index}].login must be 1 to {MAX_OTHER_CHARS} characters"))
                    }
                    other => self.read.error(
                        &key,
                        format!("[{index}].{other:?} is not part of a place, which has \"endpoint\" and \"login\""),
                    ),
                }
            }
            if table.is_empty() {
                self.read.error(&key, format!("[{index}] names neither endpoint nor login"));
            }
            places.push(place);
        }
        places
    }

    fn timeouts(&mut self) -> (Duration, Duration) {
        let mut total = defaults::TOTAL_TIMEOUT;
        let total_key = self.key("total_timeout_ms");
        self.read.millis(&total_key, 10..=600_000, &mut total);
        let mut connect = defaults::CONNECT_TIMEOUT.min(total / 2);
        self.read.millis(&self.key("connect_timeout_ms"), 10..=60_000, &mut connect);
        // If both ended at the same time, nothing would prove that no byte was sent.
        if total <= connect {
            self.read.error(&total_key, "must be above `connect_timeout_ms`");
        }
        (connect, total)
    }

    fn reuse_connections(&mut self, provider: Option<ProviderKind>) -> bool {
        let key = self.key("reuse_connections");
        let mut reuse = false;
        self.read.flag(&key, &mut reuse);
        if reuse && provider == Some(ProviderKind::Sectigo) {
            self.read.error(
                &key,
                "must be false for Sectigo: a pooled connection may lose a request, and Sectigo does not prevent a second refund",
            );
        }
        reuse
    }

    fn sectigo(&mut self) -> Option<ProviderSettings> {
        let login_name = self.login_name("login_name", MAX_SECTIGO_NAME_CHARS, &[]);
        let login_password = self.secret("login_password", MAX_SECTIGO_PASSWORD_CHARS);
        Some(ProviderSettings::Sectigo { login_name: login_name?, login_password: login_password? })
    }

    fn namecom(&mut self) -> Option<ProviderSettings> {
        // In HTTP Basic, a colon ends the name.
        let username = self.login_name("username", MAX_OTHER_CHARS, &[':']);
        let token = self.secret("token", MAX_OTHER_CHARS);
        let mut key_lifetime = defaults::NAMECOM_KEY_LIFETIME;
        self.read.seconds(&self.key("key_lifetime_s"), 1..=12 * 3600, &mut key_lifetime);
        Some(ProviderSettings::Namecom { username: username?, token: token?, key_lifetime })
    }

    fn debitsuccess(&mut self) -> Option<ProviderSettings> {
        let username = self.login_name("username", MAX_OTHER_CHARS, &[]);
        let password = self.secret("password", MAX_OTHER_CHARS);
        let mut path = defaults::DEBITSUCCESS_PATH.to_owned();
        let mut service_namespace = defaults::DEBITSUCCESS_SERVICE_NAMESPACE.to_owned();
        let mut data_namespace = defaults::DEBITSUCCESS_DATA_NAMESPACE.to_owned();
        let mut action_prefix = defaults::DEBITSUCCESS_ACTION_PREFIX.to_owned();
        self.read.parsed(&self.key("path"), parse_service_path, &mut path);
        self.read.parsed(&self.key("service_namespace"), parse_namespace, &mut service_namespace);
        self.read.parsed(&self.key("data_namespace"), parse_namespace, &mut data_namespace);
        self.read.parsed(&self.key("action_prefix"), parse_namespace, &mut action_prefix);
        Some(ProviderSettings::Debitsuccess {
            username: username?,
            password: password?,
            path,
            service_namespace,
            data_namespace,
            action_prefix,
        })
    }

    fn login_name(&mut self, last: &str, max_chars: usize, refused: &[char]) -> Option<String> {
        self.read.required(&self.key(last), "the provider's name for this account", |text| {
            let fits = (1..=max_chars).contains(&text.chars().count())
                && !text.chars().any(|character| character.is_control() || refused.contains(&character));
            fits.then(|| text.to_owned()).ok_or_else(|| {
                let excluded: String = refused.iter().map(|character| format!(" and no {character:?}")).collect();
                format!("must be 1 to {max_chars} characters without control characters{excluded}")
            })
        })
    }

    /// The secret that `<stem>_file` or `<stem>_env` refers to. Here too, an environment variable
    /// overrides the file.
    fn secret(&mut self, stem: &str, max_chars: usize) -> Option<SecretString> {
        let (file, env) = (self.key(&format!("{stem}_file")), self.key(&format!("{stem}_env")));
        self.read.mark_known(&file);
        self.read.mark_known(&env);
        let from_variable = |read: &Reader<'_>, key: &str| read.is_set(key).then(|| read.is_from_variable(key));
        match (from_variable(self.read, &file), from_variable(self.read, &env)) {
            (None, None) => {
                let hint = format!(
                    "is required: the file that holds the secret; or `{stem}_env`, the environment variable that holds it"
                );
                self.read.error(&file, hint);
                None
            }
            (Some(one), Some(other)) if one == other => {
                self.read.error(
                    &file,
                    format!("must not be set together with `{stem}_env`: the secret would have two sources"),
                );
                None
            }
            (Some(true), _) | (Some(false), None) => self.secret_from_file(&file, max_chars),
            (_, Some(_)) => self.secret_from_variable(&env, max_chars),
        }
    }

    fn secret_from_file(&mut self, key: &str, max_chars: usize) -> Option<SecretString> {
        let mut world_readable = false;
        let secret = self.read.optional(key, |path| {
            let path = PathBuf::from(path);
            let secret = read_secret(&path, max_chars)?;
            world_readable = is_world_readable(&path);
            Ok::<_, String>((secret, SecretFile { path, max_chars }))
        });
        let secret = secret.map(|(secret, file)| {
            self.secret_files.insert(self.name.clone(), file);
            secret
        });
        if world_readable {
            self.read.warn(key, "every user of this machine can read the file; fix it with `chmod o-r`");
        }
        secret
    }

    fn secret_from_variable(&mut self, key: &str, max_chars: usize) -> Option<SecretString> {
        let name = self.read.optional(key, |name| {
            let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            fits.then(|| name.to_owned()).ok_or("must be the name of an environment variable: A-Z, a-z, 0-9 and \"_\"")
        })?;
        match self.read.secret_variable(&name).map(|text| checked_secret(text, max_chars)) {
            Some(Ok(secret)) => return Some(secret),
            Some(Err(why)) => self.read.error(key, format!("the secret in the variable {why}")),
            None => self.read.error(key, "the variable that it names is not set, or is not UTF-8 text"),
        }
        None
    }

    /// Every copy of the configuration would contain such a secret. The error never repeats it.
    fn reject_inline_secrets(&mut self) {
        for stem in SECRETS {
            let key = self.key(stem);
            if self.read.is_set(&key) {
                self.read.error(
                    &key,
                    format!(
                        "a secret does not belong in the configuration: put it in a file and name that in \
                         `{stem}_file`, or in an environment variable and name that in `{stem}_env`"
                    ),
                );
            }
        }
    }

    /// A key that only other providers' accounts have is most likely in the wrong account. If the
    /// provider is unknown, any key may be right.
    fn reject_other_providers_keys(&mut self, provider: Option<ProviderKind>) {
        let keys: BTreeSet<&str> = OWN_KEYS.into_iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        for last in keys {
            let key = self.key(last);
            match provider {
                None => self.read.mark_known(&key),
                Some(provider) if owners(last).contains(&provider.as_str()) || !self.read.is_set(&key) => {}
                Some(provider) => {
                    let sentence = format!(
                        "is not a setting of {provider} accounts, only of {} accounts",
                        owners(last).join(" and ")
                    );
                    self.read.error(&key, sentence);
                }
            }
        }
    }

    fn key(&self, last: &str) -> String {
        format!("{}.{last}", self.path)
    }
}

/// The providers whose accounts have a key.
fn owners(last: &str) -> Vec<&'static str> {
    OWN_KEYS.into_iter().filter(|(_, keys)| keys.contains(&last)).map(|(owner, _)| owner.as_str()).collect()
}

/// The scheme and host of a provider: `https`, or `http` if it is on this machine.
fn parse_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("must be a URL such as \"https://host\": {error}"))?;
    let host = url.host_str().unwrap_or_default();
    let is_loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => {
            return Err("must be https, because http exposes the password; http is allowed only to this machine \
                        (127.0.0.0/8, ::1, localhost)"
                .to_owned());
        }
        _ => return Err("must be https".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or a password: they have keys of their own".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end with the host or its port: the provider's paths are fixed".to_owned());
    }
    Ok(url)
}

fn parse_ca_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let pem = read_bounded(&path).map_err(|why| format!("the file {why}"))?;
    match authorities_in(pem.as_bytes()) {
        Ok(_) => Ok(path),
        Err(why) => Err(format!("the file cannot be used: {why}")),
    }
}

fn parse_service_path(text: &str) -> Result<String, &'static str> {
    let fits = text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\' | b'"' | b'<' | b'>'));
    fits.then(|| text.to_owned())
        .ok_or("must begin with \"/\" and contain only ASCII characters, no query and no blank")
}

/// A name that goes into an XML attribute and into a quoted header value.
fn parse_namespace(text: &str) -> Result<String, &'static str> {
    let fits = (1..=MAX_OTHER_CHARS).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'&' | b'\\'));
    fits.then(|| text.to_owned())
        .ok_or("must be a URI of 1 to 255 ASCII characters, without blanks, quotes, \"<\", \">\", \"&\"")
}

fn read_secret(path: &Path, max_chars: usize) -> Result<SecretString, String> {
    let text = read_bounded(path).map_err(|why| format!("the file {why}"))?;
    // Strips the one line end that editors and `echo` add. Further ones may be part of the secret.
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    checked_secret(line, max_chars).map_err(|why| format!("the secret in the file {why}"))
}

fn checked_secret(text: &str, max_chars: usize) -> Result<SecretString, String> {
    match text.chars().count() {
        0 => Err("is empty".to_owned()),
        chars if chars > max_chars => Err(format!("is longer than {max_chars} characters")),
        _ if text.chars().any(char::is_control) => Err("contains a line end or another control character".to_owned()),
        _ if text.contains(NOT_IN_XML) => Err("contains a character that XML cannot represent".to_owned()),
        _ => Ok(SecretString::from(text)),
    }
}

#[cfg(unix)]
fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS_MAY_READ: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_MAY_READ != 0)
}

#[cfg(not(unix))]
fn is_world_readable(_: &Path) -> bool {
    false
}
