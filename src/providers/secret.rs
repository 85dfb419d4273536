//! A secret that may be replaced while the gateway runs. It remembers its former values, because a
//! provider may still repeat one of them in a text.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;

/// The secret of one account. Cheap to clone; all clones share one value.
#[derive(Clone)]
pub struct Secret(Arc<SharedSecret>);

struct SharedSecret {
    state: RwLock<SecretState>,
    refusals: Notify,
}

struct SecretState {
    current: Arc<SecretString>,
    /// The newest first.
    former: VecDeque<Arc<SecretString>>,
    version: u64,
}

/// The number of former secrets that are kept for redaction. An answer that repeats an older one
/// would arrive days after its last use.
const MAX_FORMER_SECRETS: usize = 8;

impl Secret {
    pub fn new(secret: SecretString) -> Self {
        let state = SecretState { current: Arc::new(secret), former: VecDeque::new(), version: 0 };
        Self(Arc::new(SharedSecret { state: RwLock::new(state), refusals: Notify::new() }))
    }

    /// The secret to log in with now.
    pub fn current(&self) -> Arc<SecretString> {
        self.read().current.clone()
    }

    /// Replaces the secret and remembers the former one. False if `secret` is already the current
    /// one.
    pub fn replace(&self, secret: SecretString) -> bool {
        let mut state = self.write();
        if state.current.expose_secret() == secret.expose_secret() {
            return false;
        }
        state.former.retain(|former| former.expose_secret() != secret.expose_secret());
        let replaced = std::mem::replace(&mut state.current, Arc::new(secret));
        state.former.push_front(replaced);
        state.former.truncate(MAX_FORMER_SECRETS);
        state.version += 1;
        true
    }

    /// Reports that the provider refused the current secret. Wakes [`Secret::wait_for_refusal`].
    pub fn report_refusal(&self) {
        self.0.refusals.notify_one();
    }

    /// Waits until a refusal is reported. Returns immediately if one was reported since the last
    /// call.
    pub async fn wait_for_refusal(&self) {
        self.0.refusals.notified().await;
    }

    /// Increments with every replacement.
    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    /// The current and the former secrets, which must all be redacted, and the version.
    pub(crate) fn all(&self) -> (u64, Vec<Arc<SecretString>>) {
        let state = self.read();
        (state.version, std::iter::once(&state.current).chain(&state.former).cloned().collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, SecretState> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SecretState> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
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
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures;

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

    /// Also finds the secret inside Basic authentication.
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
    async fn refunds_and_lookups_use_a_replaced_secret_from_the_next_request_on(
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
    async fn a_current_and_a_former_secret_are_redacted() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n-18\nNot old-secret and not new-secret, please.";
        let server = ScriptedServer::start(Script::Send(answer)).await;
        let (login, target) = sectigo();
        let account = fixtures::account(&server, login);
        account.secret.replace(NEW.into());
        let outcome = account.refunds.refund(&fixtures::intent("r-1", target), None).await.outcome;
        let Outcome::Refused { error, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(error.message.trim_end(), "Not *** and not ***, please.");
    }

    fn known(secret: &Secret) -> Vec<String> {
        secret.all().1.iter().map(|known| known.expose_secret().to_owned()).collect()
    }

    #[test]
    fn a_limited_number_of_former_secrets_is_kept() {
        let secret = Secret::new("s-0".into());
        assert!(!secret.replace("s-0".into()), "the same secret changes nothing");
        assert_eq!((secret.version(), known(&secret)), (0, vec!["s-0".to_owned()]));
        for number in 1..20 {
            assert!(secret.replace(format!("s-{number}").into()));
            assert_eq!(secret.current().expose_secret(), format!("s-{number}"));
        }
        assert_eq!(known(&secret), (11..20).rev().map(|number| format!("s-{number}")).collect::<Vec<_>>());
        assert!(secret.replace("s-18".into()), "a former secret may become current again");
        assert_eq!(known(&secret).iter().filter(|known| *known == "s-18").count(), 1);
        assert!(!format!("{secret:?}").contains("s-"), "{secret:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn reported_refusals_wake_one_waiter_once() {
        let secret = Secret::new("s".into());
        secret.clone().report_refusal();
        secret.report_refusal();
        secret.wait_for_refusal().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), secret.wait_for_refusal()).await;
        assert!(again.is_err(), "two refusals of one secret need only one reload of its file");
    }
}
