//! Marked secrets and caller texts on every path through the gateway, searched for afterwards in
//! everything that it wrote: log, spans, metrics, errors, answers, ledger, command line.
//!
//! Each secret contains the word `canary`, which must be nowhere. Texts of callers contain
//! `nightingale`: the ledger stores them and answers return them, and they must be nowhere else.
//! Nothing else contains either word.
//!
//! One [`hostile`] server plays all three providers.

mod hostile;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use recoup::access::scope::Scope;
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::audit_service_client::AuditServiceClient;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::Resolution;
use recoup::proto::v1::validation_status::OrderState;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use recoup::telemetry::{self, LogFormat, TelemetrySettings};
use simulators::request::Provider;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use self::hostile::{Hostile, LAST_MOODS, MOODS, Mood, PERSONS_ORDER};
use crate::support::process::run;
use crate::support::{LIMIT, channel, configuration_at, debitsuccess, namecom, sectigo, wait_until};
use crate::telemetry::{Collector, Log, launch, scrape};

/// In every secret.
const MARK: &str = "canary";
/// In every text of a caller.
const CALLER_MARK: &str = "nightingale";
/// A person whom the providers mention. Answers and the ledger contain the name, but no log, span
/// or metric.
const PERSON: &str = "Lovelace";
/// With characters that the encodings on the way change: forms, XML, JSON, Base64.
const PASSWORD: &str = "canary pass&w<rd>\"+%41";
const TOKEN: &str = "canary-token&<\"+";
/// Texts of callers that the ledger stores.
const DESCRIPTION: &str = "nightingale of the description";
const INITIATOR: &str = "nightingale of the initiator";
const LABEL_KEY: &str = "nightingale of the key";
const LABEL: &str = "nightingale of the label";
const EVIDENCE: &str = "nightingale of the evidence";
/// Neither a name, nor an etag, nor a token.
const WRONG: &str = "nightingale, and no name";
/// The metadata of every call. The gateway reads only the ids and flags of the trace. (There is no
/// `tracestate`: it is meant to be passed on, and the collector receives it.)
const METADATA: [(&str, &str); 4] = [
    ("baggage", "person=canary-baggage"),
    ("cookie", "session=canary-cookie"),
    ("x-api-key", "canary-api-key"),
    // Of a future version, which may have more fields.
    ("traceparent", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-canary-traceparent"),
];
/// Every call of the contract.
const CALLS: [&str; 14] = [
    "AccountService/ListAccounts",
    "AccountService/ProbeAccount",
    "AuditService/GetCheckpoint",
    "RefundService/CancelRefund",
    "RefundService/CreateRefund",
    "RefundService/GetRefund",
    "RefundService/ListRefundEvents",
    "RefundService/ListRefunds",
    "RefundService/ReconcileRefund",
    "RefundService/ResolveRefund",
    "RefundService/StreamRefundEvents",
    "RefundService/WaitRefund",
    "ValidationStatusService/GetValidationStatus",
    "ValidationStatusService/WatchValidationStatus",
];
/// How many refunds are requested until one has the wanted state: on a busy machine an answer may
/// be lost, which leads to doubt.
const MAX_TRIES: u32 = 10;

/// What the gateway wrote, with the place of each text.
#[derive(Default)]
struct Written {
    /// What must not contain texts of callers: log, spans, metrics, errors, most of the command
    /// line.
    public: Vec<(String, String)>,
    /// Answers and the ledger, which contain texts of callers.
    kept: Vec<(String, String)>,
}

impl Written {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.public.push((place.into(), text.into()));
    }

    fn keep(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.kept.push((place.into(), text.into()));
    }

    fn add_output(&mut self, place: &str, output: &Output) {
        self.add(place, text_of(output));
    }

    /// The error as a program reads it, and its details as text.
    fn add_refusal(&mut self, call: &str, refusal: &Status) {
        let details = String::from_utf8_lossy(refusal.details());
        self.add(format!("the error of {call}"), format!("{refusal:?} {details}"));
    }

    /// No text contains a secret, plain or in Base64, and texts of callers are only where they
    /// belong.
    fn is_clean(&self) {
        // Whole groups of three bytes, so that the following bytes do not matter.
        let encoded: Vec<String> = [
            STANDARD.encode("demo-test:canary-token"),
            STANDARD.encode("demo-test:canary-t"),
            STANDARD.encode(MARK),
            STANDARD.encode(PASSWORD),
        ]
        .iter()
        .map(|text| text.trim_end_matches('=').to_owned())
        .map(|text| text[..text.len() - text.len() % 4].to_owned())
        .collect();
        for (place, text) in self.public.iter().chain(&self.kept) {
            let lower = text.to_lowercase();
            assert!(!lower.contains(MARK), "{place} contains a secret: {}", around(&lower, MARK));
            for form in &encoded {
                assert!(!text.contains(form), "{place} contains a secret in Base64");
            }
        }
        for (place, text) in &self.public {
            assert!(!text.contains(CALLER_MARK), "{place} repeats a text of a caller: {}", around(text, CALLER_MARK));
        }
    }

    /// The texts of callers were stored, so the search could have found them.
    fn keeps_texts_of_callers(&self) {
        for text_of_caller in [DESCRIPTION, INITIATOR, LABEL_KEY, LABEL, EVIDENCE] {
            assert!(self.kept.iter().any(|(_, text)| text.contains(text_of_caller)), "{text_of_caller} is missing");
        }
    }
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// The surroundings of a match in a long text.
fn around(text: &str, what: &str) -> String {
    let (before, after) = text.split_once(what).unwrap();
    let before: Vec<char> = before.chars().rev().take(300).collect();
    format!("...{}{what}{}...", before.iter().rev().collect::<String>(), after.chars().take(60).collect::<String>())
}

fn hostile_configuration(hostile: SocketAddr, collector: SocketAddr, dir: &Path) -> String {
    let settings = format!(
        "traces.endpoint = \"http://{collector}\"\nmetrics.listen = \"127.0.0.1:0\"\nlog.filter = \"trace\"\n\
         engine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 5000\nengine.circuit_failures = 1000000\n\
         engine.circuit_foreign_targets = 10000\nengine.circuit_pause_min_ms = 20\nengine.circuit_pause_max_ms = 40\n\
         validation.watch_interval_min_ms = 50\n{}",
        access_setting(dir)
    );
    let text = configuration_at(hostile, hostile, hostile, dir, &settings).replace("https://", "http://");
    let lines = text.lines().filter(|line| !line.starts_with("ca_file"));
    lines
        .map(|line| match line.starts_with("provider =") {
            true => format!(
                "{line}\ntotal_timeout_ms = 300\nmax_in_flight = 64\nrequests_per_second = 0\nrequests_per_hour = 0\n"
            ),
            false => format!("{line}\n"),
        })
        .collect()
}

fn request(provider: Provider, number: u32) -> proto::CreateRefundRequest {
    let id = format!("r-{provider:?}-{number}").to_lowercase();
    let mut request = match provider {
        Provider::Sectigo => sectigo(&id, &format!("{}", 1_000_000 + number)),
        Provider::Namecom => {
            namecom(&id, i32::try_from(200_000 + number).unwrap(), &[i32::try_from(3_200_000 + number).unwrap()])
        }
        Provider::Debitsuccess => debitsuccess(&id, &format!("DS{number:06}"), 1250),
    };
    if let Some(Target::Debitsuccess(target)) = &mut request.target {
        target.description = DESCRIPTION.to_owned();
        target.request_initiator = INITIATOR.to_owned();
    }
    request.labels = labels(LABEL);
    request.wait = Some(prost_types::Duration { seconds: 0, nanos: 700_000_000 });
    request
}

fn labels(value: &str) -> HashMap<String, String> {
    HashMap::from([(LABEL_KEY.to_owned(), value.to_owned())])
}

/// Invalid in every field, with a mark in each field that can contain one. (A label's key is part
/// of the field's name.)
fn wrong_request() -> proto::CreateRefundRequest {
    let target = proto::DebitsuccessTarget {
        account_reference_no: CALLER_MARK.repeat(2),
        external_account_reference_no: CALLER_MARK.repeat(5),
        amount: Some(proto::Money { currency_code: CALLER_MARK.to_owned(), minor_units: -1 }),
        description: format!("{CALLER_MARK}\u{7}"),
        request_initiator: CALLER_MARK.repeat(10),
    };
    proto::CreateRefundRequest {
        refund_id: WRONG.to_owned(),
        account: WRONG.to_owned(),
        target: Some(Target::Debitsuccess(target)),
        labels: HashMap::from([("ticket".to_owned(), CALLER_MARK.repeat(30))]),
        wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    }
}

fn wrong_resolution() -> proto::ResolveRefundRequest {
    proto::ResolveRefundRequest {
        name: WRONG.to_owned(),
        etag: String::new(),
        resolution: Resolution::Refunded.into(),
        evidence: CALLER_MARK.repeat(100),
        refunded_amount: Some(proto::Money { currency_code: CALLER_MARK.to_owned(), minor_units: 1 }),
        ..Default::default()
    }
}

fn wrong_list() -> proto::ListRefundsRequest {
    let filter = proto::RefundFilter {
        account: WRONG.to_owned(),
        target_reference: CALLER_MARK.repeat(24),
        ..Default::default()
    };
    proto::ListRefundsRequest { page_size: -1, page_token: WRONG.to_owned(), filter: Some(filter) }
}

fn status_request(order_number: &str) -> proto::GetValidationStatusRequest {
    let (account, order_number) = ("sectigo".to_owned(), order_number.to_owned());
    proto::GetValidationStatusRequest { account, order_number, ..Default::default() }
}

fn wrong_watch() -> proto::WatchValidationStatusRequest {
    proto::WatchValidationStatusRequest {
        account: WRONG.to_owned(),
        order_number: WRONG.to_owned(),
        after_fingerprint: WRONG.to_owned(),
        interval: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
    }
}

/// A valid token with the mark in it.
fn caller_token() -> String {
    let body = format!("recoup_{}A", MARK.repeat(7));
    format!("{body}_{:08x}", crc32fast::hash(body.as_bytes()))
}

/// The setting of an access file whose caller has that token, and the token's file.
fn access_setting(dir: &Path) -> String {
    let hash = Token::parse(&caller_token()).ok().unwrap().hash().hex();
    let scopes: Vec<String> = Scope::ALL.iter().map(|scope| format!("{:?}", scope.as_str())).collect();
    let text = format!(
        "[callers.shop]\nscopes = [{}]\naccounts = [\"*\"]\ntokens = [{{ id = \"one\", sha256 = \"{hash}\" }}]\n\
         rate = {{ calls_per_second = 100000, burst = 100000, calls_at_once = 1000, reconciles_per_minute = 100000 }}\n",
        scopes.join(", ")
    );
    std::fs::write(dir.join("access.toml"), text).unwrap();
    std::fs::write(dir.join("caller.token"), caller_token()).unwrap();
    format!("access.file = \"{}\"\n", dir.join("access.toml").display())
}

/// A call with all the metadata.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in METADATA {
        request.metadata_mut().insert(key, value.parse().unwrap());
    }
    request.metadata_mut().insert("authorization", format!("Bearer {}", caller_token()).parse().unwrap());
    request.metadata_mut().insert_bin("login-bin", MetadataValue::from_bytes(b"canary-binary"));
    request
}

