//! What a member found on its way back to a joiner, and what follows: pure.
//!
//! One advertised address that was reached is enough to join as asked. Where only the joiner's own libp2p connection
//! leads to it, it joins without a vote: its votes would hang on the member, or on the relay, that carries them. Where
//! nothing leads to it, it does not join.

use ollamax_gateway::grpc::AdminError;
use ollamax_proto::v1::ReachBackReply;
use ollamax_proto::v1::reach_back_reply::Probe;
use ollamax_types::{ErrorCode, Role};

/// This node's side of the way back.
#[derive(Debug)]
pub(super) struct Back {
    /// Whether its libp2p connections may carry what cannot be dialled.
    pub(super) lanes: bool,
    /// Why no libp2p connection to the member came about, if none did.
    pub(super) unmet: Option<String>,
    /// Its `peer` port.
    pub(super) port: u16,
}

/// How this node comes in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WayIn {
    /// The role to ask for; `None`: the token's.
    pub(super) role: Option<Role>,
    /// It is reached over its own libp2p connections alone.
    pub(super) lane_only: bool,
}

/// `asked` is the role that the administrator wants; `None`: the token's.
///
/// # Errors
/// When nothing leads back to this node, and when a vote was asked for that it cannot have.
pub(super) fn way_in(asked: Option<Role>, reply: &ReachBackReply, back: &Back) -> Result<WayIn, AdminError> {
    if reply.probes.iter().any(|probe| probe.reached) {
        return Ok(WayIn { role: asked, lane_only: false });
    }
    let is_met = reply.lane.as_ref().is_some_and(|lane| lane.reached);
    if !is_met {
        return Err(unreached(reply, back));
    }
    let role = match asked.or_else(|| reply.token_role.parse().ok()) {
        Some(Role::Voter) if asked.is_some() => return Err(no_vote(reply, back)),
        Some(Role::Gateway) => Role::Gateway,
        Some(Role::Voter | Role::Learner) | None => Role::Learner,
    };
    Ok(WayIn { role: Some(role), lane_only: true })
}

/// Whether nothing leads back to this node but a libp2p connection that the member does not have any more, or not yet,
/// though this end had made one: another one is worth it.
pub(super) fn is_worth_another(reply: &ReachBackReply, back: &Back) -> bool {
    let is_dialled = reply.probes.iter().any(|probe| probe.reached);
    let is_lost = reply.lane.as_ref().is_some_and(|lane| !lane.reached);
    !is_dialled && is_lost && back.lanes && back.unmet.is_none()
}

fn no_vote(reply: &ReachBackReply, back: &Back) -> AdminError {
    AdminError::new(
        ErrorCode::PreconditionFailed,
        "a node that no member can dial gets no vote",
        tried(&reply.probes),
        format!("ollamax join TOKEN --role learner; or open the port: sudo ufw allow {}/tcp", back.port),
    )
}

fn unreached(reply: &ReachBackReply, back: &Back) -> AdminError {
    let lane = reply.lane.as_ref().map(|lane| lane.problem.as_str());
    let why = match back.unmet.as_deref().or(lane) {
        Some(problem) => format!("{}; p2p: {problem}", tried(&reply.probes)),
        None => tried(&reply.probes),
    };
    let opens = format!("sudo ufw allow {}/tcp (or the same in your firewall), or set peer.advertise", back.port);
    let next = if back.lanes { opens } else { format!("{opens}, or set p2p.lanes = true") };
    AdminError::new(
        ErrorCode::PeerUnreachable,
        "the cluster cannot connect back to this machine's peer port",
        why,
        format!("{next}; then join again"),
    )
}

