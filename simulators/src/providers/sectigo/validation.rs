//! The Validation Manager page of an order, as `!getPostPaymentStatus` returns it.
//!
//! Names and order of the fields are those of the page's parameter tables and sample. Absent fields
//! are left out of the answer. Status words are plain texts, so that undocumented words can be put
//! too; the documentation of each field lists the documented ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `data` (PostPaymentData) without its `orderNumber`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PostPaymentData {
    /// The product type identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_type: Option<i64>,
    /// The product's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_name: Option<String>,
    /// In days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_duration: Option<i64>,
    /// In days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_term: Option<i64>,
    /// Where documents are uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_document_url: Option<String>,
    /// A JSON Web Token for the upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_document_token: Option<String>,
    /// `Current`, `Awaiting Payment`, `Payment Promised`, `Pending`, `Awaiting Authorization`,
    /// `Processed`, `Rejected`, `Refunded`, `ERROR!!!`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_status: Option<String>,
    /// The common name, or `Multiple domains`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// Multi-domain only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_domain_name: Option<String>,
    /// Multi-domain only.
    #[serde(rename = "maxMDCDomains", skip_serializing_if = "Option::is_none")]
    pub max_mdc_domains: Option<i64>,
    /// Multi-domain only.
    #[serde(rename = "maxMDCWildcardDomains", skip_serializing_if = "Option::is_none")]
    pub max_mdc_wildcard_domains: Option<i64>,
    /// -1 not-required, 0 not-completed, 1 completed, 2 in-progress, 3 rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ma_status: Option<i64>,
    /// The CSR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr_status: Option<CsrStatus>,
    /// Domain control validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcv_status: Option<DcvStatus>,
    /// The subscriber agreement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement_status: Option<AgreementStatus>,
    /// The callback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_status: Option<CallbackStatus>,
    /// The organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_status: Option<OrganizationStatus>,
    /// The second approval of an EV order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_approval_status: Option<SectionStatus>,
    /// The fast service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsup_status: Option<SectionStatus>,
    /// The CAA check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caa_check_status: Option<CaaCheckStatus>,
}

/// A section that has nothing but its head: `secondApprovalStatus`, `fsupStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SectionStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `NotApplicable`, `ActionRequired`, `Completed`, `InProgress`, `Unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `csrStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CsrStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `needProvideCSR`, `canReplaceCSR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_actions: Option<Vec<String>>,
}

/// `dcvStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DcvStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `selectDCVMethod`, `canChangeDCVMethod`, `enterDCVCode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_actions: Option<Vec<String>>,
    /// One element for a single-domain certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains: Option<Vec<DomainDescription>>,
    /// The MD5 hash of the CSR.
    #[serde(rename = "MD5", skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// The SHA256 hash of the CSR.
    #[serde(rename = "SHA256", skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A unique request token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_value: Option<String>,
}

/// One domain of `dcvStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DomainDescription {
    /// The domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// `NotApplicable`, `InProgress`, `Completed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcv_status: Option<String>,
    /// The selected method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_method: Option<String>,
    /// What there is to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<DcvMethod>>,
}

/// One method of one domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DcvMethod {
    /// `whoisEmail`, `email`, `csrHash`, `manual`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The level of the list of addresses, for `email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The selected method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_method: Option<String>,
    /// Addresses; or `CNAME CSR Hash`, `HTTP CSR Hash`, `HTTPS CSR Hash`; or `Manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
}

/// `agreementStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AgreementStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `notExecuted`, `Executed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub click_through_status: Option<String>,
    /// Where the agreement was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub click_through_email_address: Option<String>,
    /// YYYY-MM-DD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_email_sent: Option<String>,
    /// YYYY-MM-DD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_open_date: Option<String>,
    /// `canUpdateEmailAddress`, `resendAgreementEmail`, `needUpdateEmailAddress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_actions: Option<Vec<String>>,
}

/// `callbackStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CallbackStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The number that is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone_number: Option<String>,
    /// `callMeNow`, `callMeLater`, `provideCorrectPhoneNumber`, `enterCallbackCode`,
    /// `requestManualCallback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_actions: Option<Vec<String>>,
}

