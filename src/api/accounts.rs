//! `AccountService`: which accounts there are and what each provider promises. Never a secret.

use tonic::{Request, Response, Status};

use crate::api::convert;
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
        _request: Request<proto::ProbeAccountRequest>,
    ) -> Result<Response<proto::ProbeAccountResponse>, Status> {
        Err(crate::api::status::not_offered("this call is not offered yet"))
    }
}
