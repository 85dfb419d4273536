//! A target as named fields and back, for storage that knows no provider.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::domain::ids::ProviderKind;
use crate::domain::target::{
    DebitsuccessFields, DebitsuccessTarget, FieldViolation, NamecomTarget, SectigoTarget, Target,
};

/// The value of one field of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Not empty.
    Text(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
    /// Whole numbers, in the order that the target keeps them in.
    Integers(Vec<i64>),
}

/// The fields that a target has, by name. An absent field has no entry.
pub type TargetFields<'a> = BTreeMap<Cow<'a, str>, FieldValue<'a>>;

/// Takes fields out by name, and reports those of the wrong type and those left over.
struct FieldReader<'a> {
    fields: TargetFields<'a>,
    violations: Vec<FieldViolation>,
}

impl Target {
    /// The fields of the target. Names are never reused for another meaning.
    pub fn fields(&self) -> TargetFields<'_> {
        let fields = match self {
            Target::Sectigo(order) => vec![
                Some(("order_number", FieldValue::text(order.order_number()))),
                Some(("reason_code", FieldValue::Integer(i64::from(order.reason_code())))),
            ],
            Target::Namecom(order) => vec![
                Some(("order_id", FieldValue::Integer(i64::from(order.order_id())))),
                Some((
                    "order_item_ids",
                    FieldValue::Integers(order.order_item_ids().iter().copied().map(i64::from).collect()),
                )),
            ],
            Target::Debitsuccess(account) => vec![
                account.account_reference_no().map(|text| ("account_reference_no", FieldValue::text(text))),
                account
                    .external_account_reference_no()
                    .map(|text| ("external_account_reference_no", FieldValue::text(text))),
                Some(("currency_code", FieldValue::Text(Cow::Owned(account.amount().currency.code().to_owned())))),
                Some(("minor_units", FieldValue::Integer(account.amount().minor_units))),
                Some(("description", FieldValue::text(account.description()))),
                account.request_initiator().map(|text| ("request_initiator", FieldValue::text(text))),
            ],
        };
        fields.into_iter().flatten().map(|(name, value)| (Cow::Borrowed(name), value)).collect()
    }

    /// The target of `provider` with these fields, checked as a caller's request is.
    ///
    /// # Errors
    /// Every field that is wrong, missing or not one of this provider's.
    pub fn from_fields(provider: ProviderKind, fields: TargetFields<'_>) -> Result<Target, Vec<FieldViolation>> {
        let mut reader = FieldReader { fields, violations: Vec::new() };
        // A missing field becomes a value that the constructor rejects by name.
        let target = match provider {
            ProviderKind::Sectigo => {
                let (order_number, reason_code) = (reader.text("order_number"), reader.integer("reason_code"));
                SectigoTarget::new(&order_number, reason_code.unwrap_or(0)).map(Target::Sectigo)
            }
            ProviderKind::Namecom => {
                let (order_id, item_ids) = (reader.integer("order_id"), reader.integers("order_item_ids"));
                NamecomTarget::new(order_id.unwrap_or(0), &item_ids).map(Target::Namecom)
            }
            ProviderKind::Debitsuccess => {
                let account_reference_no = reader.text("account_reference_no");
                let external_account_reference_no = reader.text("external_account_reference_no");
                let (currency_code, minor_units) = (reader.text("currency_code"), reader.integer("minor_units"));
                let (description, request_initiator) = (reader.text("description"), reader.text("request_initiator"));
                DebitsuccessTarget::new(DebitsuccessFields {
                    account_reference_no: &account_reference_no,
                    external_account_reference_no: &external_account_reference_no,
                    amount: minor_units.map(|minor_units| (&*currency_code, minor_units)),
                    description: &description,
                    request_initiator: &request_initiator,
                })
                .map(Target::Debitsuccess)
            }
        };
        reader.finish(target)
    }
}

impl<'a> FieldValue<'a> {
    fn text(text: &'a str) -> Self {
        FieldValue::Text(Cow::Borrowed(text))
    }
}

impl FieldReader<'_> {
    fn text(&mut self, name: &str) -> String {
        match self.fields.remove(name) {
            Some(FieldValue::Text(text)) => text.into_owned(),
            Some(_) => self.wrong_type(name, "must be a text"),
            None => String::new(),
        }
    }

    fn integer<T: TryFrom<i64>>(&mut self, name: &str) -> Option<T> {
        match self.fields.remove(name) {
            Some(FieldValue::Integer(number)) => match T::try_from(number) {
                Ok(number) => Some(number),
                Err(_) => self.wrong_type(name, &format!("is {number}, which is out of range")),
            },
            Some(_) => self.wrong_type(name, "must be an integer"),
            None => None,
        }
    }

    fn integers(&mut self, name: &str) -> Vec<i32> {
        match self.fields.remove(name) {
            Some(FieldValue::Integers(numbers)) => {
                let numbers: Result<Vec<i32>, _> = numbers.into_iter().map(i32::try_from).collect();
                numbers.unwrap_or_else(|_| self.wrong_type(name, "holds a number that is out of range"))
            }
            Some(_) => self.wrong_type(name, "must be a list of integers"),
            None => Vec::new(),
        }
    }

    fn wrong_type<T: Default>(&mut self, name: &str, description: &str) -> T {
        self.violations.push(FieldViolation::new(name, description));
        T::default()
    }

    fn finish(mut self, target: Result<Target, Vec<FieldViolation>>) -> Result<Target, Vec<FieldViolation>> {
        let unknown =
            self.fields.keys().map(|name| FieldViolation::new(name.as_ref(), "is not a field of this target"));
        self.violations.extend(unknown);
        match target {
            Ok(target) if self.violations.is_empty() => Ok(target),
            Ok(_) => Err(self.violations),
            Err(violations) => {
                self.violations.extend(violations);
                Err(self.violations)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn fields<'a>(fields: &[(&'a str, FieldValue<'a>)]) -> TargetFields<'a> {
        fields.iter().map(|(name, value)| (Cow::Borrowed(*name), value.clone())).collect()
    }

    fn text(text: &str) -> FieldValue<'_> {
        FieldValue::Text(Cow::Borrowed(text))
    }

    #[test]
    fn an_absent_optional_field_has_no_entry() {
        let target = DebitsuccessTarget::new(DebitsuccessFields {
            account_reference_no: "DS1",
            external_account_reference_no: "",
            amount: Some(("AUD", 1250)),
            description: "Charged twice",
            request_initiator: "",
        });
        let target = Target::Debitsuccess(target.unwrap());
        let names: Vec<String> = target.fields().into_keys().map(Cow::into_owned).collect();
        assert_eq!(names, ["account_reference_no", "currency_code", "description", "minor_units"]);
        assert_eq!(Target::from_fields(ProviderKind::Debitsuccess, target.fields()), Ok(target.clone()));
    }

    #[rstest]
    #[case::unknown(&[("order_number", text("1")), ("reason_code", FieldValue::Integer(1)), ("odd", text("x"))], "odd")]
    #[case::missing(&[("order_number", text("1"))], "reason")]
    #[case::wrong_type(&[("order_number", FieldValue::Integer(1)), ("reason_code", FieldValue::Integer(1))], "order_number")]
    #[case::out_of_range(&[("order_number", text("1")), ("reason_code", FieldValue::Integer(1 << 40))], "reason_code")]
    fn a_wrong_field_is_named(#[case] given: &[(&str, FieldValue<'_>)], #[case] named: &str) {
        let violations = Target::from_fields(ProviderKind::Sectigo, fields(given)).unwrap_err();
        assert_eq!(violations[0].field, named, "{violations:?}");
    }
}
