//! The answer to `!getPostPaymentStatus`, exactly as documented (Sectigo, "Endpoint: !getPostPaymentStatus").
//!
//! ```text
//! { errorCode, errorMessage, data: { orderNumber, orderStatus, .., csrStatus: {..}, .., caaCheckStatus: {..} } }
//! ```
//!
//! Everything besides the error code and the data may be left out; what is not documented is passed over.

use secrecy::SecretString;

use super::json::{Document, Fields, Problem};
use crate::domain::validation::{
    AgreementStatus, CaaCheckError, CaaCheckStatus, CallbackStatus, CsrStatus, DcvMethod, DcvStatus, DomainValidation,
    MasterAccountState, OrganizationStatus, Page, StatusAnswer, Step, Word,
};

/// What an answer says, before anybody asks what it means.
#[derive(Debug)]
pub(super) enum Reply {
    /// `errorCode` 0: the page, of whatever order it is.
    Page(Box<StatusAnswer>),
    /// Any other `errorCode`, with its `errorMessage`.
    Error {
        /// As sent.
        code: i32,
        /// As sent, and bounded only in length.
        message: String,
    },
}

/// Reads an answer.
pub(super) fn read(body: &[u8]) -> Result<Reply, Problem> {
    let document = Document::read(body)?;
    let root = document.root()?;
    match root.integer("errorCode")? {
        None => Err(root.problem("errorCode", "is missing")),
        Some(0) => match root.object("data")? {
            None => Err(root.problem("data", "is missing")),
            Some(data) => Ok(Reply::Page(Box::new(answer(&data)?))),
        },
        Some(code) => Ok(Reply::Error { code, message: root.text("errorMessage")? }),
    }
}

fn answer(data: &Fields<'_>) -> Result<StatusAnswer, Problem> {
    let page = Page {
        order_number: data.text("orderNumber")?,
        order_state: Word::read(data.text("orderStatus")?),
        product_type: data.integer("productType")?.unwrap_or_default(),
        product_name: data.text("productName")?,
        certificate_duration_days: data.integer("certificateDuration")?.unwrap_or_default(),
        product_term_days: data.integer("productTerm")?.unwrap_or_default(),
        domain_name: data.text("domainName")?,
        primary_domain_name: data.text("primaryDomainName")?,
        max_domains: data.integer("maxMDCDomains")?.unwrap_or_default(),
        max_wildcard_domains: data.integer("maxMDCWildcardDomains")?.unwrap_or_default(),
        master_account_state: data.integer("maStatus")?.map(MasterAccountState::read),
        upload_document_url: data.text("uploadDocumentUrl")?,
        csr: section(data, "csrStatus", csr)?,
        dcv: section(data, "dcvStatus", dcv)?,
        agreement: section(data, "agreementStatus", agreement)?,
        callback: section(data, "callbackStatus", callback)?,
        organization: section(data, "organizationStatus", organization)?,
        second_approval: section(data, "secondApprovalStatus", step)?,
        fast_service: section(data, "fsupStatus", step)?,
        caa_check: section(data, "caaCheckStatus", caa_check)?,
    };
    let token = data.text("uploadDocumentToken")?;
    Ok(StatusAnswer { page, upload_document_token: (!token.is_empty()).then(|| SecretString::from(token)) })
}

fn section<T>(
    parent: &Fields<'_>,
    name: &str,
    read: impl FnOnce(&Fields<'_>) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    parent.object(name)?.map(|fields| read(&fields)).transpose()
}

fn step(fields: &Fields<'_>) -> Result<Step, Problem> {
    Ok(Step {
        title: fields.text("title")?,
        state: Word::read(fields.text("status")?),
        description: fields.text("description")?,
        available_actions: fields.texts("availableActions")?,
    })
}

fn csr(fields: &Fields<'_>) -> Result<CsrStatus, Problem> {
    Ok(CsrStatus { step: step(fields)? })
}

fn dcv(fields: &Fields<'_>) -> Result<DcvStatus, Problem> {
    Ok(DcvStatus {
        step: step(fields)?,
        domains: fields.objects("domains")?.iter().map(domain).collect::<Result<_, _>>()?,
        csr_md5: fields.text("MD5")?,
        csr_sha256: fields.text("SHA256")?,
        unique_value: fields.text("uniqueValue")?,
    })
}

fn domain(fields: &Fields<'_>) -> Result<DomainValidation, Problem> {
    Ok(DomainValidation {
        domain_name: fields.text("domainName")?,
        state: Word::read(fields.text("dcvStatus")?),
        selected_method: fields.text("selectedMethod")?,
        methods: fields.objects("methods")?.iter().map(method).collect::<Result<_, _>>()?,
    })
}

fn method(fields: &Fields<'_>) -> Result<DcvMethod, Problem> {
    Ok(DcvMethod {
        kind: Word::read(fields.text("type")?),
        title: fields.text("title")?,
        level: fields.text("level")?,
        selected_method: fields.text("selectedMethod")?,
        options: fields.texts("options")?,
    })
}

fn agreement(fields: &Fields<'_>) -> Result<AgreementStatus, Problem> {
    Ok(AgreementStatus {
        step: step(fields)?,
        click_through_state: Word::read(fields.text("clickThroughStatus")?),
        click_through_email_address: fields.text("clickThroughEmailAddress")?,
        last_email_sent_date: fields.text("lastEmailSent")?,
        last_open_date: fields.text("lastOpenDate")?,
    })
}

fn callback(fields: &Fields<'_>) -> Result<CallbackStatus, Problem> {
    Ok(CallbackStatus { step: step(fields)?, phone_number: fields.text("phoneNumber")? })
}

fn organization(fields: &Fields<'_>) -> Result<OrganizationStatus, Problem> {
    Ok(OrganizationStatus {
        step: step(fields)?,
        organization_name: section(fields, "organizationName", step)?,
        legal_existence: section(fields, "legalExistence", step)?,
        assumed_name: section(fields, "assumedName", step)?,
        physical_existence: section(fields, "physicalExistence", step)?,
        operational_existence: section(fields, "operationalExistence", step)?,
        trademark_check: section(fields, "trademarkCheck", step)?,
    })
}

fn caa_check(fields: &Fields<'_>) -> Result<CaaCheckStatus, Problem> {
    // Documented as an object and described as a list: it may be either.
    let latest_errors = fields.object_or_objects("latestCAACheckErrors")?;
    Ok(CaaCheckStatus {
        step: step(fields)?,
        latest_errors: latest_errors.iter().map(caa_error).collect::<Result<_, _>>()?,
    })
}

fn caa_error(fields: &Fields<'_>) -> Result<CaaCheckError, Problem> {
    Ok(CaaCheckError {
        lookup_datetime: fields.text("lookupDatetime")?,
        queried_fqdn: fields.text("queriedFQDN")?,
        domain_name: fields.text("domainName")?,
        result: Word::read(fields.text("result")?),
    })
}
