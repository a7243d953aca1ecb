//! Join tokens: made, withdrawn, and redeemed by [`super::members::add`].

use ollamax_types::limits::{TOKEN_TTL_MAX, TOKEN_USES_MAX, TOKENS_MAX};
use ollamax_types::{Role, Timestamp, TokenId};

use super::limit::check_identifier;
use super::{Applied, Scene, Step, Stop, invalid, put};
use crate::catalog::command::{Refusal, TokenProblem};
use crate::catalog::read;
use crate::catalog::record::{Key, Record, Token};
use crate::catalog::view::Mutation;

/// The token that is asked for.
pub(super) struct Wish<'a> {
    pub(super) id: &'a TokenId,
    pub(super) secret_sha256: &'a [u8; 32],
    pub(super) role: Role,
    pub(super) uses: u32,
    pub(super) ttl_ms: u64,
}

pub(super) fn create(scene: &Scene<'_>, wish: &Wish<'_>) -> Step {
    check_wish(wish)?;
    let now = scene.entry.log_time;
    if let Some(token) = read::token(scene.view, wish.id)? {
        let is_retry = token.secret_sha256 == *wish.secret_sha256 && token.role == wish.role;
        return if is_retry { Ok(Applied::done(Vec::new())) } else { Err(invalid("the token id is taken")) };
    }
    let mut mutations = make_room(scene)?;
    let token = Token {
        id: wish.id.clone(),
        secret_sha256: *wish.secret_sha256,
        role: wish.role,
        uses_left: wish.uses,
        created_at: now,
        expires_at: now.plus_ms(wish.ttl_ms),
        revoked: false,
    };
    mutations.push(put(Key::Token(token.id.clone()), Record::Token(token)));
    Ok(Applied::done(mutations))
}

fn check_wish(wish: &Wish<'_>) -> Result<(), Stop> {
    check_identifier("the token id", &wish.id.0)?;
    if wish.uses == 0 || wish.uses > TOKEN_USES_MAX {
        return Err(invalid(format!("a token is good for 1 to {TOKEN_USES_MAX} joins, not {}", wish.uses)));
    }
    let days_max = TOKEN_TTL_MAX.as_secs() / 86_400;
    if wish.ttl_ms == 0 || u128::from(wish.ttl_ms) > TOKEN_TTL_MAX.as_millis() {
        return Err(invalid(format!("a token lives longer than 0 and at most {days_max} days")));
    }
    Ok(())
}

/// Deletes the spent tokens once the table is full; refuses when all of a full table are good.
fn make_room(scene: &Scene<'_>) -> Result<Vec<Mutation>, Stop> {
    let tokens = read::tokens(scene.view)?;
    if tokens.len() < TOKENS_MAX {
        return Ok(Vec::new());
    }
    let spent = tokens.iter().filter(|token| problem(token, scene.entry.log_time).is_some());
    let mutations: Vec<_> = spent.map(|token| Mutation::Delete(Key::Token(token.id.clone()))).collect();
    if mutations.is_empty() {
        return Err(invalid(format!("there are {TOKENS_MAX} good tokens, which is the limit; revoke some")));
    }
    Ok(mutations)
}

pub(super) fn revoke(scene: &Scene<'_>, id: &TokenId) -> Step {
    let Some(token) = read::token(scene.view, id)? else {
        return Err(Refusal::TokenNotFound(id.clone()).into());
    };
    if token.revoked {
        return Ok(Applied::done(Vec::new()));
    }
    let token = Token { revoked: true, ..token };
    Ok(Applied::done(vec![put(Key::Token(id.clone()), Record::Token(token))]))
}

/// Takes one use of a token, or refuses.
pub(super) fn redeem(scene: &Scene<'_>, id: &TokenId, secret_sha256: &[u8; 32], asked: Role) -> Result<Mutation, Stop> {
    let known = read::token(scene.view, id)?.filter(|token| token.secret_sha256 == *secret_sha256);
    let Some(token) = known else {
        return Err(Refusal::TokenInvalid(TokenProblem::Unknown).into());
    };
    if let Some(problem) = problem(&token, scene.entry.log_time) {
        return Err(Refusal::TokenInvalid(problem).into());
    }
    let admits = asked == token.role || (token.role == Role::Voter && asked == Role::Learner);
    if !admits {
        return Err(Refusal::RoleNotGranted { granted: token.role, asked }.into());
    }
    let token = Token { uses_left: token.uses_left - 1, ..token };
    Ok(put(Key::Token(id.clone()), Record::Token(token)))
}

fn problem(token: &Token, now: Timestamp) -> Option<TokenProblem> {
    if token.revoked {
        Some(TokenProblem::Revoked)
    } else if token.uses_left == 0 {
        Some(TokenProblem::UsedUp)
    } else if now >= token.expires_at {
        Some(TokenProblem::Expired)
    } else {
        None
    }
}