/// A caller that leaves a mark wherever it can, and collects what the gateway wrote.
struct Caller {
    hostile: Hostile,
    refunds: RefundServiceClient<Channel>,
    validation: ValidationStatusServiceClient<Channel>,
    accounts: AccountServiceClient<Channel>,
    audit: AuditServiceClient<Channel>,
    answers: Vec<proto::Refund>,
    written: Written,
}

impl Caller {
    async fn new(hostile: Hostile, addr: SocketAddr) -> Caller {
        let connection = channel(addr).await;
        Caller {
            hostile,
            refunds: RefundServiceClient::new(connection.clone()),
            validation: ValidationStatusServiceClient::new(connection.clone()),
            accounts: AccountServiceClient::new(connection.clone()),
            audit: AuditServiceClient::new(connection),
            answers: Vec::new(),
            written: Written::default(),
        }
    }

    async fn create(&self, request: proto::CreateRefundRequest) -> Result<proto::Refund, Status> {
        Ok(self.refunds.clone().create_refund(marked(request)).await?.into_inner().refund.unwrap())
    }

    async fn wait(&self, request: proto::WaitRefundRequest) -> Result<proto::Refund, Status> {
        Ok(self.refunds.clone().wait_refund(marked(request)).await?.into_inner().refund.unwrap())
    }

