//! Where a certificate order's validation stands: the provider's Validation Manager page as plain
//! data.
//!
//! ```text
//! StatusAnswer (page, token) --ValidationStatus::new--> page + token + fetch time + fingerprint of the page
//! ```
//!
//! A word that the provider adds later is never an error: a [`OpenEnum`] keeps the text beside what
//! it means. An empty text, a zero number and an empty list stand for what the provider left out:
//! it never gives them another meaning.

mod fingerprint;

use std::fmt;

use secrecy::SecretString;

use crate::domain::clock::Timestamp;
use crate::domain::target::{FieldViolation, is_same_order, order_number_violation};

/// One order, or one certificate of it, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    order_number: String,
    certificate_id: Option<u64>,
}

/// What a provider answered: the page, and the credential that came with it.
#[derive(Debug, Clone)]
pub struct StatusAnswer {
    /// Everything that is no secret.
    pub page: ValidationPage,
    /// A JSON Web Token for the upload of documents: a credential.
    pub upload_document_token: Option<SecretString>,
}

/// Where the validation of one order stands, and since when that is known.
#[derive(Debug, Clone)]
pub struct ValidationStatus {
    page: ValidationPage,
    upload_document_token: Option<SecretString>,
    fetch_time: Timestamp,
    fingerprint: String,
    approximate_bytes: usize,
}

/// Everything that the provider says of an order, in its own order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidationPage {
    /// As the provider numbers it.
    pub order_number: String,
    /// `orderStatus`.
    pub order_state: Option<OpenEnum<OrderState>>,
    /// The provider's number of the product.
    pub product_type: i32,
    /// The product's name.
    pub product_name: String,
    /// How long the certificate is valid, in days.
    pub certificate_duration_days: i32,
    /// How long the product runs, in days.
    pub product_term_days: i32,
    /// The common name, or `Multiple domains`.
    pub domain_name: String,
    /// Multi-domain only.
    pub primary_domain_name: String,
    /// `maxMDCDomains`.
    pub max_domains: i32,
    /// `maxMDCWildcardDomains`.
    pub max_wildcard_domains: i32,
    /// `maStatus`.
    pub master_account_state: Option<MasterAccountState>,
    /// Where documents are uploaded: https, without user information. Empty where the provider sent
    /// another address.
    pub upload_document_url: String,
    /// `csrStatus`.
    pub csr: Option<CsrStatus>,
    /// `dcvStatus`.
    pub dcv: Option<DcvStatus>,
    /// `agreementStatus`.
    pub agreement: Option<AgreementStatus>,
    /// `callbackStatus`.
    pub callback: Option<CallbackStatus>,
    /// `organizationStatus`.
    pub organization: Option<OrganizationStatus>,
    /// `secondApprovalStatus`.
    pub second_approval: Option<SectionStep>,
    /// `fsupStatus`.
    pub fast_service: Option<SectionStep>,
    /// `caaCheckStatus`.
    pub caa_check: Option<CaaCheckStatus>,
    /// Fields that are not as documented, by their path: left out, cut, or read in another form.
    pub irregular_fields: Vec<String>,
    /// A digest of everything that no other field holds verbatim, so that a change there is seen.
    pub lossy_digest: Option<[u8; 32]>,
}

/// What every section and every requirement says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SectionStep {
    /// Its heading.
    pub title: String,
    /// Where it stands.
    pub state: Option<OpenEnum<StepState>>,
    /// A sentence for the customer.
    pub description: String,
    /// The provider's own words: `needProvideCSR`, `callMeNow`.
    pub available_actions: Vec<String>,
}

/// The certificate signing request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsrStatus {
    /// The section itself.
    pub step: SectionStep,
}

/// Domain control validation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DcvStatus {
    /// The section itself.
    pub step: SectionStep,
    /// One entry a domain.
    pub domains: Vec<DomainValidation>,
    /// Of the CSR, as the provider prints it.
    pub csr_md5: String,
    /// Of the CSR, as the provider prints it.
    pub csr_sha256: String,
    /// The request token.
    pub unique_value: String,
}

/// Domain control validation of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainValidation {
    /// Which.
    pub domain_name: String,
    /// Where it stands.
    pub state: Option<OpenEnum<StepState>>,
    /// The method chosen.
    pub selected_method: String,
    /// The methods that may be chosen.
    pub methods: Vec<DcvMethod>,
}

