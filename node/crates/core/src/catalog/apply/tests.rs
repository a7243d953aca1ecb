//! `apply`, row by row: commands in order, each with its answer, and what must then be on record.

mod blobs;
mod explored;
mod ledger;
mod once;
mod properties;
mod registry;
mod state_keys;
mod tasks;
mod values;
mod wishes;
mod world;

use ollamax_types::limits::*;
use ollamax_types::{ClusterId, Digest, Incarnation, ModelRecord, NodeId, PeerId, RequestId, Role, Timestamp, TokenId};

use super::*;
use crate::catalog::command::{NewMember, TokenProblem};
use crate::catalog::mem::MemView;
use crate::catalog::read;
use crate::catalog::record::{Location, MemberState};

const HOUR_MS: u64 = 3_600_000;

fn entry(log_time: u64, command: Command) -> Entry {
    Entry {
        least_version: 1,
        log_time: Timestamp(log_time),
        request: RequestId::default(),
        principal: "admin".to_owned(),
        namespace: String::new(),
        session: None,
        fence_term: None,
        once: None,
        command,
    }
}

fn newcomer(name: &str, key: u8, directory: u8) -> NewMember {
    NewMember {
        name: name.to_owned(),
        peer_id: PeerId(format!("peer-{key}")),
        incarnation: Incarnation([directory; 16]),
        peer_addresses: vec![format!("10.0.0.{key}:11436")],
        p2p_addresses: vec![],
        api_addresses: vec![],
    }
}

fn init() -> Command {
    let first = newcomer("n1", 1, 1);
    let (name, version) = ("lab".to_owned(), CLUSTER_VERSION);
    Command::InitCluster { cluster: ClusterId([9; 16]), name, public_key: [3; 32], first, version }
}

fn token_with(id: &str, role: Role, uses: u32, ttl_ms: u64) -> Command {
    Command::CreateToken { id: TokenId(id.to_owned()), secret_sha256: [5; 32], role, uses, ttl_ms }
}

fn token(id: &str) -> Command {
    token_with(id, Role::Voter, 9, HOUR_MS)
}

fn join_as(id: &str, role: Role, member: NewMember) -> Command {
    Command::AddMember { token: TokenId(id.to_owned()), secret_sha256: [5; 32], role, member }
}

fn join(id: &str, name: &str, key: u8) -> Command {
    join_as(id, Role::Voter, newcomer(name, key, key))
}

fn model(name: &str, digest: u8) -> ModelRecord {
    ModelRecord {
        name: name.parse().expect("valid"),
        digest: Digest([digest; 32]),
        weights: Digest([digest; 32]),
        size_bytes: 1,
        modified_at: Timestamp(1),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    }
}

fn report(node: u64, present: &[(&str, u8)], absent: &[&str]) -> Command {
    let key = |name: &&str| model(name, 0).name.key();
    Command::ReportModels {
        node: NodeId(node),
        present: present.iter().map(|(name, digest)| model(name, *digest)).collect(),
        absent: absent.iter().map(key).collect(),
        removed: vec![],
    }
}

