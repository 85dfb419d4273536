//! Callers: what each may do, what it sees of others, and how its right ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use recoup::access::scope::{Requirement, Scope};
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use rstest::rstest;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::process::Gateway;
use crate::support::{
    LIMIT, Stack, channel, configuration, debitsuccess, metadata, namecom, reason, sectigo, simulators_in,
    with_settings, without_wait,
};

pub(crate) type Bearer = InterceptedService<Channel, fn_type::AddToken>;

/// An interceptor that has a name.
mod fn_type {
    use super::{Ascii, MetadataValue, Request, Status};

    #[derive(Clone)]
    pub(crate) struct AddToken(pub(super) Vec<MetadataValue<Ascii>>);

    impl tonic::service::Interceptor for AddToken {
        fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
            for value in &self.0 {
                request.metadata_mut().append("authorization", value.clone());
            }
            Ok(request)
        }
    }
}

/// The text of an access file, and the tokens of its callers.
pub(crate) struct AccessText {
    pub(crate) text: String,
    dir: TempDir,
}

impl AccessText {
    pub(crate) fn new() -> Self {
        Self { text: String::new(), dir: tempfile::tempdir().unwrap() }
    }

    /// Adds a caller with these further lines. Returns its token.
    pub(crate) fn caller(&mut self, name: &str, lines: &str) -> String {
        let token = Token::generate().ok().unwrap();
        let hash = token.hash().hex();
        self.text += &format!("[callers.{name}]\ntokens = [{{ id = \"{name}-1\", sha256 = \"{hash}\" }}]\n{lines}\n");
        token.expose_secret().to_owned()
    }

    /// Adds a caller with all scopes at these accounts.
    fn full(&mut self, name: &str, accounts: &str) -> String {
        let scopes = scopes(Scope::ALL);
        self.caller(name, &format!("scopes = {scopes}\naccounts = {accounts}"))
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("access.toml")
    }

    fn write(&self) {
        std::fs::write(self.path(), &self.text).unwrap();
    }

    /// The setting that names the file, which is written.
    pub(crate) fn setting(&self) -> String {
        self.write();
        format!("access.file = \"{}\"\n", self.path().display())
    }
}

fn scopes(scopes: impl IntoIterator<Item = Scope>) -> String {
    let names: Vec<String> = scopes.into_iter().map(|scope| format!("{:?}", scope.as_str())).collect();
    format!("[{}]", names.join(", "))
}

pub(crate) fn bearer(channel: Channel, headers: &[&str]) -> Bearer {
    let headers = headers.iter().map(|header| header.parse().unwrap()).collect();
    InterceptedService::new(channel, fn_type::AddToken(headers))
}

async fn connection(stack: &Stack, token: &str) -> Bearer {
    bearer(channel(stack.app.addr()).await, &[&format!("Bearer {token}")])
}

pub(crate) async fn refunds(stack: &Stack, token: &str) -> RefundServiceClient<Bearer> {
    RefundServiceClient::new(connection(stack, token).await)
}

/// Everything of a status that reaches a caller.
fn bytes(status: &Status) -> (Code, String, Vec<u8>) {
    (status.code(), status.message().to_owned(), status.details().to_vec())
}

/// Every method of the contract, as its path and whether its answer is a stream.
fn methods() -> Vec<(String, bool)> {
    let set = FileDescriptorSet::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/recoup_descriptors.bin"))[..]);
    let mut methods = Vec::new();
    for file in set.unwrap().file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.push((path, method.server_streaming()));
            }
        }
    }
    assert!(methods.len() > 10);
    methods
}