/// A way to prove control of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DcvMethod {
    /// Of which kind.
    pub kind: Option<OpenEnum<DcvMethodKind>>,
    /// Its name.
    pub title: String,
    /// Level of the list of e-mail addresses.
    pub level: String,
    /// The option chosen.
    pub selected_method: String,
    /// The options: e-mail addresses, ways to publish a hash.
    pub options: Vec<String>,
}

/// The subscriber agreement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgreementStatus {
    /// The section itself.
    pub step: SectionStep,
    /// Whether it was agreed to with a click.
    pub click_through_state: Option<OpenEnum<ClickThroughState>>,
    /// Who is asked to agree.
    pub click_through_email_address: String,
    /// YYYY-MM-DD, as the provider prints it.
    pub last_email_sent_date: String,
    /// YYYY-MM-DD, as the provider prints it.
    pub last_open_date: String,
}

/// The call to the organization.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallbackStatus {
    /// The section itself.
    pub step: SectionStep,
    /// Who is called.
    pub phone_number: String,
}

/// The validation of the organization; a requirement is absent where the provider sent none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationStatus {
    /// The section itself.
    pub step: SectionStep,
    /// Its name.
    pub organization_name: Option<SectionStep>,
    /// That it exists in law.
    pub legal_existence: Option<SectionStep>,
    /// A name that it trades under.
    pub assumed_name: Option<SectionStep>,
    /// That it has an address.
    pub physical_existence: Option<SectionStep>,
    /// That it operates.
    pub operational_existence: Option<SectionStep>,
    /// Its brand.
    pub trademark_check: Option<SectionStep>,
}

/// The check of Certification Authority Authorization records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaaCheckStatus {
    /// The section itself.
    pub step: SectionStep,
    /// What failed in the latest session; the provider sends it while action is required.
    pub latest_errors: Vec<CaaCheckError>,
}

/// A look at a CAA record that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaaCheckError {
    /// YYYY-MM-DD HH:MM:SS, as the provider prints it; it names no time zone.
    pub lookup_datetime: String,
    /// Where the record was looked for.
    pub queried_fqdn: String,
    /// For which domain.
    pub domain_name: String,
    /// What was found.
    pub result: Option<OpenEnum<CaaCheckResult>>,
}

/// A word of the provider: what it means, and the word itself.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenEnum<M> {
    meaning: M,
    text: String,
}

/// The words that a provider documents for one field.
pub trait KnownValues: Copy + fmt::Debug + PartialEq + 'static {
    /// Each word exactly as documented; case matters.
    const WORDS: &'static [(&'static str, Self)];
    /// What any other word means.
    const UNRECOGNIZED: Self;
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// A word that is not documented.
    Unrecognized,
    /// `Current`
    Current,
    /// `Awaiting Payment`
    AwaitingPayment,
    /// `Payment Promised`
    PaymentPromised,
    /// `Pending`
    Pending,
    /// `Awaiting Authorization`
    AwaitingAuthorization,
    /// `Processed`
    Processed,
    /// `Rejected`
    Rejected,
    /// `Refunded`: the proof of a refund.
    Refunded,
    /// `ERROR!!!`
    ProviderError,
}

/// Where a section, a requirement or a domain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// A word that is not documented.
    Unrecognized,
    /// `NotApplicable`
    NotApplicable,
    /// `ActionRequired`: the customer must do something.
    ActionRequired,
    /// `InProgress`
    InProgress,
    /// `Completed`
    Completed,
    /// `Unknown`: the provider itself says so.
    Unknown,
}

/// A kind of domain control validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DcvMethodKind {
    /// A word that is not documented.
    Unrecognized,
    /// `whoisEmail`: an address of the domain's registration.
    WhoisEmail,
    /// `email`: an address of the domain.
    Email,
    /// `csrHash`: a published hash of the CSR.
    CsrHash,
    /// `manual`
    Manual,
}

/// Whether the agreement was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClickThroughState {
    /// A word that is not documented.
    Unrecognized,
    /// `notExecuted`
    NotExecuted,
    /// `Executed`
    Executed,
}

/// What a look at a CAA record found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaaCheckResult {
    /// A word that is not documented.
    Unrecognized,
    /// `Empty`
    Empty,
    /// `Authorized`
    Authorized,
    /// `Not Authorized`
    NotAuthorized,
    /// `ERROR!`
    Error,
    /// `Timeout!`
    Timeout,
    /// `Unrecognized Critical Tag`
    UnrecognizedCriticalTag,
    /// `Malformed Response`
    MalformedResponse,
}

/// Where the master account stands: a number at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterAccountState {
    /// A number that is not documented.
    Unrecognized(i32),
    /// -1
    NotRequired,
    /// 0
    NotCompleted,
    /// 1
    Completed,
    /// 2
    InProgress,
    /// 3
    Rejected,
}