fn member_answer(node: u64, name: &str, already: bool) -> Answer {
    Answer::Member { node: NodeId(node), name: name.to_owned(), already }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

/// Applies commands one by one at the given log times, and compares each answer.
fn check(rows: Vec<(u64, Command, Answer)>) -> MemView {
    let mut view = MemView::default();
    for (index, (log_time, command, expected)) in rows.into_iter().enumerate() {
        let before = view.clone();
        let shown = format!("row {index}: {command:?}");
        let answer = view.apply(index as u64 + 1, 1, &entry(log_time, command)).expect("no fault");
        assert_eq!(answer, expected, "{shown}");
        if matches!(answer, Answer::Refused(_)) {
            assert_eq!(view, before, "a refusal changes nothing: {shown}");
        }
    }
    view
}

/// After a cluster of n1 with token `t`.
fn check_in_cluster(rows: Vec<(u64, Command, Answer)>) -> MemView {
    let start = vec![(0, init(), member_answer(1, "n1", false)), (0, token("t"), Answer::Done)];
    check(start.into_iter().chain(rows).collect())
}

fn invalid_text(view: &MemView, command: Command) -> String {
    let applied = apply(view, 99, 1, &entry(1, command)).expect("no fault");
    assert_eq!(applied.mutations, vec![]);
    match applied.answer {
        Answer::Refused(Refusal::Invalid(text)) => text,
        other => format!("{other:?}"),
    }
}

#[test]
fn nothing_goes_before_init_and_init_goes_once() {
    for command in
        [token("t"), join("t", "n2", 2), report(1, &[], &[]), Command::SetDrained { node: NodeId(1), drained: true }]
    {
        check(vec![(0, command, refused(Refusal::NotInitialised))]);
    }
    let view =
        check(vec![(7, init(), member_answer(1, "n1", false)), (8, init(), refused(Refusal::AlreadyInitialised))]);
    let cluster = read::cluster(&view).expect("readable").expect("there");
    assert_eq!((cluster.next_node_id, cluster.created_at, cluster.version), (2, Timestamp(7), CLUSTER_VERSION));
    let first = read::member(&view, NodeId(1)).expect("readable").expect("there");
    assert_eq!((first.role, first.state), (Role::Voter, MemberState::Active));
}

#[test]
fn the_envelope_is_checked_before_the_command() {
    let view = check_in_cluster(vec![]);
    let asked = |change: fn(&mut Entry)| {
        let mut entry = entry(1, token("x"));
        change(&mut entry);
        apply(&view, 9, 4, &entry).expect("no fault").answer
    };
    let too_low = Refusal::VersionTooLow { needed: CLUSTER_VERSION + 1, actual: CLUSTER_VERSION };
    assert_eq!(asked(|entry| entry.least_version = CLUSTER_VERSION + 1), refused(too_low));
    assert_eq!(asked(|entry| entry.fence_term = Some(3)), refused(Refusal::Fenced { expected: 3, actual: 4 }));
    assert_eq!(asked(|entry| entry.fence_term = Some(4)), Answer::Done);
    assert_eq!(asked(|entry| entry.session = Some((1, 1))), refused(Refusal::SessionExpired(1)));
}

#[test]
fn a_member_gets_the_next_id_and_a_name_of_its_own() {
    let long = "x".repeat(LABEL_BYTES_MAX);
    let cut = format!("{}-2", &long[..LABEL_BYTES_MAX - 2]);
    check_in_cluster(vec![
        (1, join("t", "n1", 2), member_answer(2, "n1-2", false)),
        (1, join("t", "N1", 3), member_answer(3, "N1-3", false)),
        (1, join("t", &long, 4), member_answer(4, &long, false)),
        (1, join("t", &long, 5), member_answer(5, &cut, false)),
    ]);
}

#[test]
fn joining_again_is_idempotent_and_another_directory_is_refused() {
    let moved = NewMember { peer_addresses: vec!["10.9.9.9:1".to_owned()], ..newcomer("other", 2, 2) };
    let view = check_in_cluster(vec![
        (1, join("t", "n2", 2), member_answer(2, "n2", false)),
        (2, join("t", "n2", 2), member_answer(2, "n2", true)),
        (3, join_as("no such token", Role::Gateway, moved), member_answer(2, "n2", true)),
        (
            4,
            join_as("t", Role::Voter, newcomer("n2", 2, 77)),
            refused(Refusal::IncarnationConflict { node: NodeId(2) }),
        ),
        (
            4,
            join_as("t", Role::Voter, newcomer("n1", 1, 77)),
            refused(Refusal::IncarnationConflict { node: NodeId(1) }),
        ),
    ]);
    let member = read::member(&view, NodeId(2)).expect("readable").expect("there");
    assert_eq!((member.role, member.peer_addresses), (Role::Voter, vec!["10.9.9.9:1".to_owned()]));
    let token = read::token(&view, &TokenId("t".to_owned())).expect("readable").expect("there");
    assert_eq!(token.uses_left, 8, "joining again takes no use");
}

#[test]
fn a_removed_member_comes_back_under_a_new_id() {
    let view = check_in_cluster(vec![
        (1, join("t", "n2", 2), member_answer(2, "n2", false)),
        (2, Command::RemoveMember { node: NodeId(2) }, Answer::Done),
        (3, Command::RemoveMember { node: NodeId(2) }, refused(Refusal::NodeNotFound(NodeId(2)))),
        (3, report(2, &[("m", 1)], &[]), refused(Refusal::NodeNotFound(NodeId(2)))),
        (4, join("t", "n2", 2), member_answer(3, "n2", false)),
    ]);
    let departed = read::member(&view, NodeId(2)).expect("readable").expect("kept");
    assert_eq!(departed.state, MemberState::Departed { at: Timestamp(2) });
    let departed = [1, 2, 3, 4].map(|node| read::has_departed(&view, NodeId(node)));
    assert_eq!(departed, [Ok(false), Ok(true), Ok(false), Ok(false)], "id 4 was never given out");
    assert_eq!(read::has_departed(&MemView::default(), NodeId(1)), Ok(false), "no cluster yet");
}

#[test]
fn tokens_are_checked_by_secret_role_uses_and_log_time() {
    let problem = |problem| refused(Refusal::TokenInvalid(problem));
    let wrong_secret = Command::AddMember {
        token: TokenId("t".to_owned()),
        secret_sha256: [6; 32],
        role: Role::Voter,
        member: newcomer("x", 9, 9),
    };
    let not_granted = |granted, asked| refused(Refusal::RoleNotGranted { granted, asked });
    let learner = |key| join_as("t", Role::Learner, newcomer("l", key, key));
    check_in_cluster(vec![
        (1, join("unknown", "x", 9), problem(TokenProblem::Unknown)),
        (1, wrong_secret, problem(TokenProblem::Unknown)),
        (1, learner(2), member_answer(2, "l", false)),
        (1, join_as("t", Role::Gateway, newcomer("g", 3, 3)), not_granted(Role::Voter, Role::Gateway)),
        (1, token_with("one", Role::Learner, 1, HOUR_MS), Answer::Done),
        (1, join("one", "x", 9), not_granted(Role::Learner, Role::Voter)),
        (HOUR_MS, join_as("one", Role::Learner, newcomer("m", 4, 4)), member_answer(3, "m", false)),
        (HOUR_MS, join_as("one", Role::Learner, newcomer("m", 5, 5)), problem(TokenProblem::UsedUp)),
        (HOUR_MS - 1, join("t", "y", 6), member_answer(4, "y", false)),
        (HOUR_MS, join("t", "z", 7), problem(TokenProblem::Expired)),
        (HOUR_MS, token("r"), Answer::Done),
        (HOUR_MS, Command::RevokeToken { id: TokenId("r".to_owned()) }, Answer::Done),
        (HOUR_MS, Command::RevokeToken { id: TokenId("r".to_owned()) }, Answer::Done),
        (HOUR_MS, join("r", "z", 7), problem(TokenProblem::Revoked)),
        (
            HOUR_MS,
            Command::RevokeToken { id: TokenId("q".to_owned()) },
            refused(Refusal::TokenNotFound(TokenId("q".to_owned()))),
        ),
    ]);
}

#[test]
fn a_token_is_made_once_and_within_its_limits() {
    let view = check_in_cluster(vec![(1, token("t"), Answer::Done)]);
    let other_role = token_with("t", Role::Learner, 1, HOUR_MS);
    assert_eq!(invalid_text(&view, other_role), "the token id is taken");
    let ttl_max = u64::try_from(TOKEN_TTL_MAX.as_millis()).expect("small");
    let most = apply(&view, 9, 1, &entry(1, token_with("ok", Role::Voter, TOKEN_USES_MAX, ttl_max)));
    assert_eq!(most.expect("no fault").answer, Answer::Done);
    for (uses, ttl_ms) in [(0, 1), (TOKEN_USES_MAX + 1, 1), (1, 0), (1, ttl_max + 1)] {
        let text = invalid_text(&view, token_with("x", Role::Voter, uses, ttl_ms));
        assert!(text.starts_with("a token "), "{text}");
    }
    assert_eq!(invalid_text(&view, token("")), "the token id is empty");
}

#[test]
fn spent_tokens_make_room_in_a_full_table() {
    let mut view = check_in_cluster(vec![]);
    for number in 1..TOKENS_MAX {
        let short = token_with(&format!("s{number}"), Role::Voter, 1, if number == 7 { 10 } else { HOUR_MS });
        assert_eq!(view.apply(3, 1, &entry(0, short)), Ok(Answer::Done));
    }
    let full = view.apply(4, 1, &entry(9, token("one more")));
    assert!(matches!(full, Ok(Answer::Refused(Refusal::Invalid(_)))), "{full:?}");
    assert_eq!(view.apply(5, 1, &entry(10, token("one more"))), Ok(Answer::Done));
    assert_eq!(read::token(&view, &TokenId("s7".to_owned())), Ok(None));
    assert_eq!(read::tokens(&view).expect("readable").len(), TOKENS_MAX);
}

#[test]
fn addresses_and_drains_belong_to_standing_members() {
    let addresses = |node: u64, directory: u8| Command::SetAddresses {
        node: NodeId(node),
        incarnation: Incarnation([directory; 16]),
        peer_addresses: vec!["h:1".to_owned()],
        p2p_addresses: vec!["/ip4/1.2.3.4/tcp/1".to_owned()],
        api_addresses: vec!["http://h:2".to_owned()],
    };
    let drain = |node: u64, drained: bool| Command::SetDrained { node: NodeId(node), drained };
    let view = check_in_cluster(vec![
        (1, addresses(1, 1), Answer::Done),
        (1, addresses(1, 2), refused(Refusal::IncarnationConflict { node: NodeId(1) })),
        (1, addresses(2, 1), refused(Refusal::NodeNotFound(NodeId(2)))),
        (1, drain(2, true), refused(Refusal::NodeNotFound(NodeId(2)))),
        (1, drain(1, true), Answer::Done),
    ]);
    let member = read::member(&view, NodeId(1)).expect("readable").expect("there");
    assert_eq!((member.state, member.api_addresses), (MemberState::Drained, vec!["http://h:2".to_owned()]));
    let again = apply(&view, 9, 1, &entry(1, drain(1, true))).expect("no fault");
    assert_eq!(again, Applied::done(vec![]), "no change, no mutation");
    let again = apply(&view, 9, 1, &entry(1, addresses(1, 1))).expect("no fault");
    assert_eq!(again.mutations, vec![], "no change, no mutation");
}

#[test]
fn the_last_voter_and_a_member_with_models_stay() {
    let forget = |limit| Command::ForgetModels { node: NodeId(2), limit };
    let remove = |node| Command::RemoveMember { node: NodeId(node) };
    let view = check_in_cluster(vec![
        (1, remove(1), refused(Refusal::LastVoter(NodeId(1)))),
        (1, forget(1), refused(Refusal::NodeNotFound(NodeId(2)))),
        (1, join("t", "n2", 2), member_answer(2, "n2", false)),
        (1, report(2, &[("a", 1), ("b", 1), ("c", 1)], &[]), Answer::Done),
        (2, remove(2), refused(Refusal::ModelsRemain(NodeId(2)))),
        (2, forget(2), Answer::More),
        (2, forget(2), Answer::Done),
        (2, forget(2), Answer::Done),
        (3, remove(2), Answer::Done),
        (3, forget(2), Answer::Done),
        (3, remove(1), refused(Refusal::LastVoter(NodeId(1)))),
    ]);
    assert_eq!(read::locations(&view), Ok(vec![]));
    assert_eq!(invalid_text(&view, forget(0)), "the limit must be 1 to 512");
    assert_eq!(invalid_text(&view, forget(513)), "the limit must be 1 to 512");
}

#[test]
fn a_cluster_is_not_left_with_learners_and_gateways_alone() {
    let remove = |node| Command::RemoveMember { node: NodeId(node) };
    check_in_cluster(vec![
        (1, token_with("g", Role::Gateway, 1, HOUR_MS), Answer::Done),
        (1, join_as("t", Role::Learner, newcomer("n2", 2, 2)), member_answer(2, "n2", false)),
        (1, join_as("g", Role::Gateway, newcomer("n3", 3, 3)), member_answer(3, "n3", false)),
        (2, remove(1), refused(Refusal::LastVoter(NodeId(1)))),
        (3, remove(3), Answer::Done),
        (4, join("t", "n4", 4), member_answer(4, "n4", false)),
        (5, remove(1), Answer::Done),
        (6, remove(4), refused(Refusal::LastVoter(NodeId(4)))),
    ]);
}

#[test]
fn a_report_writes_both_forms_and_only_what_changed() {
    let view = check_in_cluster(vec![
        (1, report(1, &[("a", 1), ("b", 1)], &["c"]), Answer::Done),
        (2, report(1, &[("b", 2), ("B", 3)], &["A"]), Answer::Done),
    ]);
    let held = read::models_of(&view, NodeId(1)).expect("readable");
    assert_eq!(held, vec![Location { node: NodeId(1), model: model("B", 3) }]);
    assert_eq!(read::locations_of(&view, &model("b", 0).name), Ok(held));
    let again = apply(&view, 9, 1, &entry(3, report(1, &[("B", 3)], &["a", "x"]))).expect("no fault");
    assert_eq!(again, Applied::done(vec![]));
    let both = apply(&view, 9, 1, &entry(3, report(1, &[("B", 4)], &["B"]))).expect("no fault");
    assert_eq!(both.mutations.len(), 2, "present wins over absent");
}

#[test]
fn a_gateway_holds_no_models() {
    let view = check_in_cluster(vec![
        (1, token_with("g", Role::Gateway, 1, 9), Answer::Done),
        (1, join_as("g", Role::Gateway, newcomer("g", 2, 2)), member_answer(2, "g", false)),
        (1, report(2, &[], &["a"]), Answer::Done),
    ]);
    assert_eq!(invalid_text(&view, report(2, &[("a", 1)], &[])), "node 2 is a gateway and holds no models");
}

#[test]
fn settings_are_set_and_deleted_with_their_revision() {
    let set = |key: &str, bytes: usize| Command::SetSetting { key: key.to_owned(), value: vec![1; bytes] };
    let delete = |key: &str| Command::DeleteSetting { key: key.to_owned() };
    let view = check_in_cluster(vec![
        (1, delete("a"), refused(Refusal::SettingNotFound("a".to_owned()))),
        (1, set("a", 1), Answer::Done),
        (1, delete("a"), Answer::Done),
        (1, set("a/2", SETTING_VALUE_BYTES_MAX), Answer::Done),
        (1, set("a/1", 0), Answer::Done),
        (1, set("b", 0), Answer::Done),
    ]);
    let found = read::settings(&view, "a/", None, 9).expect("readable");
    let shown: Vec<_> = found.iter().map(|(key, setting)| (key.as_str(), setting.revision)).collect();
    assert_eq!(shown, [("a/1", 7), ("a/2", 6)]);
    assert_eq!(invalid_text(&view, set("", 1)), "the key is empty");
    assert_eq!(invalid_text(&view, set(&"k".repeat(257), 1)), "the key has 257 bytes; the limit is 256");
    let too_long = set("k", SETTING_VALUE_BYTES_MAX + 1);
    assert_eq!(invalid_text(&view, too_long), "the value has 65537 bytes; the limit is 65536");
}

#[test]
fn every_field_has_its_limit() {
    let view = check_in_cluster(vec![]);
    let check = |change: &dyn Fn(&mut NewMember), expected: &str| {
        let mut member = newcomer("n2", 2, 2);
        change(&mut member);
        let text = invalid_text(&view, join_as("t", Role::Voter, member));
        assert!(text.contains(expected), "{text}");
    };
    check(&|member| member.name = String::new(), "the node's name is empty");
    check(&|member| member.name = "x".repeat(64), "the node's name has 64 bytes; the limit is 63");
    check(&|member| member.name = "a b".to_owned(), "space or control");
    check(&|member| member.peer_id = PeerId("p".repeat(129)), "the peer id has 129 bytes; the limit is 128");
    check(&|member| member.peer_addresses = vec!["a".to_owned(); 17], "peer addresses has 17 items; the limit is 16");
    check(&|member| member.p2p_addresses = vec!["a".repeat(257)], "p2p addresses has 257 bytes; the limit is 256");
    check(&|member| member.api_addresses = vec![String::new()], "api addresses is empty");
    let long = ModelRecord { details_json: "x".repeat(MODEL_DETAILS_BYTES_MAX + 1), ..model("m", 1) };
    let report = |present, absent, removed| Command::ReportModels { node: NodeId(1), present, absent, removed };
    let present = |present: Vec<ModelRecord>| report(present, vec![], vec![]);
    assert!(invalid_text(&view, present(vec![long])).starts_with("details of m:latest have 4097 bytes"));
    assert!(invalid_text(&view, present(vec![model("m", 1); 201])).contains("201 items; the limit is 200"));
    let able = |words: Vec<String>| present(vec![ModelRecord { capabilities: words, ..model("m", 1) }]);
    let many = vec!["tools".to_owned(); CAPABILITIES_MAX + 1];
    assert_eq!(invalid_text(&view, able(many)), "what a model can do has 17 items; the limit is 16");
    assert_eq!(
        invalid_text(&view, able(vec!["x".repeat(CAPABILITY_BYTES_MAX + 1)])),
        "what a model can do has 33 bytes; the limit is 32"
    );
    assert_eq!(invalid_text(&view, able(vec![String::new()])), "what a model can do is empty");
    let absent = report(vec![], vec!["k".repeat(641)], vec![]);
    assert!(invalid_text(&view, absent).contains("641 bytes; the limit is 640"));
    let removed = report(vec![], vec![], vec!["k".to_owned(); REPORT_MODELS_MAX + 1]);
    assert_eq!(invalid_text(&view, removed), "the list of removed models has 201 items; the limit is 200");
}

#[test]
fn the_longest_departed_are_forgotten_and_commands_stay_within_their_reads() {
    let mut view = check_in_cluster(vec![]);
    let mut index = 3;
    let mut run = |view: &mut MemView, command: Command| {
        index += 1;
        view.apply(index, 1, &entry(index, command)).expect("no fault")
    };
    let newcomer =
        |number: u64| NewMember { peer_id: PeerId(format!("many-{number}")), ..newcomer(&format!("m{number}"), 0, 0) };
    assert_eq!(run(&mut view, token_with("many", Role::Learner, TOKEN_USES_MAX, HOUR_MS)), Answer::Done);
    let departures = DEPARTED_MEMBERS_MAX as u64 + 5;
    for number in 0..departures {
        let id = number + 2;
        let joined = run(&mut view, join_as("many", Role::Learner, newcomer(number)));
        assert_eq!(joined, member_answer(id, &format!("m{number}"), false));
        assert_eq!(run(&mut view, Command::RemoveMember { node: NodeId(id) }), Answer::Done);
    }
    let members = read::members(&view).expect("readable");
    assert_eq!(members.len(), DEPARTED_MEMBERS_MAX + 1);
    assert_eq!(read::member(&view, NodeId(2)), Ok(None));
    assert_eq!(read::has_departed(&view, NodeId(2)), Ok(true), "also when it was forgotten");
    assert_eq!(members[1].id, NodeId(7), "2 to 6 departed first");
    for number in departures..departures + MEMBERS_MAX as u64 - 1 {
        let joined = run(&mut view, join_as("many", Role::Learner, newcomer(number)));
        assert!(matches!(joined, Answer::Member { .. }), "{joined:?}");
    }
    let full = run(&mut view, join_as("many", Role::Learner, newcomer(99_999)));
    let limit = format!("the cluster has {MEMBERS_MAX} members, which is the limit");
    assert_eq!(full, refused(Refusal::Invalid(limit)));
    assert_eq!(run(&mut view, Command::RemoveMember { node: NodeId(300) }), Answer::Done);
}

#[test]
fn a_record_of_another_kind_is_a_fault() {
    let mut view = check_in_cluster(vec![]);
    view.write(&[Mutation::Put(Key::Member(NodeId(1)), Record::NodeId(NodeId(1)))]);
    let fault = apply(&view, 9, 1, &entry(1, Command::SetDrained { node: NodeId(1), drained: true }));
    assert_eq!(fault, Err(Fault::Mismatch { key: "member/1".to_owned() }));
}