    async fn cancel(&self, request: proto::CancelRefundRequest) -> Result<proto::Refund, Status> {
        Ok(self.refunds.clone().cancel_refund(marked(request)).await?.into_inner().refund.unwrap())
    }

    async fn reconcile(&self, name: &str) -> Result<proto::Refund, Status> {
        let request = marked(proto::ReconcileRefundRequest { name: name.to_owned() });
        Ok(self.refunds.clone().reconcile_refund(request).await?.into_inner().refund.unwrap())
    }

    async fn resolve(&self, request: proto::ResolveRefundRequest) -> Result<proto::Refund, Status> {
        Ok(self.refunds.clone().resolve_refund(marked(request)).await?.into_inner().refund.unwrap())
    }

    async fn watch(&self, order_number: &str) -> Streaming<proto::WatchValidationStatusResponse> {
        let request = proto::WatchValidationStatusRequest {
            account: "sectigo".to_owned(),
            order_number: order_number.to_owned(),
            ..Default::default()
        };
        self.validation.clone().watch_validation_status(marked(request)).await.unwrap().into_inner()
    }

    /// Keeps the answer or the error.
    fn keep(&mut self, call: &str, answer: Result<proto::Refund, Status>) {
        match answer {
            Ok(refund) => self.answers.push(refund),
            Err(refusal) => self.written.add_refusal(call, &refusal),
        }
    }

