//! `AccountService`: the accounts, their retry contracts and their health. Never a secret.

use tonic::{Request, Response, Status};

use crate::api::convert::{self, Violations};
use crate::api::deadline::Deadline;
use crate::api::layers::authentication::Grant;
use crate::api::layers::permits::CallPermit;
use crate::api::status;
use crate::domain::authority::Authority;
use crate::domain::ids::AccountName;
use crate::domain::probe::{Credentials, ProbeReport};
use crate::engine::Engine;
use crate::proto::v1 as proto;
use crate::proto::v1::account_service_server::AccountService;

pub(super) struct AccountsApi {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl AccountService for AccountsApi {
    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let accounts = deadline.bound(self.accounts(&by)).await?;
        Ok(Response::new(proto::ListAccountsResponse { accounts }))
    }

    async fn pause_account(
        &self,
        request: Request<proto::PauseAccountRequest>,
    ) -> Result<Response<proto::PauseAccountResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let request = request.into_inner();
        let mut violations = Violations::default();
        let account = violations.ok_or_record("account", AccountName::parse(&request.account));
        let reason = convert::sentence("reason", &request.reason, &mut violations);
        let account = violations.into_result(account)?;
        let pause = self.engine.pause(account.clone(), reason, by.clone());
        deadline.recorded(pause).await?;
        Ok(Response::new(proto::PauseAccountResponse { account: self.account(&by, &account).await? }))
    }

    async fn resume_account(
        &self,
        request: Request<proto::ResumeAccountRequest>,
    ) -> Result<Response<proto::ResumeAccountResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let mut violations = Violations::default();
        let account = violations.ok_or_record("account", AccountName::parse(&request.get_ref().account));
        let account = violations.into_result(account)?;
        deadline.recorded(self.engine.resume(account.clone(), by.clone())).await?;
        Ok(Response::new(proto::ResumeAccountResponse { account: self.account(&by, &account).await? }))
    }

    async fn probe_account(
        &self,
        request: Request<proto::ProbeAccountRequest>,
    ) -> Result<Response<proto::ProbeAccountResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let by = Grant::of(&request)?.by;
        let mut violations = Violations::default();
        let account = violations.ok_or_record("account", AccountName::parse(&request.get_ref().account));
        let account = violations.into_result(account)?;
        CallPermit::of(&request).begin_wait()?;
        let probe = async { self.engine.probe(&by, &account).await.map_err(status::from_engine) };
        let report = deadline.bound(probe).await?;
        Ok(Response::new(to_proto(report)))
    }
}

impl AccountsApi {
    /// All accounts that the caller may use, by name.
    async fn accounts(&self, by: &Authority) -> Result<Vec<proto::Account>, Status> {
        let pending = self.engine.pending_counts().await.map_err(status::from_engine)?;
        let pending_of = |account: &AccountName| pending.get(account).copied().unwrap_or(0);
        let accounts = self.engine.accounts();
        let visible = accounts.iter().filter(|status| by.sees(&status.account.name));
        Ok(visible.map(|status| convert::account(status, pending_of(&status.account.name))).collect())
    }

    async fn account(&self, by: &Authority, name: &AccountName) -> Result<Option<proto::Account>, Status> {
        Ok(self.accounts(by).await?.into_iter().find(|account| account.account == name.as_str()))
    }
}

fn to_proto(report: ProbeReport) -> proto::ProbeAccountResponse {
    use proto::probe_account_response::Credentials as ProtoCredentials;
    let credentials = match report.credentials {
        Credentials::Accepted => ProtoCredentials::Accepted,
        Credentials::Refused => ProtoCredentials::Refused,
        Credentials::Unknown => ProtoCredentials::Unknown,
    };
    proto::ProbeAccountResponse {
        reached: report.reached,
        credentials: credentials.into(),
        findings: report.findings.into_iter().map(|finding| finding.sentence).collect(),
    }
}
