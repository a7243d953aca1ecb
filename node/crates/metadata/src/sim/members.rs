//! Members of a simulated cluster as its catalog knows them: a node's key says who it is, its data directory whether it
//! is still the one that joined. Node 1 is the one with which the cluster is made ([`crate::alone::init`]).

use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_types::{Incarnation, PeerId, Role, TokenId};

/// Names the token with which all join.
pub(super) const TOKEN: &str = "t1";
const SECRET_SHA256: [u8; 32] = [4; 32];
const USES: u32 = 100;
const TTL_MS: u64 = 3_600_000;

/// Makes the token.
pub(super) fn token() -> Command {
    let id = TokenId(TOKEN.to_owned());
    Command::CreateToken { id, secret_sha256: SECRET_SHA256, role: Role::Voter, uses: USES, ttl_ms: TTL_MS }
}

/// What a node asks for that joins, with its key.
pub(super) fn join(node: u64, incarnation: Incarnation, token: &str) -> Command {
    let member = NewMember {
        name: format!("n{node}"),
        peer_id: PeerId(format!("p{node}")),
        incarnation,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
    };
    Command::AddMember { token: TokenId(token.to_owned()), secret_sha256: SECRET_SHA256, role: Role::Voter, member }
}
