//! Reads the answer to `!getPostPaymentStatus`, as documented (Sectigo, "Endpoint:
//! !getPostPaymentStatus"), and in every other form that loses nothing.
//!
//! ```text
//! { errorCode, errorMessage, data: {
//!     orderNumber, orderStatus, .., csrStatus: {..}, .., caaCheckStatus: {..} } }
//! ```
//!
//! Only the error code and the data are required. Everything else may be absent or irregular, and
//! undocumented members are ignored.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use secrecy::SecretString;

use super::json::{Irregularities, JsonDocument, PageError, PageFields};
use crate::domain::validation::{
    AgreementStatus, CaaCheckError, CaaCheckStatus, CallbackStatus, CsrStatus, DcvMethod, DcvStatus, DomainValidation,
    MasterAccountState, OrganizationStatus, SectionStep, StatusAnswer, ValidationPage,
};
use crate::http::client::HttpResponse;
use crate::providers::Url;
use crate::providers::redact::Redactor;

/// What an answer contains, before it is interpreted.
#[derive(Debug)]
pub(crate) enum OrderStatusReply {
    /// `errorCode` 0: the page of some order.
    Page(Box<StatusAnswer>),
    /// Any other `errorCode`, with its `errorMessage`.
    Error {
        code: i32,
        /// Safe to show.
        message: String,
    },
}

/// Reads the pages of one account, and logs each kind of irregular field once.
pub(crate) struct PageReader {
    redactor: Redactor,
    logged: Mutex<BTreeSet<String>>,
}

impl PageReader {
    /// Texts are kept without the secrets of `redactor`.
    pub(crate) fn new(redactor: Redactor) -> Self {
        Self { redactor, logged: Mutex::default() }
    }

    pub(super) fn read(&self, answer: &HttpResponse) -> Result<OrderStatusReply, PageError> {
        let document = JsonDocument::decode(answer);
        let irregularities = Irregularities::new(&self.redactor);
        let mut reply = read_reply(&document.root(&irregularities)?)?;
        let (irregular_fields, lossy_digest) = irregularities.finish();
        self.log_new_kinds(&irregular_fields);
        if let OrderStatusReply::Page(answer) = &mut reply {
            answer.page.irregular_fields = irregular_fields;
            answer.page.lossy_digest = lossy_digest;
        }
        Ok(reply)
    }

    /// Logs kinds, not paths: which of a page's domains has an irregular field says nothing new.
    /// The set is bounded, because there are as many kinds as documented fields.
    fn log_new_kinds(&self, paths: &[String]) {
        for path in paths {
            let kind = kind_of(path);
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if !logged.contains(&kind) {
                tracing::warn!(field = kind, "sectigo order status has an undocumented form of a field");
                logged.insert(kind);
            }
        }
    }
}

/// `data.dcvStatus.domains[3].methods` becomes `data.dcvStatus.domains[].methods`.
fn kind_of(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once(']')).fold(first, |kind, (_, rest)| kind + "[]" + rest)
}

fn read_reply(root: &PageFields<'_>) -> Result<OrderStatusReply, PageError> {
    match root.required_integer("errorCode")? {
        0 => Ok(OrderStatusReply::Page(Box::new(read_page(&root.required_object("data")?)))),
        code => Ok(OrderStatusReply::Error { code, message: root.text("errorMessage") }),
    }
}

fn read_page(data: &PageFields<'_>) -> StatusAnswer {
    let page = ValidationPage {
        order_number: data.text("orderNumber"),
        order_state: data.open_enum("orderStatus"),
        product_type: data.integer("productType").unwrap_or_default(),
        product_name: data.text("productName"),
        certificate_duration_days: data.integer("certificateDuration").unwrap_or_default(),
        product_term_days: data.integer("productTerm").unwrap_or_default(),
        domain_name: data.text("domainName"),
        primary_domain_name: data.text("primaryDomainName"),
        max_domains: data.integer("maxMDCDomains").unwrap_or_default(),
        max_wildcard_domains: data.integer("maxMDCWildcardDomains").unwrap_or_default(),
        master_account_state: data.integer("maStatus").map(MasterAccountState::read),
        upload_document_url: data.whole_text("uploadDocumentUrl", is_safe_to_follow).unwrap_or_default(),
        csr: data.object("csrStatus").as_ref().map(csr),
        dcv: data.object("dcvStatus").as_ref().map(dcv),
        agreement: data.object("agreementStatus").as_ref().map(agreement),
        callback: data.object("callbackStatus").as_ref().map(callback),
        organization: data.object("organizationStatus").as_ref().map(organization),
        second_approval: data.object("secondApprovalStatus").as_ref().map(step),
        fast_service: data.object("fsupStatus").as_ref().map(step),
        caa_check: data.object("caaCheckStatus").as_ref().map(caa_check),
        ..ValidationPage::default()
    };
    StatusAnswer { page, upload_document_token: data.credential("uploadDocumentToken").map(SecretString::from) }
}

