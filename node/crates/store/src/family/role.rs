//! Roles as numbers on disk.

use ollamax_proto::disk::MemberRole;
use ollamax_types::Role;

use crate::framing::Malformed;

pub(super) fn encode(role: Role) -> i32 {
    let number = match role {
        Role::Voter => MemberRole::Voter,
        Role::Learner => MemberRole::Learner,
        Role::Gateway => MemberRole::Gateway,
    };
    number.into()
}

pub(super) fn decode(what: &'static str, number: i32) -> Result<Role, Malformed> {
    match MemberRole::try_from(number) {
        Ok(MemberRole::Voter) => Ok(Role::Voter),
        Ok(MemberRole::Learner) => Ok(Role::Learner),
        Ok(MemberRole::Gateway) => Ok(Role::Gateway),
        Ok(MemberRole::Unspecified) | Err(_) => Err(Malformed::new(what, format!("role {number} is not known"))),
    }
}
