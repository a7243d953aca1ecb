//! `ollamax token`: permissions to join.

use std::time::Duration;

use serde_json::json;

use ollamax_proto::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token};

use crate::args::{Global, Output, TokenCommand};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { role, ttl, uses } => create(global, role, ttl, uses).await,
        TokenCommand::List => list(global).await,
        TokenCommand::Revoke { id } => revoke(global, id).await,
    }
}

async fn create(global: &Global, role: String, ttl: Duration, uses: u32) -> Result<(), Failure> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if ttl_ms == 0 || uses == 0 {
        let next = "ollamax token create --ttl 1h --uses 1";
        return Err(Failure::usage("a token needs at least one use and a life above zero", next));
    }
    let made =
        client::connect(global).await?.create_token(CreateTokenRequest { role, ttl_ms, uses }).await?.into_inner();
    let record = made.record.unwrap_or_default();
    if global.output == Output::Json {
        let mut fields = shown(&record);
        fields["token"] = made.token.into();
        fields["peerAddresses"] = made.peer_addresses.into();
        return output::json("Token", fields);
    }
    output::line(&made.token)?;
    let peers: Vec<String> = made.peer_addresses.iter().map(|address| format!(" --peer {address}")).collect();
    let talk = format!(
        "Shown once. Admits {} as {} until {}.\nOn the new machine: ollamax join TOKEN{}",
        text::count(record.uses_left as usize, "machine"),
        record.role,
        text::time(record.expires_at_ms),
        peers.concat()
    );
    output::talk(global.output, &talk);
    Ok(())
}

async fn list(global: &Global) -> Result<(), Failure> {
    let listed = client::connect(global).await?.list_tokens(ListTokensRequest {}).await?.into_inner();
    if global.output == Output::Json {
        let tokens: Vec<_> = listed.tokens.iter().map(shown).collect();
        return output::json("TokenList", json!({"tokens": tokens}));
    }
    let rows = listed.tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            token.role.clone(),
            state(token).to_owned(),
            token.uses_left.to_string(),
            text::time(token.expires_at_ms),
        ]
    });
    output::text(&output::table(&["ID", "ROLE", "STATE", "USES LEFT", "EXPIRES"], rows.collect()))
}

async fn revoke(global: &Global, id: String) -> Result<(), Failure> {
    client::connect(global).await?.revoke_token(RevokeTokenRequest { id: id.clone() }).await?;
    if global.output == Output::Json {
        return output::json("Token", json!({"id": id, "state": "revoked"}));
    }
    output::line(&format!("Token {id} is revoked."))
}

fn state(token: &Token) -> &'static str {
    match token {
        token if token.revoked => "revoked",
        token if token.expired => "expired",
        token if token.uses_left == 0 => "used up",
        _ => "valid",
    }
}

fn shown(token: &Token) -> serde_json::Value {
    json!({
        "id": token.id,
        "role": token.role,
        "state": state(token),
        "usesLeft": token.uses_left,
        "createdAtMs": token.created_at_ms,
        "expiresAtMs": token.expires_at_ms,
    })
}