/// `organizationStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OrganizationStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `uploadDocument`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_actions: Option<Vec<String>>,
    /// The organization's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_name: Option<RequirementStatus>,
    /// Its legal existence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legal_existence: Option<RequirementStatus>,
    /// Its assumed name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed_name: Option<RequirementStatus>,
    /// Its physical existence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_existence: Option<RequirementStatus>,
    /// Its operational existence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operational_existence: Option<RequirementStatus>,
    /// Its brand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trademark_check: Option<RequirementStatus>,
}

/// One requirement of `organizationStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequirementStatus {
    /// The requirement's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `NotApplicable`, `InProgress`, `Completed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `caaCheckStatus`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CaaCheckStatus {
    /// The section's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As in [`SectionStatus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What failed; only beside `ActionRequired`.
    #[serde(rename = "latestCAACheckErrors", skip_serializing_if = "Option::is_none")]
    pub latest_caa_check_errors: Option<CaaCheckErrors>,
}

/// Documented as an object but described as a list: the order that is put decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(
    untagged,
    expecting = "`latestCAACheckErrors` is an object of lookupDatetime, queriedFQDN, domainName and result, or a list of such"
)]
pub enum CaaCheckErrors {
    /// One object.
    One(CaaCheckError),
    /// A list.
    Many(Vec<CaaCheckError>),
}

/// One failed lookup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CaaCheckError {
    /// YYYY-MM-DD HH24:MI:SS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup_datetime: Option<String>,
    /// What was asked for.
    #[serde(rename = "queriedFQDN", skip_serializing_if = "Option::is_none")]
    pub queried_fqdn: Option<String>,
    /// The domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// `Empty`, `Authorized`, `Not Authorized`, `ERROR!`, `Timeout!`, `Unrecognized Critical Tag`,
    /// `Malformed Response`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

impl PostPaymentData {
    /// An issued single-domain SSL order of `example.com`.
    pub fn processed_ssl() -> Self {
        Self::processed_ssl_for("example.com")
    }

    /// An issued single-domain SSL order.
    pub fn processed_ssl_for(domain_name: &str) -> Self {
        let text = |text: &str| Some(text.to_owned());
        let domain = DomainDescription {
            domain_name: text(domain_name),
            dcv_status: text("Completed"),
            selected_method: text("CNAME CSR Hash"),
            methods: None,
        };
        Self {
            product_type: Some(287),
            product_name: text("PositiveSSL Certificate"),
            certificate_duration: Some(365),
            product_term: Some(365),
            order_status: text("Processed"),
            domain_name: text(domain_name),
            csr_status: Some(CsrStatus {
                title: text("Submit your CSR"),
                status: text("Completed"),
                description: text("You have already submitted your CSR."),
                available_actions: None,
            }),
            dcv_status: Some(DcvStatus {
                title: text("Domain Control Validation"),
                status: text("Completed"),
                domains: Some(vec![domain]),
                ..DcvStatus::default()
            }),
            organization_status: Some(OrganizationStatus {
                title: text("Organization Validation"),
                status: text("NotApplicable"),
                ..OrganizationStatus::default()
            }),
            caa_check_status: Some(CaaCheckStatus {
                title: text("CAA Check"),
                status: text("Completed"),
                latest_caa_check_errors: None,
            }),
            ..Self::default()
        }
    }

    /// An issued multi-domain SSL order.
    pub fn processed_multi_domain() -> Self {
        Self {
            product_name: Some("PositiveSSL Multi-Domain Certificate".to_owned()),
            product_type: Some(279),
            domain_name: Some("Multiple domains".to_owned()),
            primary_domain_name: Some("multi.example.com".to_owned()),
            max_mdc_domains: Some(5),
            max_mdc_wildcard_domains: Some(0),
            ..Self::processed_ssl_for("multi.example.com")
        }
    }

    /// The sample of the documentation, a Verified Mark Certificate, field for field.
    pub fn vmc_sample() -> Self {
        serde_json::from_str(include_str!("demo/vmc_sample.json")).expect("a file of this crate that a test reads")
    }

    /// An SSL order with every section and every documented field.
    pub fn everything() -> Self {
        serde_json::from_str(include_str!("demo/everything.json")).expect("a file of this crate that a test reads")
    }
}
