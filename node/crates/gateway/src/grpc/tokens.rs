//! Join tokens as an administrator sees them. Making one needs the cluster key and is the assembly's work.

use ollamax_core::catalog::{Answer, Command, read};
use ollamax_proto::v1;
use ollamax_types::{RequestId, TokenId};

use super::daemon::AdminError;
use super::{Admin, status};

impl Admin {
    pub(super) fn tokens(&self) -> Result<v1::ListTokensReply, AdminError> {
        let metadata = self.metadata()?;
        // By log time it is judged whether a token still admits.
        let now = metadata.log_time();
        let tokens = read::tokens(&*metadata.view())?.into_iter().map(|token| v1::Token {
            expired: token.expires_at <= now,
            id: token.id.0,
            role: token.role.to_string(),
            uses_left: token.uses_left,
            created_at_ms: token.created_at.0,
            expires_at_ms: token.expires_at.0,
            revoked: token.revoked,
        });
        Ok(v1::ListTokensReply { tokens: tokens.collect(), view: Some(status::local_view(&metadata.status())) })
    }

    pub(super) async fn revoke(&self, request: RequestId, id: &str) -> Result<v1::RevokeTokenReply, AdminError> {
        self.change(request, Command::RevokeToken { id: TokenId(id.to_owned()) }).await?;
        Ok(v1::RevokeTokenReply {})
    }

    /// Proposes a change as the administrator; a refusal is an error here.
    pub(super) async fn change(
        &self,
        request: RequestId,
        command: Command,
    ) -> Result<ollamax_metadata::Committed, AdminError> {
        let committed = self.metadata()?.propose(request, "admin", command).await?;
        match committed.answer {
            Answer::Refused(refusal) => Err(refusal.into()),
            _ => Ok(committed),
        }
    }

    /// The same, and then this node's own state shows it: who looks here behind it does not see what was before. Where
    /// that takes too long the change is done all the same.
    pub(super) async fn change_here(&self, request: RequestId, command: Command) -> Result<(), AdminError> {
        let committed = self.change(request, command).await?;
        shown_here(&self.metadata()?, committed.revision).await;
        Ok(())
    }
}

/// Waits a little until this node's own state shows a change.
pub(super) async fn shown_here(metadata: &ollamax_metadata::Handle, revision: u64) {
    if let Err(error) = metadata.reach(revision).await {
        tracing::debug!(%error, revision, "a change is not seen here yet");
    }
}