/// Whether an address is safe to show to a person who may open it: https, and no user information,
/// which can make one host look like another. Also refuses what address parsers disagree about:
/// blanks, backslashes and characters beyond ASCII.
fn is_safe_to_follow(address: &str) -> bool {
    let is_plain = address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let written = address.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).and(address.get(8..));
    let authority = written.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    is_plain && !authority.is_empty() && !authority.contains('@') && Url::parse(address).is_ok()
}

fn step(fields: &PageFields<'_>) -> SectionStep {
    SectionStep {
        title: fields.text("title"),
        state: fields.open_enum("status"),
        description: fields.text("description"),
        available_actions: fields.texts("availableActions"),
    }
}

fn csr(fields: &PageFields<'_>) -> CsrStatus {
    CsrStatus { step: step(fields) }
}

fn dcv(fields: &PageFields<'_>) -> DcvStatus {
    DcvStatus {
        step: step(fields),
        domains: fields.objects("domains", domain),
        csr_md5: fields.text("MD5"),
        csr_sha256: fields.text("SHA256"),
        unique_value: fields.text("uniqueValue"),
    }
}

fn domain(fields: &PageFields<'_>) -> DomainValidation {
    DomainValidation {
        domain_name: fields.text("domainName"),
        state: fields.open_enum("dcvStatus"),
        selected_method: fields.text("selectedMethod"),
        methods: fields.objects("methods", method),
    }
}

fn method(fields: &PageFields<'_>) -> DcvMethod {
    DcvMethod {
        kind: fields.open_enum("type"),
        title: fields.text("title"),
        level: fields.text("level"),
        selected_method: fields.text("selectedMethod"),
        options: fields.texts("options"),
    }
}

fn agreement(fields: &PageFields<'_>) -> AgreementStatus {
    AgreementStatus {
        step: step(fields),
        click_through_state: fields.open_enum("clickThroughStatus"),
        click_through_email_address: fields.text("clickThroughEmailAddress"),
        last_email_sent_date: fields.text("lastEmailSent"),
        last_open_date: fields.text("lastOpenDate"),
    }
}

fn callback(fields: &PageFields<'_>) -> CallbackStatus {
    CallbackStatus { step: step(fields), phone_number: fields.text("phoneNumber") }
}

fn organization(fields: &PageFields<'_>) -> OrganizationStatus {
    let requirement = |name| fields.object(name).as_ref().map(step);
    OrganizationStatus {
        step: step(fields),
        organization_name: requirement("organizationName"),
        legal_existence: requirement("legalExistence"),
        assumed_name: requirement("assumedName"),
        physical_existence: requirement("physicalExistence"),
        operational_existence: requirement("operationalExistence"),
        trademark_check: requirement("trademarkCheck"),
    }
}

fn caa_check(fields: &PageFields<'_>) -> CaaCheckStatus {
    // Documented as an object but described as a list, so it may be either.
    CaaCheckStatus { step: step(fields), latest_errors: fields.object_or_objects("latestCAACheckErrors", caa_error) }
}

fn caa_error(fields: &PageFields<'_>) -> CaaCheckError {
    CaaCheckError {
        lookup_datetime: fields.text("lookupDatetime"),
        queried_fqdn: fields.text("queriedFQDN"),
        domain_name: fields.text("domainName"),
        result: fields.open_enum("result"),
    }
}
