//! A secret that may change while the gateway runs, together with the ones that it replaced: a
//! provider may still repeat one of those.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;

/// One account's secret. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Secret(Arc<Cell>);

struct Cell {
    held: RwLock<Held>,
    refusals: Notify,
}

struct Held {
    current: Arc<SecretString>,
    /// The newest first.
    former: VecDeque<Arc<SecretString>>,
    version: u64,
}

/// How many former secrets are kept to be masked. An answer that repeats an older one would come
/// days after its last use.
const FORMER: usize = 8;

impl Secret {
    /// A secret that has not changed yet.
    pub fn new(secret: SecretString) -> Self {
        let held = Held { current: Arc::new(secret), former: VecDeque::new(), version: 0 };
        Self(Arc::new(Cell { held: RwLock::new(held), refusals: Notify::new() }))
    }

    /// The one to log in with now.
    pub fn current(&self) -> Arc<SecretString> {
        self.read().current.clone()
    }

    /// Takes another one from now on; the present one stays known. False where it is the present
    /// one already.
    pub fn replace(&self, secret: SecretString) -> bool {
        let mut held = self.write();
        if held.current.expose_secret() == secret.expose_secret() {
            return false;
        }
        held.former.retain(|former| former.expose_secret() != secret.expose_secret());
        let replaced = std::mem::replace(&mut held.current, Arc::new(secret));
        held.former.push_front(replaced);
        held.former.truncate(FORMER);
        held.version += 1;
        true
    }

    /// The provider has refused the present one: [`Secret::was_refused`] returns.
    pub fn refused(&self) {
        self.0.refusals.notify_one();
    }

    /// Waits until the provider refuses the secret, or has done so since the last call.
    pub async fn was_refused(&self) {
        self.0.refusals.notified().await;
    }

    /// A number that changes with the secret.
    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    /// All secrets that must not be shown, the present one among them, and their version.
    pub(crate) fn known(&self) -> (u64, Vec<Arc<SecretString>>) {
        let held = self.read();
        (held.version, std::iter::once(&held.current).chain(&held.former).cloned().collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<SecretString> for Secret {
    fn from(secret: SecretString) -> Self {
        Self::new(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::domain::outcome::Outcome;
    use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures;
    use crate::providers::testing::scripted_server::{Script, ScriptedServer};

    const OLD: &str = "old-secret";
    const NEW: &str = "new-secret";

    fn sectigo() -> (ProviderSettings, Target) {
        let login = ProviderSettings::Sectigo { login_name: "demo".to_owned(), login_password: OLD.into() };
        (login, Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap()))
    }

    fn namecom() -> (ProviderSettings, Target) {
        let key_lifetime = std::time::Duration::from_secs(3_000);
        let login = ProviderSettings::Namecom { username: "demo".to_owned(), token: OLD.into(), key_lifetime };
        (login, Target::Namecom(NamecomTarget::new(1, &[2]).unwrap()))
    }

    fn debitsuccess() -> (ProviderSettings, Target) {
        let login = ProviderSettings::Debitsuccess {
            username: "demo".to_owned(),
            password: OLD.into(),
            path: "/s.svc".to_owned(),
            service_namespace: "http://a/".to_owned(),
            data_namespace: "http://b/".to_owned(),
            action_prefix: "http://a/".to_owned(),
        };
        let target = DebitsuccessTarget::new(DebitsuccessFields {
            account_reference_no: "DS000001",
            external_account_reference_no: "",
            amount: Some(("AUD", 1250)),
            description: "Charged twice",
            request_initiator: "ops",
        });
        (login, Target::Debitsuccess(target.unwrap()))
    }

    /// Basic authentication hides the secret from a search by eye alone.
    fn shows(request: &str, secret: &str) -> bool {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("demo:{secret}"));
        request.contains(secret) || request.contains(&basic)
    }

    #[rstest]
    #[case::sectigo(sectigo())]
    #[case::namecom(namecom())]
    #[case::debitsuccess(debitsuccess())]
    #[tokio::test]
    async fn the_next_request_and_every_lookup_log_in_with_the_new_one(
        #[case] (login, target): (ProviderSettings, Target),
    ) {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")).await;
        let account = fixtures::account(&server, login);
        for (current, former) in [(OLD, NEW), (NEW, OLD)] {
            account.secret.replace(current.into());
            account.refunds.refund(&fixtures::intent("r-1", target.clone()), None).await;
            account.refunds.lookup(&fixtures::refund("r-1", target.clone()), &fixtures::Unpaced).await;
            let requests = server.requests();
            for request in requests.iter().rev().take(2) {
                assert!(shows(request, current) && !shows(request, former), "{request}");
            }
        }
        assert_eq!(server.requests().len(), 4);
    }

    #[tokio::test]
    async fn a_provider_that_repeats_either_of_them_is_not_repeated() {
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n-18\nNot old-secret and not new-secret, please.";
        let server = ScriptedServer::start(Script::Send(said)).await;
        let (login, target) = sectigo();
        let account = fixtures::account(&server, login);
        account.secret.replace(NEW.into());
        let outcome = account.refunds.refund(&fixtures::intent("r-1", target), None).await;
        let Outcome::Refused { error, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(error.message.trim_end(), "Not *** and not ***, please.");
    }

    fn known(secret: &Secret) -> Vec<String> {
        secret.known().1.iter().map(|known| known.expose_secret().to_owned()).collect()
    }

    #[test]
    fn what_was_replaced_stays_known_and_only_so_much_of_it() {
        let secret = Secret::new("s-0".into());
        assert!(!secret.replace("s-0".into()), "the same again changes nothing");
        assert_eq!((secret.version(), known(&secret)), (0, vec!["s-0".to_owned()]));
        for number in 1..20 {
            assert!(secret.replace(format!("s-{number}").into()));
            assert_eq!(secret.current().expose_secret(), format!("s-{number}"));
        }
        assert_eq!(known(&secret), (11..20).rev().map(|number| format!("s-{number}")).collect::<Vec<_>>());
        assert!(secret.replace("s-18".into()), "an earlier one may come back");
        assert_eq!(known(&secret).iter().filter(|known| *known == "s-18").count(), 1);
        assert!(!format!("{secret:?}").contains("s-"), "{secret:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_wakes_one_wait_now_or_later() {
        let secret = Secret::new("s".into());
        secret.clone().refused();
        secret.refused();
        secret.was_refused().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), secret.was_refused()).await;
        assert!(again.is_err(), "both refusals were of one secret, and one reading of its file is enough");
    }
}
