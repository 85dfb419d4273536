//! `AccountService`: which accounts there are, what each provider promises, and whether it can be
//! used. Never a secret.

use tonic::{Request, Response, Status};

use crate::api::convert::{self, Faults};
use crate::api::deadline::Deadline;
use crate::api::status;
use crate::domain::ids::AccountName;
use crate::domain::probe::{Credentials, ProbeReport};
use crate::engine::Engine;
use crate::proto::v1 as proto;
use crate::proto::v1::account_service_server::AccountService;

/// The service over one engine.
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
        let deadline = Deadline::of(request.metadata());
        let mut faults = Faults::default();
        let account = faults.take("account", AccountName::parse(&request.get_ref().account));
        let account = faults.finish(account)?;
        let report = deadline.bound(async { self.engine.probe(&account).await.map_err(status::of_engine) }).await?;
        Ok(Response::new(shown(report)))
    }
}

/// A report as the contract shows it.
fn shown(report: ProbeReport) -> proto::ProbeAccountResponse {
    use proto::probe_account_response::Credentials as OpenEnum;
    let credentials = match report.credentials {
        Credentials::Accepted => OpenEnum::Accepted,
        Credentials::Refused => OpenEnum::Refused,
        Credentials::Unknown => OpenEnum::Unknown,
    };
    proto::ProbeAccountResponse {
        reached: report.reached,
        credentials: credentials.into(),
        findings: report.findings.into_iter().map(|finding| finding.sentence).collect(),
    }
}