/// The sections of the page, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// [`ValidationPage::csr`]
    Csr,
    /// [`ValidationPage::dcv`]
    Dcv,
    /// [`ValidationPage::agreement`]
    Agreement,
    /// [`ValidationPage::callback`]
    Callback,
    /// [`ValidationPage::organization`]
    Organization,
    /// [`ValidationPage::second_approval`]
    SecondApproval,
    /// [`ValidationPage::fast_service`]
    FastService,
    /// [`ValidationPage::caa_check`]
    CaaCheck,
}

const CERTIFICATE_DIGITS: usize = 16;
const MAX_CERTIFICATE_ID: u64 = 9_999_999_999_999_999;

/// The certificate number in these digits: `Some(None)` without digits, `None` if they are no
/// number above 0.
fn certificate_in(digits: &str) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    let fits = digits.len() <= CERTIFICATE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| fits && *number != 0).map(Some)
}

impl OrderKey {
    /// Checks an order number and a certificate of the order, given as a number (0: none), as
    /// digits (empty: none), or as both. Without a certificate the order itself is meant.
    ///
    /// # Errors
    /// Every field that is wrong; both certificate fields if they disagree.
    pub fn new(order_number: &str, certificate_id: i64, certificate_number: &str) -> Result<Self, Vec<FieldViolation>> {
        let mut faults = Vec::from_iter(order_number_violation("order_number", order_number));
        let id = u64::try_from(certificate_id).ok().filter(|id| *id <= MAX_CERTIFICATE_ID);
        if id.is_none() {
            faults.push(FieldViolation::new("certificate_id", format!("must be 0 to {MAX_CERTIFICATE_ID}")));
        }
        let number = certificate_in(certificate_number);
        if number.is_none() {
            let right = format!("must be 1 to {CERTIFICATE_DIGITS} digits, and above 0");
            faults.push(FieldViolation::new("certificate_number", right));
        }
        let (by_id, by_number) = (id.filter(|id| *id != 0), number.flatten());
        if by_id.zip(by_number).is_some_and(|(id, number)| id != number) {
            for (field, other) in [("certificate_id", "certificate_number"), ("certificate_number", "certificate_id")] {
                faults.push(FieldViolation::new(field, format!("must be the same number as {other}, or unset")));
            }
        }
        let order_number = order_number.to_owned();
        if faults.is_empty() { Ok(Self { order_number, certificate_id: by_id.or(by_number) }) } else { Err(faults) }
    }

    /// As the provider numbers it.
    pub fn order_number(&self) -> &str {
        &self.order_number
    }

    /// One certificate of the order: 1 to 16 digits.
    pub fn certificate_id(&self) -> Option<u64> {
        self.certificate_id
    }
}

impl ValidationStatus {
    /// What the provider said when it was asked at `fetch_time`.
    pub fn new(answer: StatusAnswer, fetch_time: Timestamp) -> Self {
        let StatusAnswer { page, upload_document_token } = answer;
        let (fingerprint, approximate_bytes) = fingerprint::of(&page);
        Self { page, upload_document_token, fetch_time, fingerprint, approximate_bytes }
    }

    /// What the provider said.
    pub fn page(&self) -> &ValidationPage {
        &self.page
    }

    /// A credential: for who asks for it by name.
    pub fn upload_document_token(&self) -> Option<&SecretString> {
        self.upload_document_token.as_ref()
    }

    /// When the provider was asked: the answer is at least as young.
    pub fn fetch_time(&self) -> Timestamp {
        self.fetch_time
    }

    /// SHA-256 of the page, in hexadecimal: changes exactly when the page does.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether a text can be a fingerprint at all: 64 hexadecimal digits, lower case.
    pub fn is_fingerprint(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// What it takes in memory, generously.
    pub fn approximate_bytes(&self) -> usize {
        self.approximate_bytes
    }
}

impl ValidationPage {
    /// Whether it is the page of that order. Blanks around the number do not count.
    pub fn is_of(&self, order_number: &str) -> bool {
        is_same_order(self.order_number.trim(), order_number)
    }