/// Calls a method with an empty message.
async fn call(channel: &Bearer, path: &str, is_stream: bool) -> Option<Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = path.parse().unwrap();
    match is_stream {
        true => grpc.server_streaming(Request::new(()), path, codec).await.err(),
        false => grpc.unary(Request::new(()), path, codec).await.err(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_needs_a_credential_and_its_scope() {
    let mut access = AccessText::new();
    let rate = "accounts = [\"*\"]\nrate = { calls_per_second = 10000, burst = 10000 }";
    let tokens: Vec<(Scope, String, String)> = Scope::ALL
        .into_iter()
        .map(|scope| {
            let name = scope.as_str().replace(':', "-");
            let others = Scope::ALL.into_iter().filter(|other| *other != scope);
            let only = access.caller(&format!("only-{name}"), &format!("scopes = {}\n{rate}", scopes([scope])));
            let without = access.caller(&format!("without-{name}"), &format!("scopes = {}\n{rate}", scopes(others)));
            (scope, only, without)
        })
        .collect();
    let stack = Stack::start_with(&access.setting()).await;
    let anonymous = bearer(channel(stack.app.addr()).await, &[]);
    let mut seen = BTreeSet::new();
    let methods = methods();
    // All at once: one after the other they would be slowed down.
    let without_credential = methods.iter().map(|(path, is_stream)| call(&anonymous, path, *is_stream));
    let without_credential = join_all(without_credential).await;
    for ((path, is_stream), refused) in methods.into_iter().zip(without_credential) {
        let Some(Requirement::Scope(scope)) = Requirement::of(&path) else { panic!("{path} needs no scope") };
        seen.insert(scope);
        let (_, only, without) = tokens.iter().find(|(one, ..)| *one == scope).unwrap();
        let refused = refused.unwrap();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unauthenticated, "CREDENTIALS_MISSING"),
            "{path}"
        );
        let refused = call(&connection(&stack, without).await, &path, is_stream).await.unwrap();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"), "{path}");
        assert_eq!(metadata(&refused, "scope"), scope.as_str(), "{path}");
        if let Some(status) = call(&connection(&stack, only).await, &path, is_stream).await {
            // An empty message is wrong, and this gateway signs no checkpoints.
            assert!(["INVALID_REQUEST", "NOT_OFFERED"].contains(&reason(&status).as_str()), "{path}: {status:?}");
        }
    }
    assert!(seen.len() >= 9, "{seen:?}");
    // Another method of the server's own services is refused like one that does not exist.
    let (_, any, _) = &tokens[0];
    let refused = call(&connection(&stack, any).await, "/recoup.v1.RefundService/DeleteRefund", false).await.unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unimplemented, "NOT_OFFERED"));
    let refused = call(&anonymous, "/recoup.v1.RefundService/DeleteRefund", false).await.unwrap();
    assert_eq!(reason(&refused), "CREDENTIALS_MISSING");
    // A probe of a supervisor has no credential; reflection takes any caller's.
    assert!(call(&anonymous, "/grpc.health.v1.Health/Check", false).await.is_none());
    assert!(call(&anonymous, "/grpc.health.v1.Health/Watch", true).await.is_none());
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(reason(&call(&anonymous, reflection, true).await.unwrap()), "CREDENTIALS_MISSING");
    assert!(call(&connection(&stack, any).await, reflection, true).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_credential_gets_one_answer_whatever_is_wrong_with_it() {
    let mut access = AccessText::new();
    let token = access.full("shop", "[\"*\"]");
    let expired = access.full("late", "[\"*\"]");
    access.text = access.text.replace("\" }]\nscopes", "\", expires = \"2020-01-01T00:00:00Z\" }]\nscopes");
    access.text = access.text.replacen(", expires = \"2020-01-01T00:00:00Z\"", "", 1);
    let stack = Stack::start_with(&access.setting()).await;
    let unknown = Token::generate().ok().unwrap().expose_secret().to_owned();
    let mistyped = token.replace('_', "-");
    let wrong = [
        format!("Bearer {unknown}"),
        format!("Bearer {expired}"),
        format!("Bearer {mistyped}"),
        format!("Basic {token}"),
        token.clone(),
        "Bearer ".to_owned(),
    ];
    let mut answers = BTreeSet::new();
    for header in &wrong {
        let channel = bearer(channel(stack.app.addr()).await, &[header]);
        let refused = call(&channel, "/recoup.v1.AccountService/ListAccounts", false).await.unwrap();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
        answers.insert(format!("{:?}", bytes(&refused)));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let header = format!("Bearer {token}");
    let twice = bearer(channel(stack.app.addr()).await, &[&header, &header]);
    let refused = call(&twice, "/recoup.v1.AccountService/ListAccounts", false).await.unwrap();
    assert_eq!(reason(&refused), "CREDENTIALS_MISSING");
    let lower_case = bearer(channel(stack.app.addr()).await, &[&format!("bearer {token}")]);
    assert!(call(&lower_case, "/recoup.v1.AccountService/ListAccounts", false).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_wrong_credentials_slow_their_connection_down_and_no_valid_credential() {
    let mut access = AccessText::new();
    let token = access.full("shop", "[\"*\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let known = connection(&stack, &token).await;
    const LIST: &str = "/recoup.v1.AccountService/ListAccounts";
    assert!(call(&known, LIST, false).await.is_none());
    let unknown = Token::generate().ok().unwrap().expose_secret().to_owned();
    let attacker = connection(&stack, &unknown).await;
    for _ in 0..11 {
        assert_eq!(reason(&call(&attacker, LIST, false).await.unwrap()), "CREDENTIALS_INVALID");
    }
    // Each of these takes a second; the others' calls do not wait for that.
    let wrong = async {
        for _ in 0..10 {
            call(&attacker, LIST, false).await;
        }
    };
    let right = async {
        for _ in 0..3 {
            let newcomer = connection(&stack, &token).await;
            assert!(call(&newcomer, LIST, false).await.is_none(), "a new connection from the same address");
            assert!(call(&known, LIST, false).await.is_none());
            let probe = bearer(channel(stack.app.addr()).await, &[]);
            assert!(call(&probe, "/grpc.health.v1.Health/Check", false).await.is_none());
        }
    };
    tokio::select! {
        () = wrong => panic!("wrong credentials are as fast as right ones"),
        () = right => {}
    }
    // A known connection is not slowed down: behind it may be many callers.
    let mixed = channel(stack.app.addr()).await;
    assert!(call(&bearer(mixed.clone(), &[&format!("Bearer {token}")]), LIST, false).await.is_none());
    let others = async {
        for _ in 0..100 {
            let refused = call(&bearer(mixed.clone(), &[&format!("Bearer {unknown}")]), LIST, false).await;
            assert_eq!(reason(&refused.unwrap()), "CREDENTIALS_INVALID");
        }
    };
    tokio::time::timeout(LIMIT, others).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_wrong_credentials_slow_no_one_down() {
    let mut access = AccessText::new();
    let token = access.full("shop", "[\"*\"]");
    let listener = "[listeners.proxied]\naddress = \"127.0.0.1:0\"\nconnections_per_source = 0\n";
    let stack = Stack::start_with(&format!("{}{listener}", access.setting())).await;
    let addr = stack.app.listener_addr("proxied").unwrap();
    let unknown = Token::generate().ok().unwrap().expose_secret().to_owned();
    const LIST: &str = "/recoup.v1.AccountService/ListAccounts";
    let attacker = bearer(channel(addr).await, &[&format!("Bearer {unknown}")]);
    let wrong = async {
        for _ in 0..100 {
            assert_eq!(reason(&call(&attacker, LIST, false).await.unwrap()), "CREDENTIALS_INVALID");
        }
    };
    tokio::time::timeout(LIMIT, wrong).await.unwrap();
    assert!(call(&bearer(channel(addr).await, &[&format!("Bearer {token}")]), LIST, false).await.is_none());
}

/// What each call that names a refund answers to a caller.
async fn answers_about(stack: &Stack, token: &str, id: &str) -> Vec<(&'static str, (Code, String, Vec<u8>))> {
    let mut client = refunds(stack, token).await;
    let name = format!("refunds/{id}");
    let etag = "1-1".to_owned();
    let evidence = "ticket 7".to_owned();
    let mut answers = Vec::new();
    let mut note = |call, result: Option<Status>| answers.push((call, bytes(&result.unwrap())));
    let request = proto::GetRefundRequest { name: name.clone() };
    note("Get", client.get_refund(request).await.err());
    let request = proto::WaitRefundRequest { name: name.clone(), ..Default::default() };
    note("Wait", client.wait_refund(request).await.err());
    let request = proto::CancelRefundRequest { name: name.clone(), ..Default::default() };
    note("Cancel", client.cancel_refund(request).await.err());
    let request = proto::CancelRefundRequest { name: name.clone(), etag: etag.clone() };
    note("Cancel at an etag", client.cancel_refund(request).await.err());
    let request = proto::ReconcileRefundRequest { name: name.clone() };
    note("Reconcile", client.reconcile_refund(request).await.err());
    for resolution in 1..=3 {
        let (name, etag, evidence) = (name.clone(), etag.clone(), evidence.clone());
        let request = proto::ResolveRefundRequest { name, etag, evidence, resolution, ..Default::default() };
        note("Resolve", client.resolve_refund(request).await.err());
    }
    for account in ["debitsuccess", "sectigo", "nowhere"] {
        let (name, etag, evidence) = (name.clone(), etag.clone(), evidence.clone());
        let request = proto::ReassignRefundRequest { name, etag, evidence, account: account.to_owned() };
        note("Reassign", client.reassign_refund(request).await.err());
    }
    for etag in ["1-1", "x"] {
        let (name, etag, comment) = (name.clone(), etag.to_owned(), "no".to_owned());
        let request = proto::ApproveRefundRequest { name: name.clone(), etag: etag.clone(), comment: comment.clone() };
        note("Approve", client.approve_refund(request).await.err());
        note("Reject", client.reject_refund(proto::RejectRefundRequest { name, etag, comment }).await.err());
    }
    let request = proto::ListRefundEventsRequest { name, ..Default::default() };
    note("ListRefundEvents", client.list_refund_events(request).await.err());
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_of_another_account_is_byte_for_byte_like_none() {
    let mut access = AccessText::new();
    let all = access.full("all", "[\"*\"]");
    let cards = access.full("cards", "[\"debitsuccess\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let before = answers_about(&stack, &cards, "hidden").await;
    assert!(before.iter().all(|(_, (code, ..))| *code == Code::NotFound), "{before:#?}");
    refunds(&stack, &all).await.create_refund(sectigo("hidden", "1000001")).await.unwrap();
    assert_eq!(answers_about(&stack, &cards, "hidden").await, before);
    // The caller who asked for it sees it.
    let request = proto::GetRefundRequest { name: "refunds/hidden".to_owned() };
    let seen = refunds(&stack, &all).await.get_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(seen.created_by, "all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_others_is_byte_for_byte_like_none() {
    let mut access = AccessText::new();
    let cards = access.full("cards", "[\"debitsuccess\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let (mut client, channel) = (refunds(&stack, &cards).await, connection(&stack, &cards).await);
    let mut accounts = AccountServiceClient::new(channel.clone());
    let mut validation = ValidationStatusServiceClient::new(channel);
    let mut answers = Vec::new();
    // Names of one length: a longer one would change a length in the details.
    for account in ["sectigo", "missing"] {
        let mut of_account = Vec::new();
        let mut note = |refused: Option<Status>| {
            let (code, message, details) = bytes(&refused.unwrap());
            let hide = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(account, "ACCOUNT");
            of_account.push((code, hide(message.as_bytes()), hide(&details)));
        };
        for validate_only in [false, true] {
            let request =
                proto::CreateRefundRequest { account: account.to_owned(), validate_only, ..sectigo("one", "1000001") };
            note(client.create_refund(request).await.err());
        }
        let (account, order_number) = (account.to_owned(), "3000001".to_owned());
        note(accounts.probe_account(proto::ProbeAccountRequest { account: account.clone() }).await.err());
        let request = proto::PauseAccountRequest { account: account.clone(), reason: "ticket 7".to_owned() };
        note(accounts.pause_account(request).await.err());
        note(accounts.resume_account(proto::ResumeAccountRequest { account: account.clone() }).await.err());
        let request = proto::GetValidationStatusRequest {
            account: account.clone(),
            order_number: order_number.clone(),
            include_upload_token: true,
            ..Default::default()
        };
        note(validation.get_validation_status(request).await.err());
        let request = proto::WatchValidationStatusRequest { account, order_number, ..Default::default() };
        let refused = match validation.watch_validation_status(request).await {
            Ok(stream) => stream.into_inner().message().await.err(),
            Err(status) => Some(status),
        };
        note(refused);
        answers.push(of_account);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].iter().all(|(code, ..)| *code == Code::NotFound), "{answers:#?}");
    let listed = accounts.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner().accounts;
    assert_eq!(listed.iter().map(|account| account.account.as_str()).collect::<Vec<_>>(), ["debitsuccess"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_another_account_is_taken_and_says_nothing_more() {
    let mut access = AccessText::new();
    let all = access.full("all", "[\"*\"]");
    let cards = access.full("cards", "[\"debitsuccess\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let mut all = refunds(&stack, &all).await;
    let mut cards = refunds(&stack, &cards).await;
    all.create_refund(sectigo("Hidden", "1000001")).await.unwrap();
    let mut answers = BTreeSet::new();
    let same = sectigo("Hidden", "1000001");
    for (request, validate_only) in [
        (same.clone(), false),
        (same, true),
        (debitsuccess("Hidden", "DS000001", 1250), false),
        (debitsuccess("Hidden", "DS000001", 1250), true),
        (debitsuccess("Hidden", "DS000002", 1), false),
    ] {
        let refused = cards.create_refund(proto::CreateRefundRequest { validate_only, ..request }).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "REFUND_ID_REUSED"));
        assert_eq!(metadata(&refused, "differing_fields"), "");
        answers.insert(format!("{:?}", bytes(&refused)));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let in_another_case = cards.create_refund(debitsuccess("hidden", "DS000001", 1250)).await.unwrap_err();
    let text = format!("{} {:?}", in_another_case.message(), String::from_utf8_lossy(in_another_case.details()));
    assert!(!text.contains("Hidden"), "the other caller's id as it was written: {text}");
    assert_eq!(stack.effects("DS000001"), 0);
    // A replay of its own is a replay.
    cards.create_refund(debitsuccess("own", "DS000001", 1250)).await.unwrap();
    assert!(cards.create_refund(debitsuccess("own", "DS000001", 1250)).await.unwrap().into_inner().replayed);
    let refused = cards.create_refund(debitsuccess("own", "DS000001", 1251)).await.unwrap_err();
    assert_eq!(metadata(&refused, "differing_fields"), "debitsuccess.amount");
}

/// Two accounts of one login: a target that one has refunded is taken at the other one too.
fn with_a_second_sectigo(configuration: &str) -> String {
    let start = configuration.find("[accounts.sectigo]").unwrap();
    let section = &configuration[start..];
    let end = section[1..].find("[accounts").map_or(section.len(), |end| end + 1);
    format!("{configuration}\n{}", section[..end].replace("[accounts.sectigo]", "[accounts.certificates]"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_in_the_way_is_named_only_to_who_may_see_it() {
    let mut access = AccessText::new();
    let all = access.full("all", "[\"*\"]");
    let second = access.full("second", "[\"certificates\"]");
    let setting = access.setting();
    let change = |configuration: String| with_a_second_sectigo(&with_settings(&configuration, &setting));
    let stack = Stack::start_as(change).await;
    refunds(&stack, &all).await.create_refund(sectigo("first", "1000001")).await.unwrap();
    let request = proto::CreateRefundRequest { account: "certificates".to_owned(), ..sectigo("next", "1000001") };
    for validate_only in [false, true] {
        let request = proto::CreateRefundRequest { validate_only, ..request.clone() };
        let named = refunds(&stack, &all).await.create_refund(request.clone()).await.unwrap_err();
        assert_eq!(reason(&named), "TARGET_HAS_REFUND");
        assert_eq!(metadata(&named, "conflicting_refund"), "refunds/first");
        let hidden = refunds(&stack, &second).await.create_refund(request).await.unwrap_err();
        assert_eq!((hidden.code(), reason(&hidden)), (named.code(), reason(&named)));
        assert_eq!(metadata(&hidden, "conflicting_refund"), "");
        let text = format!("{} {}", hidden.message(), String::from_utf8_lossy(hidden.details()));
        assert!(!text.contains("first"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_streams_hold_only_what_the_caller_may_see() {
    let mut access = AccessText::new();
    let all = access.full("all", "[\"*\"]");
    let cards = access.full("cards", "[\"debitsuccess\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let mut client = refunds(&stack, &all).await;
    client.create_refund(sectigo("hidden", "1000001")).await.unwrap();
    client.create_refund(debitsuccess("seen", "DS000001", 1250)).await.unwrap();
    client.create_refund(namecom("hidden-too", 200_001, &[3_200_001])).await.unwrap();
    let mut cards = refunds(&stack, &cards).await;
    let ids = |answer: proto::ListRefundsResponse| -> Vec<String> {
        assert_eq!(answer.next_page_token, "");
        answer.refunds.into_iter().map(|refund| refund.refund_id).collect()
    };
    let list = |account: &str| {
        let filter = proto::RefundFilter { account: account.to_owned(), ..Default::default() };
        proto::ListRefundsRequest { filter: Some(filter), ..Default::default() }
    };
    assert_eq!(ids(cards.list_refunds(list("")).await.unwrap().into_inner()), ["seen"]);
    assert_eq!(ids(cards.list_refunds(list("sectigo")).await.unwrap().into_inner()), Vec::<String>::new());
    assert_eq!(ids(client.list_refunds(list("")).await.unwrap().into_inner()).len(), 3);
    let events = |mut client: RefundServiceClient<Bearer>, count: usize| async move {
        let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
        let mut stream = client.stream_refund_events(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while events.len() < count {
            events.push(stream.message().await.unwrap().unwrap().event.unwrap());
        }
        events
    };
    let every = tokio::time::timeout(LIMIT, events(client.clone(), 9)).await.unwrap();
    assert!(every.iter().all(|event| event.chain_hash.len() == 32));
    let own: Vec<i64> =
        every.iter().filter(|event| event.refund == "refunds/seen").map(|event| event.sequence).collect();
    // A refund that is recorded while the stream is open comes through it, and the one before not.
    client.create_refund(sectigo("hidden-three", "1000002")).await.unwrap();
    client.create_refund(without_wait(debitsuccess("seen-too", "DS000002", 1300))).await.unwrap();
    let visible = tokio::time::timeout(LIMIT, events(cards.clone(), own.len() + 1)).await.unwrap();
    let (last, first) = visible.split_last().unwrap();
    assert_eq!(first.iter().map(|event| event.sequence).collect::<Vec<_>>(), own);
    assert_eq!(last.refund, "refunds/seen-too");
    assert!(visible.iter().all(|event| event.chain_hash.is_empty()), "it would prove nothing");
    let request = proto::ListRefundEventsRequest { name: "refunds/seen".to_owned(), ..Default::default() };
    let history = cards.list_refund_events(request).await.unwrap().into_inner().events;
    assert!(history.iter().all(|event| event.chain_hash.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_names_the_caller_its_credential_and_the_access_file() {
    let mut access = AccessText::new();
    let shop = access.full("shop", "[\"*\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let mut client = refunds(&stack, &shop).await;
    client.create_refund(sectigo("one", "1000001")).await.unwrap();
    let request = proto::ListRefundEventsRequest { name: "refunds/one".to_owned(), ..Default::default() };
    let events = client.list_refund_events(request).await.unwrap().into_inner().events;
    let policy = recoup::access::AccessPolicy::parse(&access.text).unwrap().name();
    let created = &events[0];
    assert_eq!((created.actor.as_str(), created.credential.as_str()), ("shop", "token:shop-1"));
    assert_eq!(created.policy, policy);
    let answered = events.last().unwrap();
    assert_eq!((answered.actor.as_str(), answered.credential.as_str(), answered.policy.as_str()), ("gateway", "", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_above_its_rate_learns_when_to_come_back_and_others_are_not_affected() {
    let mut access = AccessText::new();
    let rate = "scopes = [\"accounts:read\", \"refunds:read\"]\naccounts = [\"*\"]\nrate = { calls_per_second = 1, burst = 2 }";
    let slow = access.caller("slow", rate);
    let other = access.caller("other", rate);
    let stack = Stack::start_with(&access.setting()).await;
    let slow = connection(&stack, &slow).await;
    const LIST: &str = "/recoup.v1.AccountService/ListAccounts";
    assert!(call(&slow, LIST, false).await.is_none());
    assert!(call(&slow, LIST, false).await.is_none());
    let refused = call(&slow, LIST, false).await.unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(metadata(&refused, "limit"), "calls_per_second");
    let details = refused.get_error_details();
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(1), "{delay:?}");
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "caller:slow");
    assert!(call(&connection(&stack, &other).await, LIST, false).await.is_none());
    assert!(call(&slow, "/grpc.health.v1.Health/Check", false).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_token_needs_a_scope_of_its_own() {
    let mut access = AccessText::new();
    let reader = access.caller("reader", "scopes = [\"validation:read\"]\naccounts = [\"*\"]");
    let stack = Stack::start_with(&access.setting()).await;
    let mut client = ValidationStatusServiceClient::new(connection(&stack, &reader).await);
    let request = |account: &str, include_upload_token| proto::GetValidationStatusRequest {
        account: account.to_owned(),
        order_number: "3000001".to_owned(),
        include_upload_token,
        ..Default::default()
    };
    client.get_validation_status(request("sectigo", false)).await.unwrap();
    // It depends on caller and method alone, never on an object.
    for account in ["sectigo", "missing"] {
        let refused = client.get_validation_status(request(account, true)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
        assert_eq!(metadata(&refused, "scope"), "validation:token");
    }
}

/// A gateway as a process, on `access`.
async fn gateway(dir: &Path, access: &AccessText) -> (simulators::Simulators, Gateway) {
    let simulators = simulators_in(dir).await;
    let path = dir.join("recoup.toml");
    std::fs::write(&path, configuration(&simulators, dir, &access.setting())).unwrap();
    (simulators, Gateway::start(&path))
}

/// Calls until the answer has this reason, or none.
async fn until_answered(channel: &Bearer, expected: Option<&str>) {
    let poll = async {
        loop {
            let refused = call(channel, "/recoup.v1.AccountService/ListAccounts", false).await;
            if refused.as_ref().map(reason).as_deref() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.unwrap();
}

#[rstest]
#[case::removed("shop", "CREDENTIALS_INVALID")]
#[case::scope("scope", "SCOPE_MISSING")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_ends_is_refused_on_the_old_connection_and_ends_its_streams(
    #[case] what: &str,
    #[case] expected: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let mut access = AccessText::new();
    let other = access.full("other", "[\"*\"]");
    let without_shop = access.text.clone();
    let shop = access.full("shop", "[\"*\"]");
    let (_simulators, gateway) = gateway(dir.path(), &access).await;
    let old = bearer(channel(gateway.addr).await, &[&format!("Bearer {shop}")]);
    let known = bearer(channel(gateway.addr).await, &[&format!("Bearer {other}")]);
    let stream = |channel: &Bearer| {
        let mut client = RefundServiceClient::new(channel.clone());
        async move {
            let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
            client.stream_refund_events(request).await.unwrap().into_inner()
        }
    };
    let (mut ending, mut staying) = (stream(&old).await, stream(&known).await);
    let before = access.text.clone();
    access.text = match what {
        "shop" => without_shop,
        _ => {
            let (first, second) = before.split_at(without_shop.len());
            format!("{first}{}", second.replace("\"accounts:read\", ", "").replace("\"events:read\", ", ""))
        }
    };
    access.write();
    gateway.signal("HUP");
    until_answered(&old, Some(expected)).await;
    let end = tokio::time::timeout(LIMIT, ending.message()).await.unwrap().unwrap_err();
    assert_eq!(reason(&end), expected);
    until_answered(&known, None).await;
    // A broken file changes nothing, and what follows does.
    std::fs::write(access.path(), "[callers.other]\nscope = []\n").unwrap();
    gateway.signal("HUP");
    std::fs::write(access.path(), &before).unwrap();
    gateway.signal("HUP");
    until_answered(&old, None).await;
    // The other caller's stream has lasted through all of it.
    RefundServiceClient::new(known.clone()).create_refund(without_wait(sectigo("one", "1000001"))).await.unwrap();
    let event = tokio::time::timeout(LIMIT, staying.message()).await.unwrap().unwrap().unwrap().event.unwrap();
    assert_eq!(event.refund, "refunds/one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_accounts_end_a_stream_so_that_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut access = AccessText::new();
    let shop = access.full("shop", "[\"*\"]");
    let (_simulators, gateway) = gateway(dir.path(), &access).await;
    let mut client = RefundServiceClient::new(bearer(channel(gateway.addr).await, &[&format!("Bearer {shop}")]));
    let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
    let mut stream = client.stream_refund_events(request).await.unwrap().into_inner();
    access.text = access.text.replace("[\"*\"]", "[\"sectigo\"]");
    access.write();
    gateway.signal("HUP");
    let end = tokio::time::timeout(LIMIT, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_wrong_access_file_names_every_error() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let file = dir.path().join("access.toml");
    std::fs::write(&file, "[callers.a]\nscope = []\n[accounts.nowhere.limits]\n").unwrap();
    let setting = format!("access.file = \"{}\"\n", file.display());
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, configuration(&simulators, dir.path(), &setting)).unwrap();
    let output = crate::support::process::run(&["serve", "--config", config.to_str().unwrap()]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("line 2: callers.a.scope: is not a key"), "{log}");
}
