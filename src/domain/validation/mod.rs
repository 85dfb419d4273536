//! The validation status of a certificate order: the provider's Validation Manager page as plain
//! data.
//!
//! ```text
//! StatusAnswer (page, token) --ValidationStatus::new--> page, token, fetch time, fingerprint
//! ```
//!
//! A value that the provider adds later is never an error: an [`OpenEnum`] keeps the text beside
//! its meaning. An empty text, a zero and an empty list mean that the provider left the member out;
//! it never uses them otherwise.

mod fingerprint;

use std::fmt;

use secrecy::SecretString;

use crate::domain::clock::Timestamp;
use crate::domain::target::{FieldViolation, is_same_order, order_number_violation};

/// The validated key of one order, or of one certificate of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    order_number: String,
    certificate_id: Option<u64>,
}

/// A provider's answer: the page, and the credential that came with it.
#[derive(Debug, Clone)]
pub struct StatusAnswer {
    /// Everything that is not secret.
    pub page: ValidationPage,
    /// A JSON Web Token for the upload of documents: a credential.
    pub upload_document_token: Option<SecretString>,
}

/// The validation status of one order, and when it was fetched.
#[derive(Debug, Clone)]
pub struct ValidationStatus {
    page: ValidationPage,
    upload_document_token: Option<SecretString>,
    fetch_time: Timestamp,
    fingerprint: String,
    approximate_bytes: usize,
}

/// Everything that the provider reports about an order, in the provider's own order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidationPage {
    /// The provider's number of the order.
    pub order_number: String,
    /// `orderStatus`.
    pub order_state: Option<OpenEnum<OrderState>>,
    /// The provider's number of the product.
    pub product_type: i32,
    pub product_name: String,
    /// The validity of the certificate, in days.
    pub certificate_duration_days: i32,
    /// The term of the product, in days.
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
    /// Address for the upload of documents: https, without user information. Empty if the provider
    /// sent any other address.
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
    /// Paths of fields that are not as documented: left out, cut, or converted from another form.
    pub irregular_fields: Vec<String>,
    /// A digest of everything that no other field contains verbatim, so that the fingerprint
    /// changes with it.
    pub lossy_digest: Option<[u8; 32]>,
}

/// The members that every section and every requirement has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SectionStep {
    pub title: String,
    pub state: Option<OpenEnum<StepState>>,
    /// One sentence for the customer.
    pub description: String,
    /// Verbatim: `needProvideCSR`, `callMeNow`.
    pub available_actions: Vec<String>,
}

/// The certificate signing request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsrStatus {
    pub step: SectionStep,
}

/// Domain control validation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DcvStatus {
    pub step: SectionStep,
    /// One entry per domain.
    pub domains: Vec<DomainValidation>,
    /// MD5 of the CSR, as the provider prints it.
    pub csr_md5: String,
    /// SHA-256 of the CSR, as the provider prints it.
    pub csr_sha256: String,
    /// The request token.
    pub unique_value: String,
}

/// Domain control validation of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainValidation {
    pub domain_name: String,
    pub state: Option<OpenEnum<StepState>>,
    /// The selected method.
    pub selected_method: String,
    /// The available methods.
    pub methods: Vec<DcvMethod>,
}

/// A method to prove control of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DcvMethod {
    pub kind: Option<OpenEnum<DcvMethodKind>>,
    pub title: String,
    /// Level of the list of e-mail addresses.
    pub level: String,
    /// The selected option.
    pub selected_method: String,
    /// E-mail addresses, or ways to publish a hash.
    pub options: Vec<String>,
}

/// The subscriber agreement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgreementStatus {
    pub step: SectionStep,
    /// Whether it was accepted with a click.
    pub click_through_state: Option<OpenEnum<ClickThroughState>>,
    /// The person who is asked to accept it.
    pub click_through_email_address: String,
    /// YYYY-MM-DD, as the provider prints it.
    pub last_email_sent_date: String,
    /// YYYY-MM-DD, as the provider prints it.
    pub last_open_date: String,
}

/// The call to the organization.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallbackStatus {
    pub step: SectionStep,
    /// The number to call.
    pub phone_number: String,
}

