//! Credentials: what a request carries, and by which its world is found.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::World;
use crate::{
    faults::stale_state::Memory,
    request::{Provider, Request},
};

/// What a client of one world logs in with, at each provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// For Sectigo.
    pub sectigo: SectigoLogin,
    /// For name.com.
    pub namecom: NamecomLogin,
    /// For Debitsuccess.
    pub debitsuccess: DebitsuccessLogin,
}

/// `loginName` and `loginPassword`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct SectigoLogin {
    /// `loginName`.
    pub login_name: String,
    /// `loginPassword`. Not part of `Debug`.
    #[schemars(description = "`loginPassword`.")]
    pub login_password: String,
}

/// HTTP Basic.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct NamecomLogin {
    /// The username.
    pub username: String,
    /// The API token. Not part of `Debug`.
    #[schemars(description = "The API token.")]
    pub token: String,
}

/// `User.Username` and `User.Password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct DebitsuccessLogin {
    /// `User.Username`.
    pub username: String,
    /// `User.Password`. Not part of `Debug`.
    #[schemars(description = "`User.Password`.")]
    pub password: String,
}

/// Where random-looking things come from: a seed and a count, so that one seed gives the same ones
/// in the same order.
#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    thrown: u64,
}

impl Credentials {
    /// New ones, which name the world that they belong to.
    pub(super) fn made(world: &str, dice: &mut Dice) -> Self {
        Self {
            sectigo: SectigoLogin { login_name: format!("{world}-{}", dice.text(8)), login_password: dice.text(24) },
            namecom: NamecomLogin { username: format!("{world}-{}-test", dice.text(8)), token: dice.text(40) },
            debitsuccess: DebitsuccessLogin { username: format!("{world}-{}", dice.text(8)), password: dice.text(24) },
        }
    }

    /// Those that a world has.
    pub(super) fn of(world: &World) -> Self {
        let owned = |(name, secret): (&str, &str)| (name.to_owned(), secret.to_owned());
        let (login_name, login_password) = owned(world.sectigo.main());
        let (username, token) = owned(world.namecom.main());
        let namecom = NamecomLogin { username, token };
        let (username, password) = owned(world.debitsuccess.main());
        let debitsuccess = DebitsuccessLogin { username, password };
        Self { sectigo: SectigoLogin { login_name, login_password }, namecom, debitsuccess }
    }

    /// Makes a world answer to these. Its other accounts get names of their own as well, by their
    /// world's id: no two worlds share one.
    pub(super) fn give_to(&self, world: &mut World, id: &str) {
        let other = |name: &str| {
            // A copy of a copy does not collect endings.
            let name = name.rsplit_once('@').map_or(name, |(name, _)| name);
            format!("{}@{id}", name.chars().take(64 - 1 - id.len().min(32)).collect::<String>())
        };
        let old = Self::of(world);
        for due in &mut world.due {
            self.readdress(due.provider, &mut due.request, &old);
        }
        let Credentials { sectigo, namecom, debitsuccess } = self.clone();
        let sectigo = (sectigo.login_name, sectigo.login_password);
        let namecom = (namecom.username, namecom.token);
        let debitsuccess = (debitsuccess.username, debitsuccess.password);
        for memory in world.past.memories_mut() {
            match memory {
                Memory::Sectigo(state) => state.rename(sectigo.clone(), other),
                Memory::Namecom(state) => state.rename(namecom.clone(), other),
                Memory::Debitsuccess(state) => state.rename(debitsuccess.clone(), other),
            }
        }
        world.sectigo.rename(sectigo, other);
        world.namecom.rename(namecom, other);
        world.debitsuccess.rename(debitsuccess, other);
        world.credentials = Some((self.clone(), id.to_owned()));
    }
}

impl Credentials {
    /// A request that will be done later is done by whoever asked for it, under the name that it
    /// has then.
    fn readdress(&self, provider: Provider, request: &mut Request, old: &Credentials) {
        match provider {
            Provider::Sectigo => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in form_urlencoded::parse(&request.body) {
                    let value = match name.as_ref() {
                        "loginName" if value == old.sectigo.login_name => self.sectigo.login_name.as_str().into(),
                        "loginPassword" if value == old.sectigo.login_password => {
                            self.sectigo.login_password.as_str().into()
                        }
                        _ => value,
                    };
                    form.append_pair(&name, &value);
                }
                request.replace_body(form.finish().into());
            }
            Provider::Namecom => {
                let basic = |login: &NamecomLogin| {
                    let encoded = BASE64_STANDARD.encode(format!("{}:{}", login.username, login.token));
                    HeaderValue::from_str(&format!("Basic {encoded}")).ok()
                };
                if let (Some(sent), Some(new)) = (request.headers.get_mut(header::AUTHORIZATION), basic(&self.namecom))
                    && Some(&*sent) == basic(&old.namecom).as_ref()
                {
                    *sent = new;
                }
            }
            Provider::Debitsuccess => {
                let text = |text: &str| format!(">{}<", quick_xml::escape::escape(text));
                let body = String::from_utf8_lossy(&request.body);
                let body = body.replace(&text(&old.debitsuccess.username), &text(&self.debitsuccess.username));
                let body = body.replace(&text(&old.debitsuccess.password), &text(&self.debitsuccess.password));
                request.replace_body(body.into());
            }
        }
    }
}

/// Every name in a world that a request could carry.
pub(super) fn names(world: &World) -> Vec<(Provider, String)> {
    let sectigo = world.sectigo.accounts().into_iter().map(|account| (Provider::Sectigo, account.login_name.clone()));
    let namecom = world.namecom.accounts().into_iter().map(|account| (Provider::Namecom, account.username.clone()));
    let debitsuccess = world.debitsuccess.logins().into_iter().map(|login| (Provider::Debitsuccess, login.username));
    sectigo.chain(namecom).chain(debitsuccess).collect()
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    /// Small letters and digits that cannot be mistaken for each other.
    fn text(&mut self, characters: usize) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut text = String::with_capacity(characters);
        while text.len() < characters {
            let mut bits = self.next();
            for _ in 0..12.min(characters - text.len()) {
                let letter = ALPHABET.get((bits % 32) as usize).copied().unwrap_or(b'a');
                text.push(char::from(letter));
                bits >>= 5;
            }
        }
        text
    }

    /// SplitMix64.
    pub(super) fn next(&mut self) -> u64 {
        self.thrown = self.thrown.wrapping_add(1);
        let mut bits = self.seed.wrapping_add(self.thrown.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

impl fmt::Debug for SectigoLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectigoLogin").field("login_name", &self.login_name).finish_non_exhaustive()
    }
}

impl fmt::Debug for NamecomLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamecomLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

impl fmt::Debug for DebitsuccessLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebitsuccessLogin").field("username", &self.username).finish_non_exhaustive()
    }
}
