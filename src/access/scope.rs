//! Scopes, and the one that each method needs.

use std::fmt;

/// A right to call some methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    RefundsCreate,
    RefundsRead,
    RefundsCancel,
    RefundsReconcile,
    RefundsResolve,
    RefundsApprove,
    EventsRead,
    ValidationRead,
    /// To get the upload token with a validation status: a credential of the provider.
    ValidationToken,
    AccountsRead,
    AccountsOperate,
    AuditRead,
}

/// What a call of a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing, not even a credential.
    Nothing,
    /// Any caller of the access file.
    Caller,
    Scope(Scope),
}

/// Every method that this port offers. One without a row here is refused; a test compares the table
/// with the descriptors of the contract.
const METHODS: &[(&str, Requirement)] = &[
    ("/grpc.health.v1.Health/Check", Requirement::Nothing),
    ("/grpc.health.v1.Health/Watch", Requirement::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Requirement::Caller),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Requirement::Caller),
    ("/recoup.v1.AccountService/ListAccounts", Requirement::Scope(Scope::AccountsRead)),
    ("/recoup.v1.AccountService/PauseAccount", Requirement::Scope(Scope::AccountsOperate)),
    ("/recoup.v1.AccountService/ProbeAccount", Requirement::Scope(Scope::AccountsOperate)),
    ("/recoup.v1.AccountService/ResumeAccount", Requirement::Scope(Scope::AccountsOperate)),
    ("/recoup.v1.AuditService/GetCheckpoint", Requirement::Scope(Scope::AuditRead)),
    ("/recoup.v1.RefundService/ApproveRefund", Requirement::Scope(Scope::RefundsApprove)),
    ("/recoup.v1.RefundService/CancelRefund", Requirement::Scope(Scope::RefundsCancel)),
    ("/recoup.v1.RefundService/CreateRefund", Requirement::Scope(Scope::RefundsCreate)),
    ("/recoup.v1.RefundService/GetRefund", Requirement::Scope(Scope::RefundsRead)),
    ("/recoup.v1.RefundService/ListRefundEvents", Requirement::Scope(Scope::RefundsRead)),
    ("/recoup.v1.RefundService/ListRefunds", Requirement::Scope(Scope::RefundsRead)),
    ("/recoup.v1.RefundService/ReassignRefund", Requirement::Scope(Scope::RefundsResolve)),
    ("/recoup.v1.RefundService/ReconcileRefund", Requirement::Scope(Scope::RefundsReconcile)),
    ("/recoup.v1.RefundService/RejectRefund", Requirement::Scope(Scope::RefundsApprove)),
    ("/recoup.v1.RefundService/ResolveRefund", Requirement::Scope(Scope::RefundsResolve)),
    ("/recoup.v1.RefundService/StreamRefundEvents", Requirement::Scope(Scope::EventsRead)),
    ("/recoup.v1.RefundService/WaitRefund", Requirement::Scope(Scope::RefundsRead)),
    ("/recoup.v1.ValidationStatusService/GetValidationStatus", Requirement::Scope(Scope::ValidationRead)),
    ("/recoup.v1.ValidationStatusService/WatchValidationStatus", Requirement::Scope(Scope::ValidationRead)),
];

impl Requirement {
    /// What a call of the method needs. None: there is no such method, so it is refused.
    pub fn of(path: &str) -> Option<Self> {
        let row = METHODS.binary_search_by(|(method, _)| (*method).cmp(path)).ok()?;
        METHODS.get(row).map(|(_, requirement)| *requirement)
    }
}

impl Scope {
    pub const ALL: [Scope; 12] = [
        Scope::RefundsCreate,
        Scope::RefundsRead,
        Scope::RefundsCancel,
        Scope::RefundsReconcile,
        Scope::RefundsResolve,
        Scope::RefundsApprove,
        Scope::EventsRead,
        Scope::ValidationRead,
        Scope::ValidationToken,
        Scope::AccountsRead,
        Scope::AccountsOperate,
        Scope::AuditRead,
    ];

    /// As the access file names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::RefundsCreate => "refunds:create",
            Scope::RefundsRead => "refunds:read",
            Scope::RefundsCancel => "refunds:cancel",
            Scope::RefundsReconcile => "refunds:reconcile",
            Scope::RefundsResolve => "refunds:resolve",
            Scope::RefundsApprove => "refunds:approve",
            Scope::EventsRead => "events:read",
            Scope::ValidationRead => "validation:read",
            Scope::ValidationToken => "validation:token",
            Scope::AccountsRead => "accounts:read",
            Scope::AccountsOperate => "accounts:operate",
            Scope::AuditRead => "audit:read",
        }
    }

    /// The inverse of [`Scope::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text)
    }

    /// The methods that the scope opens, by their last names.
    pub fn methods(self) -> impl Iterator<Item = &'static str> {
        let opened = METHODS.iter().filter(move |(_, requirement)| *requirement == Requirement::Scope(self));
        opened.filter_map(|(method, _)| method.rsplit('/').next())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/recoup_descriptors.bin"));

    #[test]
    fn the_table_holds_exactly_the_methods_of_the_contract() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut offered = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    offered.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        assert!(offered.len() > 10, "the descriptors were not found");
        let ours = METHODS.iter().map(|(method, _)| *method).filter(|method| method.starts_with("/recoup."));
        let ours: BTreeSet<String> = ours.map(str::to_owned).collect();
        assert_eq!(ours, offered);
    }

    #[test]
    fn the_table_is_sorted_for_the_binary_search() {
        assert!(METHODS.is_sorted_by(|one, next| one.0 < next.0));
        assert!(METHODS.iter().all(|(method, requirement)| Requirement::of(method) == Some(*requirement)));
        assert_eq!(Requirement::of("/recoup.v1.RefundService/DeleteRefund"), None);
        assert_eq!(Requirement::of(""), None);
    }

    #[test]
    fn only_health_needs_no_credential_and_only_reflection_no_scope() {
        for (method, requirement) in METHODS {
            match requirement {
                Requirement::Nothing => assert!(method.starts_with("/grpc.health.v1.Health/"), "{method}"),
                Requirement::Caller => assert!(method.starts_with("/grpc.reflection."), "{method}"),
                Requirement::Scope(scope) => assert_eq!(Scope::parse(scope.as_str()), Some(*scope)),
            }
        }
    }
}