    /// Keeps the error, which is expected.
    fn is_refused(&mut self, call: &str, answer: Result<proto::Refund, Status>) {
        self.written.add_refusal(call, &answer.unwrap_err());
    }

    /// Creates refunds until one has the wanted state.
    async fn refund_that(
        &mut self,
        provider: Provider,
        numbers: Range<u32>,
        is_it: impl Fn(&proto::Refund) -> bool,
    ) -> proto::Refund {
        for number in numbers {
            let refund = self.create(request(provider, number)).await.unwrap();
            self.answers.push(refund.clone());
            if is_it(&refund) {
                return refund;
            }
        }
        panic!("no refund has the wanted state, the last one is {:?}", self.answers.last());
    }

    /// Cancels a pending refund while another call waits for its outcome.
    async fn cancels_a_refund(&mut self) {
        self.hostile.becomes(Mood::Json(429));
        let waits = |refund: &proto::Refund| refund.state() == State::Pending && refund.provider_error.is_some();
        let refund = self.refund_that(Provider::Namecom, 100..100 + MAX_TRIES, waits).await;
        let cancel = proto::CancelRefundRequest { name: refund.name.clone(), etag: refund.etag };
        let of_another = proto::CancelRefundRequest { etag: WRONG.to_owned(), ..cancel.clone() };
        let stale = self.cancel(of_another).await;
        self.is_refused("CancelRefund of another state", stale);
        let wait =
            proto::WaitRefundRequest { name: refund.name, after_revision: refund.revision, ..Default::default() };
        let (seen, cancelled) = tokio::join!(self.wait(wait), self.cancel(cancel));
        for refund in [seen.unwrap(), cancelled.unwrap()] {
            assert_eq!(refund.state(), State::Cancelled);
            self.answers.push(refund);
        }
    }

    /// Brings a refund into review and resolves it.
    async fn resolves_a_review(&mut self, resolution: Resolution, numbers: Range<u32>) -> proto::Refund {
        self.hostile.becomes(Mood::InUse);
        let in_review = |refund: &proto::Refund| refund.state() == State::NeedsReview;
        let refund = self.refund_that(Provider::Debitsuccess, numbers, in_review).await;
        self.hostile.becomes(Mood::Fault(200));
        let looked_up = self.reconcile(&refund.name).await.unwrap();
        let request = proto::ResolveRefundRequest {
            name: refund.name,
            etag: looked_up.etag.clone(),
            resolution: resolution.into(),
            evidence: EVIDENCE.to_owned(),
            refunded_amount: None,
            ..Default::default()
        };
        let stale = self.resolve(proto::ResolveRefundRequest { etag: WRONG.to_owned(), ..request.clone() }).await;
        self.is_refused("ResolveRefund of another state", stale);
        let resolved = self.resolve(request.clone()).await.unwrap();
        let late = self.resolve(proto::ResolveRefundRequest { etag: resolved.etag.clone(), ..request }).await;
        self.is_refused("ResolveRefund of what is resolved", late);
        self.answers.extend([looked_up, resolved.clone()]);
        resolved
    }

