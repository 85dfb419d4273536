//! `AccountService`: the accounts, their retry contracts and their health. Never a secret.

use tonic::{Request, Response, Status};

use crate::api::convert::{self, Violations};
use crate::api::deadline::Deadline;
use crate::api::layers::permits::CallPermit;
use crate::api::status;
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
        _request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let accounts =
            self.engine.accounts().iter().map(|(account, health)| convert::account(account, *health)).collect();
        Ok(Response::new(proto::ListAccountsResponse { accounts }))
    }

    async fn probe_account(
        &self,
        request: Request<proto::ProbeAccountRequest>,
    ) -> Result<Response<proto::ProbeAccountResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let mut violations = Violations::default();
        let account = violations.ok_or_record("account", AccountName::parse(&request.get_ref().account));
        let account = violations.into_result(account)?;
        CallPermit::of(&request).begin_wait()?;
        let report = deadline.bound(async { self.engine.probe(&account).await.map_err(status::from_engine) }).await?;
        Ok(Response::new(to_proto(report)))
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