    /// The sections that wait for the customer, in the page's order.
    pub fn action_required(&self) -> Vec<Section> {
        let steps = [
            (Section::Csr, self.csr.as_ref().map(|section| &section.step)),
            (Section::Dcv, self.dcv.as_ref().map(|section| &section.step)),
            (Section::Agreement, self.agreement.as_ref().map(|section| &section.step)),
            (Section::Callback, self.callback.as_ref().map(|section| &section.step)),
            (Section::Organization, self.organization.as_ref().map(|section| &section.step)),
            (Section::SecondApproval, self.second_approval.as_ref()),
            (Section::FastService, self.fast_service.as_ref()),
            (Section::CaaCheck, self.caa_check.as_ref().map(|section| &section.step)),
        ];
        let waits = |step: Option<&SectionStep>| {
            step.and_then(|step| step.state.as_ref()).is_some_and(|state| state.meaning() == StepState::ActionRequired)
        };
        steps.into_iter().filter(|(_, step)| waits(*step)).map(|(section, _)| section).collect()
    }
}

impl<M: KnownValues> OpenEnum<M> {
    /// Reads a provider's value. None if it is empty. The meaning is taken from the raw text, and
    /// `shown` makes the text that is kept: escaping a control character must not turn one value
    /// into another.
    pub fn read(text: &str, shown: impl FnOnce(&str) -> String) -> Option<Self> {
        let known = M::WORDS.iter().find(|(word, _)| *word == text);
        let meaning = known.map_or(M::UNRECOGNIZED, |(_, meaning)| *meaning);
        (!text.is_empty()).then(|| Self { meaning, text: shown(text) })
    }

    /// What it means.
    pub fn meaning(&self) -> M {
        self.meaning
    }

    /// The word itself: verbatim, but for control and format characters, which are escaped.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<M: fmt::Debug> fmt::Debug for OpenEnum<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.meaning, self.text)
    }
}

impl MasterAccountState {
    /// From the provider's number.
    pub fn read(number: i32) -> Self {
        match number {
            -1 => MasterAccountState::NotRequired,
            0 => MasterAccountState::NotCompleted,
            1 => MasterAccountState::Completed,
            2 => MasterAccountState::InProgress,
            3 => MasterAccountState::Rejected,
            other => MasterAccountState::Unrecognized(other),
        }
    }

    /// The provider's number.
    pub fn number(self) -> i32 {
        match self {
            MasterAccountState::NotRequired => -1,
            MasterAccountState::NotCompleted => 0,
            MasterAccountState::Completed => 1,
            MasterAccountState::InProgress => 2,
            MasterAccountState::Rejected => 3,
            MasterAccountState::Unrecognized(other) => other,
        }
    }
}

impl KnownValues for OrderState {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("Current", OrderState::Current),
        ("Awaiting Payment", OrderState::AwaitingPayment),
        ("Payment Promised", OrderState::PaymentPromised),
        ("Pending", OrderState::Pending),
        ("Awaiting Authorization", OrderState::AwaitingAuthorization),
        ("Processed", OrderState::Processed),
        ("Rejected", OrderState::Rejected),
        ("Refunded", OrderState::Refunded),
        ("ERROR!!!", OrderState::ProviderError),
    ];
    const UNRECOGNIZED: Self = OrderState::Unrecognized;
}

impl KnownValues for StepState {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("NotApplicable", StepState::NotApplicable),
        ("ActionRequired", StepState::ActionRequired),
        ("Completed", StepState::Completed),
        ("InProgress", StepState::InProgress),
        ("Unknown", StepState::Unknown),
    ];
    const UNRECOGNIZED: Self = StepState::Unrecognized;
}

impl KnownValues for DcvMethodKind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("whoisEmail", DcvMethodKind::WhoisEmail),
        ("email", DcvMethodKind::Email),
        ("csrHash", DcvMethodKind::CsrHash),
        ("manual", DcvMethodKind::Manual),
    ];
    const UNRECOGNIZED: Self = DcvMethodKind::Unrecognized;
}

impl KnownValues for ClickThroughState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("notExecuted", ClickThroughState::NotExecuted), ("Executed", ClickThroughState::Executed)];
    const UNRECOGNIZED: Self = ClickThroughState::Unrecognized;
}

impl KnownValues for CaaCheckResult {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("Empty", CaaCheckResult::Empty),
        ("Authorized", CaaCheckResult::Authorized),
        ("Not Authorized", CaaCheckResult::NotAuthorized),
        ("ERROR!", CaaCheckResult::Error),
        ("Timeout!", CaaCheckResult::Timeout),
        ("Unrecognized Critical Tag", CaaCheckResult::UnrecognizedCriticalTag),
        ("Malformed Response", CaaCheckResult::MalformedResponse),
    ];
    const UNRECOGNIZED: Self = CaaCheckResult::Unrecognized;
}

#[cfg(test)]
mod tests;