    /// Every read, which returns the texts of callers.
    async fn reads(&mut self, name: &str) {
        let get = marked(proto::GetRefundRequest { name: name.to_owned() });
        let refund = self.refunds.get_refund(get).await.unwrap().into_inner().refund.unwrap();
        // Returns immediately, since the refund is beyond revision 0.
        let waited = self.wait(proto::WaitRefundRequest { name: name.to_owned(), ..Default::default() }).await.unwrap();
        self.answers.extend([refund, waited]);
        let request = proto::CreateRefundRequest { validate_only: true, ..request(Provider::Debitsuccess, 500) };
        let unsent = self.create(request).await.unwrap();
        self.written.keep("CreateRefund with validate_only", format!("{unsent:?}"));
        let accounts = self.accounts.list_accounts(marked(proto::ListAccountsRequest {})).await.unwrap().into_inner();
        self.written.add("ListAccounts", format!("{accounts:?}"));
        let off = self.audit.get_checkpoint(marked(proto::GetCheckpointRequest {})).await.unwrap_err();
        self.written.add_refusal("GetCheckpoint", &off);
        for account in ["sectigo", "namecom", "debitsuccess"] {
            let request = marked(proto::ProbeAccountRequest { account: account.to_owned() });
            let report = self.accounts.probe_account(request).await.unwrap().into_inner();
            self.written.add(format!("ProbeAccount of {account}"), format!("{report:?}"));
        }
        self.lists_refunds().await;
        self.follows_the_history(name).await;
    }

    async fn lists_refunds(&mut self) {
        let mut page_token = String::new();
        for _ in 0..2 {
            let request = marked(proto::ListRefundsRequest { page_size: 2, page_token, filter: None });
            let page = self.refunds.list_refunds(request).await.unwrap().into_inner();
            self.written.keep("ListRefunds", format!("{page:?}"));
            page_token = page.next_page_token;
        }
        let filter = Some(proto::RefundFilter { target_reference: CALLER_MARK.to_owned(), ..Default::default() });
        let request = marked(proto::ListRefundsRequest { filter, ..Default::default() });
        assert_eq!(self.refunds.list_refunds(request).await.unwrap().into_inner().refunds, []);
    }

    /// The history of one refund, and the event stream up to the evidence.
    async fn follows_the_history(&mut self, name: &str) {
        let request = marked(proto::ListRefundEventsRequest { name: name.to_owned(), ..Default::default() });
        let history = self.refunds.list_refund_events(request).await.unwrap().into_inner();
        self.written.keep("ListRefundEvents", format!("{history:?}"));
        let request = marked(proto::StreamRefundEventsRequest { after_sequence: 0 });
        let mut events = self.refunds.stream_refund_events(request).await.unwrap().into_inner();
        let mut streamed = String::new();
        let follow = async {
            while !streamed.contains(EVIDENCE) {
                let event = events.message().await.unwrap().unwrap().event.unwrap();
                streamed += &format!("{event:?}\n");
            }
        };
        tokio::time::timeout(LIMIT, follow).await.unwrap();
        self.written.keep("StreamRefundEvents", streamed);
    }

    /// One watch receives a change, one receives nothing since the provider fails, and one ends
    /// with the provider's refusal.
    async fn watches_orders(&mut self, log: &Log) {
        let mut watch = self.watch(PERSONS_ORDER).await;
        let first = next_status(&mut watch).await.unwrap();
        self.hostile.rejects_the_order();
        let change = next_status(&mut watch).await.unwrap();
        assert_eq!(change.order_state(), OrderState::Rejected);
        for shown in [first, change].map(|status| format!("{status:?}")) {
            // Only the watcher receives the person, and never the token.
            assert!(shown.contains("canary-person@example.com") && !shown.contains("canary-upload-token"), "{shown}");
        }

        self.hostile.becomes(Mood::Fault(500));
        let silent = self.watch("3000201").await;
        // The second lookup shows that the first answer has been read.
        wait_until(|| self.hostile.lookups_of("3000201") >= 2).await;
        drop((watch, silent));
        wait_until(|| log.text().matches("stopped watching order").count() >= 2).await;

        self.hostile.becomes(Mood::Json(200));
        let mut refused = self.watch("3000202").await;
        let refusal = next_status(&mut refused).await.unwrap_err();
        self.written.add_refusal("WatchValidationStatus", &refusal);
    }

