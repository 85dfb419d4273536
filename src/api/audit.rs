//! `AuditService`: the newest checkpoint.

use tonic::{Request, Response, Status};

use crate::api::{convert, status};
use crate::checkpoint::Checkpoints;
use crate::proto::v1 as proto;
use crate::proto::v1::audit_service_server::AuditService;

pub(super) struct AuditApi {
    pub(super) checkpoints: Checkpoints,
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    async fn get_checkpoint(
        &self,
        _request: Request<proto::GetCheckpointRequest>,
    ) -> Result<Response<proto::GetCheckpointResponse>, Status> {
        let Some(signed) = self.checkpoints.newest() else {
            let problem = "this gateway signs no checkpoints: checkpoint.file and checkpoint.key_file are not set";
            return Err(status::not_offered(problem));
        };
        let checkpoint = &signed.checkpoint;
        Ok(Response::new(proto::GetCheckpointResponse {
            sequence: i64::try_from(checkpoint.sequence).unwrap_or(i64::MAX),
            chain_hash: checkpoint.chain_hash.to_vec(),
            sign_time: Some(convert::timestamp(checkpoint.time)),
            signed_note: signed.note.clone(),
        }))
    }
}
