//! Tokens at the administrators' door.

use ollamax_core::catalog::{Command, read};
use ollamax_proto::v1;
use ollamax_types::{Role, TokenId};

use crate::desk::Desk;

#[tokio::test]
async fn a_token_has_expired_when_log_time_says_so() {
    let desk = Desk::start().await;
    let id = || TokenId("short".to_owned());
    let (secret_sha256, role) = ([6; 32], Role::Voter);
    desk.change(Command::CreateToken { id: id(), secret_sha256, role, uses: 1, ttl_ms: 1 }).await;
    let noted = read::token(&*desk.metadata.view(), &id()).expect("readable").expect("on record");
    while desk.metadata.log_time() < noted.expires_at {
        tokio::task::yield_now().await;
    }
    let told = desk.admin().list_tokens(v1::ListTokensRequest {}).await.expect("told").into_inner();
    let expired: Vec<&str> = told.tokens.iter().filter(|one| one.expired).map(|one| one.id.as_str()).collect();
    assert_eq!(expired, ["short"]);
    let short = told.tokens.iter().find(|one| one.id == "short").map(|one| one.expires_at_ms);
    assert_eq!(short, Some(noted.expires_at.0));
    desk.finish().await;
}