    /// Every call with invalid fields: the errors name them and do not repeat their values.
    async fn sends_invalid_requests(&mut self) {
        let name = || WRONG.to_owned();
        let too_large = proto::CreateRefundRequest { labels: labels(&CALLER_MARK.repeat(7_000)), ..Default::default() };
        let wait = proto::WaitRefundRequest { name: name(), after_revision: -1, timeout: None };
        let history = proto::ListRefundEventsRequest { name: name(), page_size: -1, page_token: name() };
        let beyond = proto::StreamRefundEventsRequest { after_sequence: i64::MAX };
        let status = proto::GetValidationStatusRequest { account: name(), ..status_request(WRONG) };
        let (mut refunds, mut validation) = (self.refunds.clone(), self.validation.clone());
        let refusals = [
            ("CreateRefund", self.create(wrong_request()).await.err()),
            ("CreateRefund of nothing", self.create(proto::CreateRefundRequest::default()).await.err()),
            ("CreateRefund that is too large", self.create(too_large).await.err()),
            ("GetRefund", refunds.get_refund(marked(proto::GetRefundRequest { name: name() })).await.err()),
            ("ListRefunds", refunds.list_refunds(marked(wrong_list())).await.err()),
            ("WaitRefund", self.wait(wait).await.err()),
            ("CancelRefund", self.cancel(proto::CancelRefundRequest { name: name(), etag: name() }).await.err()),
            ("ReconcileRefund", self.reconcile(WRONG).await.err()),
            ("ResolveRefund", self.resolve(wrong_resolution()).await.err()),
            ("ListRefundEvents", refunds.list_refund_events(marked(history)).await.err()),
            ("StreamRefundEvents", refunds.stream_refund_events(marked(beyond)).await.err()),
            ("GetValidationStatus", validation.get_validation_status(marked(status)).await.err()),
            ("WatchValidationStatus", validation.watch_validation_status(marked(wrong_watch())).await.err()),
        ];
        for (call, refusal) in refusals {
            let refusal = refusal.unwrap_or_else(|| panic!("{call} was not refused"));
            self.written.add_refusal(call, &refusal);
        }
    }

    /// At each provider in this mood: a refund, a lookup of it and another refund with its id; and
    /// a validation status that is refused, garbled or late.
    async fn goes_through(&mut self, mood: Mood, number: u32) {
        self.hostile.becomes(mood);
        for provider in [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess] {
            let request = request(provider, number);
            let name = format!("refunds/{}", request.refund_id);
            let answer = self.create(request.clone()).await;
            self.keep(&format!("CreateRefund of {name} while {mood:?}"), answer);
            let answer = self.reconcile(&name).await;
            self.keep(&format!("ReconcileRefund of {name} while {mood:?}"), answer);
            let other = proto::CreateRefundRequest { labels: labels("nightingale of another label"), ..request };
            let answer = self.create(other).await;
            self.is_refused(&format!("CreateRefund of another {name}"), answer);
        }
        let request = marked(status_request(&format!("{}", 3_000_100 + number)));
        let refusal = self.validation.get_validation_status(request).await.unwrap_err();
        self.written.add_refusal(&format!("GetValidationStatus while {mood:?}"), &refusal);
    }

    /// A status with a person in it, and with the token where it is requested: only the caller
    /// receives them.
    async fn sees_a_person(&mut self) {
        for include_upload_token in [false, true] {
            let request = proto::GetValidationStatusRequest { include_upload_token, ..status_request(PERSONS_ORDER) };
            let answer = self.validation.get_validation_status(marked(request)).await.unwrap();
            let shown = format!("{:?}", answer.into_inner());
            assert!(shown.contains("canary-person@example.com"));
            assert_eq!(shown.contains("canary-upload-token"), include_upload_token);
        }
    }
}