fn tried(probes: &[Probe]) -> String {
    let tried: Vec<String> = probes.iter().map(|probe| format!("{}: {}", probe.address, probe.problem)).collect();
    tried.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(address: &str, problem: Option<&str>) -> Probe {
        let problem_text = problem.unwrap_or_default().to_owned();
        Probe { address: address.to_owned(), reached: problem.is_none(), problem: problem_text }
    }

    /// What a member says whose TCP attempt ended so, and whose attempt over the lane did.
    fn said(dialled: Option<&str>, lane: Option<Option<&str>>, token_role: Role) -> ReachBackReply {
        ReachBackReply {
            probes: vec![probe("a:1", dialled), probe("b:1", Some("refused"))],
            lane: lane.map(|problem| probe("p2p", problem)),
            token_role: token_role.to_string(),
        }
    }

    fn back() -> Back {
        Back { lanes: true, unmet: None, port: 11_436 }
    }

    #[test]
    fn who_is_dialled_joins_as_asked_whatever_its_lanes_do() {
        for lane in [None, Some(None), Some(Some("none stands"))] {
            for asked in [None, Some(Role::Voter), Some(Role::Learner), Some(Role::Gateway)] {
                let way = way_in(asked, &said(None, lane, Role::Voter), &back()).expect("reached");
                assert_eq!(way, WayIn { role: asked, lane_only: false }, "{lane:?}");
            }
        }
    }

    #[test]
    fn a_connection_that_was_made_and_lost_is_made_again_and_nothing_else_is() {
        let check = |dialled: Option<&str>, lane: Option<Option<&str>>, back: Back, expected: bool| {
            assert_eq!(is_worth_another(&said(dialled, lane, Role::Voter), &back), expected, "{dialled:?} {lane:?}");
        };
        let (refused, lost) = (Some("refused"), Some(Some("no libp2p connection to it stands")));
        check(refused, lost, back(), true);
        check(None, lost, back(), false);
        check(refused, Some(None), back(), false);
        check(refused, None, back(), false);
        check(refused, lost, Back { lanes: false, ..back() }, false);
        check(refused, lost, Back { unmet: Some("nobody answers".to_owned()), ..back() }, false);
    }

    #[test]
    fn who_is_reached_over_its_own_connection_alone_joins_without_a_vote() {
        let rows = [
            (None, Role::Voter, Role::Learner),
            (None, Role::Learner, Role::Learner),
            (None, Role::Gateway, Role::Gateway),
            (Some(Role::Learner), Role::Voter, Role::Learner),
            (Some(Role::Gateway), Role::Gateway, Role::Gateway),
        ];
        for (asked, token, role) in rows {
            let way = way_in(asked, &said(Some("refused"), Some(None), token), &back()).expect("reached");
            assert_eq!(way, WayIn { role: Some(role), lane_only: true }, "{asked:?} with a token for {token}");
        }
        let unknown = ReachBackReply { token_role: String::new(), ..said(Some("refused"), Some(None), Role::Voter) };
        let way = way_in(None, &unknown, &back()).expect("reached");
        assert_eq!(way.role, Some(Role::Learner));
    }

    #[test]
    fn a_vote_that_was_asked_for_is_refused_with_both_remedies() {
        let refused = way_in(Some(Role::Voter), &said(Some("refused"), Some(None), Role::Voter), &back());
        let refused = refused.expect_err("no vote");
        assert_eq!(refused.code, ErrorCode::PreconditionFailed);
        assert_eq!(refused.what, "a node that no member can dial gets no vote");
        let next = "ollamax join TOKEN --role learner; or open the port: sudo ufw allow 11436/tcp";
        assert_eq!((refused.why.as_str(), refused.next.as_str()), ("a:1: refused; b:1: refused", next));
    }

    #[test]
    fn who_is_not_reached_at_all_is_refused_with_every_attempt() {
        let unmet = || Some("m:1: no answer (is p2p open on the member?)".to_owned());
        let off = Back { lanes: false, ..back() };
        let rows = [
            (said(Some("silent"), None, Role::Voter), off, "a:1: silent; b:1: refused", true),
            (said(Some("silent"), None, Role::Voter), back(), "a:1: silent; b:1: refused", false),
            (
                said(Some("silent"), Some(Some("no libp2p connection to it stands")), Role::Voter),
                back(),
                "a:1: silent; b:1: refused; p2p: no libp2p connection to it stands",
                false,
            ),
            (
                said(Some("silent"), Some(Some("no libp2p connection to it stands")), Role::Voter),
                Back { unmet: unmet(), ..back() },
                "a:1: silent; b:1: refused; p2p: m:1: no answer (is p2p open on the member?)",
                false,
            ),
        ];
        for (reply, back, why, names_lanes) in rows {
            let refused = way_in(None, &reply, &back).expect_err("nothing leads to it");
            assert_eq!((refused.code, refused.why.as_str()), (ErrorCode::PeerUnreachable, why));
            assert!(refused.next.contains("sudo ufw allow 11436/tcp"), "{refused:?}");
            assert_eq!(refused.next.contains("p2p.lanes = true"), names_lanes, "{refused:?}");
        }
    }
}
