//! The notes in answers, with the exact texts of the pages InitiateRefund and "SOAP API Error
//! Codes".

/// One entry of ResponseNotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) kind: NoteType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoteType {
    Error,
    Warning,
    Info,
}

/// A code with its fixed text and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(&'static str, &'static str, NoteType);

pub(super) const SUCCESS: Code = Code("00", "Success", NoteType::Info);
pub(super) const INVALID_CREDENTIALS: Code = Code("02", "Invalid user credentials", NoteType::Error);
pub(super) const MULTIPLE_ACCOUNTS: Code = Code("07", "Multiple accounts found with this criteria", NoteType::Error);
pub(super) const NO_RECORD: Code = Code("08", "There is no record found with this criteria", NoteType::Error);
pub(super) const MISSING_REFERENCE: Code = Code(
    "12016",
    "Missing required reference number. Must provide either ExternalAccountReferenceNo or AccountReferenceNo or both.",
    NoteType::Error,
);
pub(super) const MISSING_DESCRIPTION: Code = Code("12017", "Missing Description", NoteType::Error);
pub(super) const INVALID_AMOUNT: Code = Code("13012", "Invalid Amount value", NoteType::Error);
pub(super) const EXCEEDS_PAID: Code = Code("13040", "Refund amount exceeds amount that has been paid", NoteType::Error);
pub(super) const IDENTIFIER_TOO_LONG: Code =
    Code("13203", "ExternalRefundIdentifier cannot be more than 50 characters.", NoteType::Error);
pub(super) const IDENTIFIER_CHARACTERS: Code =
    Code("13204", "ExternalRefundIdentifier field contains unallowed characters", NoteType::Error);
/// The documented text with its placeholder filled: Amount is the only decimal.
pub(super) const DECIMALS_IGNORED: Code = Code(
    "14021",
    "Decimal field 'Amount' contains more than 2 decimal points that were ignored by message.",
    NoteType::Warning,
);
pub(super) const IDENTIFIER_EXISTS: Code =
    Code("14143", "ExternalRefundIdentifier already exists for a Refund for this Account", NoteType::Error);

// System-wide codes, which any method can return.
pub(super) const NOT_AVAILABLE: Code = Code("01", "The server is not available", NoteType::Error);
pub(super) const TIMED_OUT: Code = Code("05", "Request Time out", NoteType::Error);
pub(super) const UNKNOWN_EXCEPTION: Code =
    Code("06", "Unknown exception occurred during processing of this message", NoteType::Error);
pub(super) const NOT_COMPLETED: Code = Code("09", "Failed to complete the process", NoteType::Error);
pub(super) const NOT_ACTIVE: Code = Code("10", "Account is not active", NoteType::Error);
pub(super) const DEADLOCK: Code = Code("11", "Timeout/Deadlock Error - Please retry", NoteType::Error);
pub(super) const MESSAGE_VALIDATION: Code = Code("100", "SOAP message validation error", NoteType::Error);

/// All error codes of InitiateRefund.
const ERRORS: [Code; 17] = [
    INVALID_CREDENTIALS,
    MULTIPLE_ACCOUNTS,
    NO_RECORD,
    MISSING_REFERENCE,
    MISSING_DESCRIPTION,
    INVALID_AMOUNT,
    EXCEEDS_PAID,
    IDENTIFIER_TOO_LONG,
    IDENTIFIER_CHARACTERS,
    IDENTIFIER_EXISTS,
    NOT_AVAILABLE,
    TIMED_OUT,
    UNKNOWN_EXCEPTION,
    NOT_COMPLETED,
    NOT_ACTIVE,
    DEADLOCK,
    MESSAGE_VALIDATION,
];

/// The error of a code.
pub(super) fn by_code(code: &str) -> Option<Code> {
    ERRORS.into_iter().find(|error| error.0 == code)
}

impl Note {
    /// Whether it reports an error in processing, after which the outcome of the request is
    /// unknown.
    pub(super) fn is_about_processing(&self) -> bool {
        [NOT_AVAILABLE, TIMED_OUT, UNKNOWN_EXCEPTION, NOT_COMPLETED, DEADLOCK].iter().any(|code| code.0 == self.code)
    }

    /// Uses the wording of the page of system-wide codes for 00 and 02.
    pub(super) fn take_system_text(&mut self) {
        match self.code {
            "00" => "Success!".clone_into(&mut self.text),
            "02" => "Invalid credentials provided".clone_into(&mut self.text),
            _ => {}
        }
    }
}

impl Code {
    /// The note of this code.
    pub(super) fn note(self) -> Note {
        Note { code: self.0, text: self.1.to_owned(), kind: self.2 }
    }
}