/// The validation of the organization. A requirement is None if the provider did not send it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationStatus {
    pub step: SectionStep,
    pub organization_name: Option<SectionStep>,
    pub legal_existence: Option<SectionStep>,
    /// A name that the organization trades under.
    pub assumed_name: Option<SectionStep>,
    pub physical_existence: Option<SectionStep>,
    pub operational_existence: Option<SectionStep>,
    pub trademark_check: Option<SectionStep>,
}

/// The check of Certification Authority Authorization records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaaCheckStatus {
    pub step: SectionStep,
    /// The failures of the latest session. The provider sends them while action is required.
    pub latest_errors: Vec<CaaCheckError>,
}

/// A failed lookup of a CAA record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaaCheckError {
    /// YYYY-MM-DD HH:MM:SS, as the provider prints it, without a time zone.
    pub lookup_datetime: String,
    /// The name that was queried.
    pub queried_fqdn: String,
    /// The domain that the query was for.
    pub domain_name: String,
    pub result: Option<OpenEnum<CaaCheckResult>>,
}

/// A value of a set that the provider may extend: its meaning, and the text itself.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenEnum<M> {
    meaning: M,
    text: String,
}

/// The values that a provider documents for one field.
pub trait KnownValues: Copy + fmt::Debug + PartialEq + 'static {
    /// Each value exactly as documented; case matters.
    const VALUES: &'static [(&'static str, Self)];
    /// The meaning of any other value.
    const UNRECOGNIZED: Self;
}

/// The state of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// Not documented.
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
    /// `Refunded`: proves a refund.
    Refunded,
    /// `ERROR!!!`
    ProviderError,
}

/// The state of a section, a requirement or a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Not documented.
    Unrecognized,
    /// `NotApplicable`
    NotApplicable,
    /// `ActionRequired`: the customer must act.
    ActionRequired,
    /// `InProgress`
    InProgress,
    /// `Completed`
    Completed,
    /// `Unknown`: reported by the provider.
    Unknown,
}

/// A kind of domain control validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DcvMethodKind {
    /// Not documented.
    Unrecognized,
    /// `whoisEmail`: an address from the domain's registration.
    WhoisEmail,
    /// `email`: an address at the domain.
    Email,
    /// `csrHash`: a published hash of the CSR.
    CsrHash,
    /// `manual`
    Manual,
}

/// Whether the agreement was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClickThroughState {
    /// Not documented.
    Unrecognized,
    /// `notExecuted`
    NotExecuted,
    /// `Executed`
    Executed,
}

/// The result of a failed lookup of a CAA record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaaCheckResult {
    /// Not documented.
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

/// The state of the master account; a number at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterAccountState {
    /// Not documented.
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

/// The sections of the page, in page order.
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

/// Parses a certificate number: `Some(None)` if `digits` is empty, `None` if it is not a number
/// above 0.
fn certificate_in(digits: &str) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    let fits = digits.len() <= CERTIFICATE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| fits && *number != 0).map(Some)
}

impl OrderKey {
    /// Checks an order number and a certificate of the order, given as a number (0: none), as
    /// digits (empty: none), or as both. Without a certificate the key means the order itself.
    ///
    /// # Errors
    /// Every field that is wrong; both certificate fields if they disagree.
    pub fn new(order_number: &str, certificate_id: i64, certificate_number: &str) -> Result<Self, Vec<FieldViolation>> {
        let mut violations = Vec::from_iter(order_number_violation("order_number", order_number));
        let id = u64::try_from(certificate_id).ok().filter(|id| *id <= MAX_CERTIFICATE_ID);
        if id.is_none() {
            violations.push(FieldViolation::new("certificate_id", format!("must be 0 to {MAX_CERTIFICATE_ID}")));
        }
        let number = certificate_in(certificate_number);
        if number.is_none() {
            let right = format!("must be 1 to {CERTIFICATE_DIGITS} digits, and above 0");
            violations.push(FieldViolation::new("certificate_number", right));
        }
        let (by_id, by_number) = (id.filter(|id| *id != 0), number.flatten());
        if by_id.zip(by_number).is_some_and(|(id, number)| id != number) {
            for (field, other) in [("certificate_id", "certificate_number"), ("certificate_number", "certificate_id")] {
                violations.push(FieldViolation::new(field, format!("must be the same number as {other}, or unset")));
            }
        }
        let order_number = order_number.to_owned();
        if violations.is_empty() {
            Ok(Self { order_number, certificate_id: by_id.or(by_number) })
        } else {
            Err(violations)
        }
    }