async fn next_status(
    watch: &mut Streaming<proto::WatchValidationStatusResponse>,
) -> Result<proto::ValidationStatus, Status> {
    let message = tokio::time::timeout(LIMIT, watch.message()).await.unwrap()?;
    Ok(message.expect("a watch ends with a status of its own").validation_status.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (hostile, addr) = Hostile::start().await;
    let (collector, collecting) = Collector::start().await;
    let configuration = hostile_configuration(addr, collecting, dir.path());
    let secrets = [("DEMO_PASSWORD", PASSWORD), ("DEMO_TOKEN", TOKEN)];
    let (gateway, log) = launch(&configuration, dir.path(), &secrets);
    let mut caller = Caller::new(hostile, gateway.addr).await;

    // While no account is suspended.
    caller.cancels_a_refund().await;
    caller.resolves_a_review(Resolution::Refunded, 200..200 + MAX_TRIES).await;
    caller.resolves_a_review(Resolution::SendAgain, 300..300 + MAX_TRIES).await;
    let resolved = caller.resolves_a_review(Resolution::NotRefunded, 400..400 + MAX_TRIES).await;
    caller.reads(&resolved.name).await;
    caller.watches_orders(&log).await;
    caller.sends_invalid_requests().await;
    for (mood, number) in MOODS.into_iter().chain(LAST_MOODS).zip(1..) {
        caller.goes_through(mood, number).await;
    }
    caller.sees_a_person().await;

    let Caller { hostile, answers, mut written, .. } = caller;
    for refund in &answers {
        written.keep(format!("the answer of {}", refund.name), format!("{refund:?}"));
    }
    assert!(answers.iter().any(|refund| refund.state() == State::InDoubt));
    assert!(answers.iter().any(|refund| refund.state() == State::Failed));
    assert!(
        answers.iter().any(|refund| format!("{refund:?}").contains("***")),
        "nothing was redacted: did a provider repeat anything?"
    );
    refuses_a_wrong_token(&mut written, gateway.addr).await;
    add_command_line(&mut written, dir.path(), gateway.addr, &answers, &resolved);
    let metrics = scrape(metrics_addr(&log)).await;
    assert!(metrics.contains("recoup_attempt_duration_seconds_count"));
    add_ledger(&mut written, dir.path());
    assert!(gateway.terminate().success());
    add_ledger(&mut written, dir.path());
    let is_complete = |text: &str| CALLS.iter().all(|call| text.contains(call));
    let spans = collector.spans(|spans| spans.iter().any(|span| span.name == "POST")).await;
    let spans = format!("{spans:?}");
    let text = log.text();
    assert!(text.contains("\"level\":\"TRACE\""), "the log is not what it should be");
    assert!(is_complete(&text) && is_complete(&spans), "a call was not made, or nothing is recorded of it");
    for (place, text) in [("the spans", &spans), ("the log", &text), ("the metrics", &metrics)] {
        assert!(!text.contains(PERSON), "{place}: {}", around(text, PERSON));
        written.add(place, text.clone());
    }
    assert!(answers.iter().any(|refund| format!("{refund:?}").contains(PERSON)), "no provider mentioned the person");
    let config = dir.path().join("recoup.toml");
    let verified = run(&["verify", dir.path().join("recoup.db").to_str().unwrap()]);
    written.add_output("recoup verify", &verified);
    let check = Command::new(env!("CARGO_BIN_EXE_recoup"))
        .args(["check", "--config"])
        .arg(&config)
        .envs(secrets)
        .output()
        .unwrap();
    assert!(check.status.success());
    written.add_output("recoup check", &check);

    // The providers received the secrets, so the search could have found them.
    let received = hostile.received.lock().unwrap().clone();
    assert!(received.contains("canary") && received.contains(&STANDARD.encode(format!("demo-test:{TOKEN}"))));
    written.keeps_texts_of_callers();
    written.is_clean();
}

/// Calls with tokens that no caller has, and with two.
async fn refuses_a_wrong_token(written: &mut Written, addr: SocketAddr) {
    let mut client = AccountServiceClient::new(channel(addr).await);
    let token = format!("Bearer {}", caller_token());
    for (headers, reason) in [
        (vec![token.clone() + "0"], "CREDENTIALS_INVALID"),
        (vec!["Bearer canary-authorization".to_owned()], "CREDENTIALS_INVALID"),
        (vec![format!("Basic {MARK}")], "CREDENTIALS_INVALID"),
        (vec![token.clone(), token], "CREDENTIALS_MISSING"),
    ] {
        let mut request = Request::new(proto::ListAccountsRequest {});
        for header in headers {
            request.metadata_mut().append("authorization", header.parse().unwrap());
        }
        let refusal = client.list_accounts(request).await.unwrap_err();
        assert_eq!(crate::support::reason(&refusal), reason);
        written.add_refusal("ListAccounts", &refusal);
    }
}

/// The operator's command line on the running gateway: refunds as callers see them, and errors.
fn add_command_line(
    written: &mut Written,
    dir: &Path,
    addr: SocketAddr,
    answers: &[proto::Refund],
    resolved: &proto::Refund,
) {
    let server = format!("http://{addr}");
    let token_file = dir.join("caller.token").display().to_string();
    let connection = ["refunds", "--server", &server, "--token-file", &token_file];
    let refunds = |arguments: &[&str]| run(&[&connection[..], arguments].concat());
    // A token that is mistyped by its end.
    let wrong = dir.join("wrong.token").display().to_string();
    std::fs::write(&wrong, format!("{}0", caller_token())).unwrap();
    let refused = run(&["refunds", "--server", &server, "--token-file", &wrong, "list"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    written.add_output("recoup refunds list with a wrong token", &refused);
    written.keep("recoup refunds list", text_of(&refunds(&["list", "--json"])));
    // A sample of all refunds.
    for refund in answers.iter().step_by(9) {
        let id = refund.name.trim_start_matches("refunds/");
        written.keep("recoup refunds show", text_of(&refunds(&["show", id])));
    }
    let id = resolved.name.trim_start_matches("refunds/");
    for stale in [
        &["resolve", id, "--not-refunded", "--evidence", EVIDENCE, "--etag", WRONG][..],
        &["cancel", id, "--etag", WRONG],
        &["reconcile", id],
    ] {
        let refused = refunds(stale);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        written.add_output(&format!("recoup refunds {}", stale[0]), &refused);
    }
}

fn metrics_addr(log: &Log) -> SocketAddr {
    let text = log.text();
    let line = text.lines().find(|line| line.contains("\"metrics_addr\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["metrics_addr"].as_str().unwrap().parse().unwrap()
}

/// All files of the ledger, which may still contain what SQLite has deleted.
fn add_ledger(written: &mut Written, dir: &Path) {
    for file in std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("recoup.db") {
            written.keep(format!("{}", file.display()), String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
        }
    }
}

/// Every way to put a secret in the wrong place of a configuration, and the errors of the command
/// line.
#[test]
fn no_configuration_error_repeats_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let account = "[accounts.namecom]\nprovider = \"namecom\"\nusername = \"demo-test\"\n";
    let texts = [
        format!("{account}token = \"canary\"\n"),
        format!("{account}token_env = \"canary\"\n"),
        format!("{account}token_file = \"/canary\"\n"),
        format!("{account}token_env = \"DEMO_TOKEN\"\nendpoint = \"https://demo:canary@example.com\"\n"),
        format!("{account}token_env = \"DEMO_TOKEN\"\nendpoint = \"canary\"\n"),
        format!("{account}token = canary\n"),
        format!("{account}token = \"canary\n"),
        format!("traces.endpoint = \"http://demo:canary@127.0.0.1:4317\"\n{account}token_env = \"DEMO_TOKEN\"\n"),
        format!("log.filter = \"canary=canary=canary\"\n{account}token_env = \"DEMO_TOKEN\"\n"),
        format!("{account}token_env = \"TOO_LONG\"\n"),
    ];
    let mut written = Written::default();
    for (number, text) in texts.iter().enumerate() {
        let config = dir.path().join("wrong.toml");
        std::fs::write(&config, text).unwrap();
        for command in ["check", "serve"] {
            let output = Command::new(env!("CARGO_BIN_EXE_recoup"))
                .args([command, "--config"])
                .arg(&config)
                .env("DEMO_TOKEN", TOKEN)
                .env("TOO_LONG", "canary".repeat(100))
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{number}: {output:?}");
            written.add_output(&format!("recoup {command} of text {number}"), &output);
        }
    }
    written.is_clean();
}

/// Set where [`a_process_that_panics`] should panic.
const PANICS: &str = "PANICS_WITH_A_SECRET";

#[test]
fn a_panic_is_logged_with_its_place_and_without_its_message() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canary::a_process_that_panics", "--nocapture"])
        .env(PANICS, "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("a task panicked") && log.contains("canary.rs"), "{log}");
    assert!(!log.replace("canary.rs", "").contains(MARK), "{log}");
}

/// The other half of the test above; without the variable it does nothing.
#[test]
fn a_process_that_panics() {
    if std::env::vars_os().any(|(name, _)| name == PANICS) {
        let log_filter = "trace".to_owned();
        let settings = TelemetrySettings { log_format: LogFormat::Json, log_filter, traces_endpoint: None };
        telemetry::init(&settings).unwrap();
        let task = std::thread::Builder::new().name("task".to_owned()).spawn(|| panic!("the password is {PASSWORD}"));
        task.unwrap().join().unwrap_err();
    }
}
