//! Join tokens, without their secrets.
//!
//! Key: `04`, text of the token id. Value: version 1, `TokenRecord`. Written by its maker; `uses_left` and `revoked`
//! change; deleted when it is cleaned up.

use ollamax_core::catalog::{Key, Token};
use ollamax_proto::disk;
use ollamax_types::{Timestamp, TokenId};

use super::{role, text};
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x04;
const VERSION: u8 = 1;
const WHAT: &str = "token record";

pub(super) fn encode_key(id: &TokenId) -> Vec<u8> {
    text::prefixed(PREFIX, &id.0)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Token(TokenId(text::read("token key", rest)?)))
}

pub(super) fn encode(record: &Token) -> Vec<u8> {
    let message = disk::TokenRecord {
        id: record.id.0.clone(),
        secret_sha256: record.secret_sha256.to_vec(),
        role: role::encode(record.role),
        uses_left: record.uses_left,
        created_at_ms: record.created_at.0,
        expires_at_ms: record.expires_at.0,
        revoked: record.revoked,
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Token, Malformed> {
    let message: disk::TokenRecord = unseal(WHAT, VERSION, bytes)?;
    Ok(Token {
        secret_sha256: fixed(WHAT, &message.secret_sha256)?,
        role: role::decode(WHAT, message.role)?,
        id: TokenId(message.id),
        uses_left: message.uses_left,
        created_at: Timestamp(message.created_at_ms),
        expires_at: Timestamp(message.expires_at_ms),
        revoked: message.revoked,
    })
}