    pub fn order_number(&self) -> &str {
        &self.order_number
    }

    /// One certificate of the order; its number has 1 to 16 digits.
    pub fn certificate_id(&self) -> Option<u64> {
        self.certificate_id
    }
}

impl ValidationStatus {
    /// `fetch_time` is when the provider was asked.
    pub fn new(answer: StatusAnswer, fetch_time: Timestamp) -> Self {
        let StatusAnswer { page, upload_document_token } = answer;
        let (fingerprint, approximate_bytes) = fingerprint::of(&page);
        Self { page, upload_document_token, fetch_time, fingerprint, approximate_bytes }
    }

    pub fn page(&self) -> &ValidationPage {
        &self.page
    }

    /// A credential: pass it on only if the caller asks for it by name.
    pub fn upload_document_token(&self) -> Option<&SecretString> {
        self.upload_document_token.as_ref()
    }

    /// When the provider was asked. The answer is at least as young.
    pub fn fetch_time(&self) -> Timestamp {
        self.fetch_time
    }

    /// SHA-256 of the page, in hexadecimal. Changes if and only if the page does.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether a text has the form of a fingerprint: 64 lower-case hexadecimal digits.
    pub fn is_fingerprint(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// A generous estimate of the memory that it takes.
    pub fn approximate_bytes(&self) -> usize {
        self.approximate_bytes
    }
}

impl ValidationPage {
    /// Whether it is the page of that order, ignoring blanks around the number.
    pub fn is_of(&self, order_number: &str) -> bool {
        is_same_order(self.order_number.trim(), order_number)
    }

    /// The sections that require action by the customer, in page order.
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
    /// Reads a provider's value; None if it is empty. The meaning comes from the raw text. `shown`
    /// makes the text that is kept: escaping a control character must not turn one value into
    /// another.
    pub fn read(text: &str, shown: impl FnOnce(&str) -> String) -> Option<Self> {
        let known = M::VALUES.iter().find(|(value, _)| *value == text);
        let meaning = known.map_or(M::UNRECOGNIZED, |(_, meaning)| *meaning);
        (!text.is_empty()).then(|| Self { meaning, text: shown(text) })
    }

    pub fn meaning(&self) -> M {
        self.meaning
    }

    /// The value verbatim, except for escaped control and format characters.
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
    const VALUES: &'static [(&'static str, Self)] = &[
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
    const VALUES: &'static [(&'static str, Self)] = &[
        ("NotApplicable", StepState::NotApplicable),
        ("ActionRequired", StepState::ActionRequired),
        ("Completed", StepState::Completed),
        ("InProgress", StepState::InProgress),
        ("Unknown", StepState::Unknown),
    ];
    const UNRECOGNIZED: Self = StepState::Unrecognized;
}

impl KnownValues for DcvMethodKind {
    const VALUES: &'static [(&'static str, Self)] = &[
        ("whoisEmail", DcvMethodKind::WhoisEmail),
        ("email", DcvMethodKind::Email),
        ("csrHash", DcvMethodKind::CsrHash),
        ("manual", DcvMethodKind::Manual),
    ];
    const UNRECOGNIZED: Self = DcvMethodKind::Unrecognized;
}

impl KnownValues for ClickThroughState {
    const VALUES: &'static [(&'static str, Self)] =
        &[("notExecuted", ClickThroughState::NotExecuted), ("Executed", ClickThroughState::Executed)];
    const UNRECOGNIZED: Self = ClickThroughState::Unrecognized;
}

impl KnownValues for CaaCheckResult {
    const VALUES: &'static [(&'static str, Self)] = &[
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
