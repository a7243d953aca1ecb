//! Round trips of every command, a golden sample, and what must never be skipped.

use proptest::prelude::*;

use ollamax_core::catalog::command::BoundBlob;
use ollamax_core::catalog::txn::{Condition, Op, Operand, Relation};
use ollamax_core::catalog::{
    CopyCourse, Cordon, How, OnceKey, PhaseWord, PlanKind, Replicas, TaskOutcome, TaskProgress, TaskTold, Txn, Want,
};
use ollamax_types::{ErrorCode, Role, Root, TaskId};

use super::*;

fn member() -> NewMember {
    NewMember {
        name: "n1".into(),
        peer_id: PeerId("12D3".into()),
        incarnation: Incarnation([7; 16]),
        peer_addresses: vec!["10.0.0.1:11436".into()],
        p2p_addresses: vec!["/ip4/10.0.0.1/tcp/11437".into()],
        api_addresses: vec!["http://10.0.0.1:11435".into()],
    }
}

fn commands() -> Vec<Command> {
    let model = ModelRecord {
        name: "Me/Mine:Q4".parse().expect("valid"),
        digest: Digest([9; 32]),
        weights: Digest([8; 32]),
        size_bytes: 1 << 40,
        modified_at: Timestamp(1_700_000_000_000),
        details_json: "{\"family\":\"llama\"}".into(),
        capabilities: Vec::new(),
    };
    let unknown = ModelRecord { weights: model.digest, ..model.clone() };
    let able = ModelRecord { capabilities: vec!["completion".into(), "tools".into()], ..model.clone() };
    let mut commands = wishes();
    commands.extend(task_commands());
    commands.extend([
        Command::InitCluster {
            cluster: ClusterId([1; 16]),
            name: "lab".into(),
            public_key: [2; 32],
            first: member(),
            version: 2,
        },
        Command::AddMember {
            token: TokenId("abc".into()),
            secret_sha256: [3; 32],
            role: Role::Gateway,
            member: member(),
        },
        Command::SetAddresses {
            node: NodeId(3),
            incarnation: Incarnation([7; 16]),
            peer_addresses: vec!["a:1".into()],
            p2p_addresses: vec![],
            api_addresses: vec!["b".into(), "c".into()],
        },
        Command::SetDrained { node: NodeId(3), drained: true },
        Command::RemoveMember { node: NodeId(3) },
        Command::ForgetModels { node: NodeId(3), limit: 500 },
        Command::CreateToken {
            id: TokenId("t".into()),
            secret_sha256: [4; 32],
            role: Role::Learner,
            uses: 5,
            ttl_ms: 3_600_000,
        },
        Command::RevokeToken { id: TokenId("t".into()) },
        Command::ReportModels {
            node: NodeId(2),
            present: vec![model, unknown, able],
            absent: vec!["x/y/z:t".into(), "x/y/z:u".into()],
            removed: vec!["x/y/z:u".into()],
        },
        Command::SetSetting { key: "a.b".into(), value: vec![0, 255] },
        Command::DeleteSetting { key: "a.b".into() },
        Command::Txn(transaction()),
        Command::OpenSession { ttl_ms: 60_000, window: 64 },
        Command::CloseSession { session: 7 },
        Command::GrantLease { ttl_ms: 5_000 },
        Command::RenewLease { lease: 8 },
        Command::RevokeLease { lease: 8 },
        Command::Expire,
        Command::SetQuota { prefix: "user/".into(), bytes_max: 1 << 20 },
        Command::RaiseVersion { version: 2 },
        Command::Migrate { number: 1, down: true, force: true },
        Command::Migrate { number: 699, down: false, force: false },
    ]);
    commands
}

fn wishes() -> Vec<Command> {
    let name = || "h:5/Me/Mine:Q4".parse::<ModelName>().expect("valid");
    let ask = |replicas| Command::AskModel {
        name: name(),
        replicas,
        insecure: true,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    let blob = BoundBlob { sha256: Digest([1; 32]), size_bytes: 1 << 40, root: Root([2; 32]) };
    let mut commands = vec![
        Command::BindBlobs { node: NodeId(3), blobs: vec![blob, BoundBlob { size_bytes: 0, ..blob }] },
        Command::BindBlobs { node: NodeId(3), blobs: vec![] },
        ask(Replicas::Count(0)),
        ask(Replicas::All),
        ask(Replicas::Nodes(vec![])),
        ask(Replicas::Nodes(vec![NodeId(2), NodeId(1)])),
        Command::AskModel {
            name: name(),
            replicas: Replicas::Count(2),
            insecure: false,
            want: Default::default(),
            declared: false,
            unsaid: true,
            away: [NodeId(2), NodeId(7)].into(),
        },
        Command::PlanPull {
            name: name(),
            round: 7,
            ingester: NodeId(1),
            targets: vec![NodeId(2), NodeId(1)],
            kind: Default::default(),
        },
        Command::ResolveWish { node: NodeId(1), name: name(), round: 7, digest: Digest([3; 32]), size_bytes: 5 },
        Command::ForgetWish { name: name(), round: None },
        Command::ForgetWish { name: name(), round: Some(7) },
        Command::NoteVersion { name: name(), digest: Digest([4; 32]), size_bytes: 5, how: How::RolledBack { to: 3 } },
        Command::FixVersion {
            name: name(),
            digest: Digest([4; 32]),
            size_bytes: 5,
            replicas: Some(Replicas::Count(2)),
            how: How::Tagged { from: name() },
        },
        Command::PinModel { name: name(), digest: Some(Digest([4; 32])) },
        Command::PinModel { name: name(), digest: None },
        Command::SetPhase { name: name(), phase: PhaseWord::Disabled, note: "old".into() },
        Command::DropCopies { name: name(), nodes: vec![NodeId(2)], forget: true, force: false, unless_pinned: true },
        Command::NoteUse { node: NodeId(2), day: 20_000, names: vec![name().key()] },
        Command::ForgetBlobs { before: Timestamp(7), after: Some(Digest([4; 32])), limit: 9 },
        Command::ForgetNames { before: Timestamp(7), names: vec!["m".to_owned(), "n".to_owned()] },
        Command::SetLabels {
            node: NodeId(2),
            own: true,
            set: [("room".to_owned(), "a".to_owned())].into(),
            unset: vec!["os".into()],
        },
        Command::SetCordon { node: NodeId(2), cordon: Cordon::Emptying },
        note_copy(name()),
    ];
    commands.extend(ErrorCode::ALL.iter().map(|code| {
        let (node, code, text) = (NodeId(2), *code, "no room".to_owned());
        Command::TellPull { node, name: name(), round: 7, code, text }
    }));
    commands
}

fn open_task(needs_approval: bool) -> Command {
    Command::OpenTask {
        id: TaskId([7; 16]),
        tool: "t".into(),
        arguments_json: "{}".into(),
        subject: "s".into(),
        priority: 5,
        repeatable: true,
        needs_approval,
        // Somebody reads it before they approve.
        plan: if needs_approval { "l".into() } else { String::new() },
    }
}

fn end_task(outcome: TaskOutcome) -> Command {
    Command::EndTask { node: NodeId(2), id: TaskId([7; 16]), attempt: 3, outcome }
}

fn task_commands() -> Vec<Command> {
    let id = TaskId([7; 16]);
    let progress = TaskProgress { done: 1, total: 300, text: "p".into() };
    let told = TaskTold { id, attempt: 3, progress };
    let silent = TaskTold { progress: TaskProgress::default(), ..told.clone() };
    let (text, next) = ("x".to_owned(), "y".to_owned());
    vec![
        open_task(false),
        open_task(true),
        Command::DecideTask { id, approved: true, attempt: None },
        Command::DecideTask { id, approved: false, attempt: Some(0) },
        Command::AssignTask { id, node: NodeId(2) },
        Command::TellTasks { node: NodeId(2), tasks: vec![] },
        Command::TellTasks { node: NodeId(2), tasks: vec![told, silent] },
        end_task(TaskOutcome::Completed { result_json: "[]".into() }),
        end_task(TaskOutcome::Failed { code: ErrorCode::TaskNotFound, text, next }),
        end_task(TaskOutcome::Cancelled { text: "it stays".into() }),
        Command::CancelTask { id },
        Command::RetryTask { id, plan: "l".into() },
        Command::AddStateKey { secret: SecretKey::new([7; 32]) },
    ]
}

/// A copy on its way with all fields set.
fn note_copy(name: ModelName) -> Command {
    let course = CopyCourse {
        is_whole: true,
        verified_bytes: 6,
        size_bytes: 7,
        took_ms: 9,
        bytes_per_second: 10,
        origin_bytes: 1,
        here_bytes: 2,
        members: vec![(NodeId(3), 4)],
        other_bytes: 5,
    };
    Command::NoteCopy { node: NodeId(2), name, round: 8, course: Box::new(course) }
}

fn transaction() -> Txn {
    let operands = [
        Operand::Version(1),
        Operand::Created(2),
        Operand::Modified(3),
        Operand::Lease(0),
        Operand::Bytes(vec![0, 255]),
    ];
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater, Relation::Equal];
    let conditions = operands.into_iter().zip(relations);
    let key = || "user/a".to_owned();
    Txn {
        conditions: conditions.map(|(operand, relation)| Condition { key: key(), operand, relation }).collect(),
        then: vec![
            Op::Put { key: key(), bytes: vec![1], lease: Some(4) },
            Op::Put { key: "user/b".into(), bytes: vec![], lease: None },
        ],
        otherwise: vec![Op::Get { key: key() }, Op::Delete { key: key() }],
    }
}

fn entry(command: Command) -> Entry {
    Entry {
        least_version: 1,
        log_time: Timestamp(1_700_000_000_123),
        request: RequestId("req-1".into()),
        principal: "admin".into(),
        namespace: "lab".into(),
        session: Some((5, 6)),
        fence_term: Some(0),
        once: None,
        command,
    }
}

#[test]
fn every_command_reads_back_as_itself() {
    for command in commands() {
        let before = entry(command);
        let bytes = encode(&before);
        assert_eq!(decode(&bytes, 1), Ok(before.clone()));
        assert_eq!(log_time(&bytes), before.log_time);
        // Names are spelled as they were.
        assert_eq!(format!("{:?}", decode(&bytes, 1)), format!("{:?}", Ok::<_, EnvelopeError>(before)));
    }
}

#[test]
fn absent_and_zero_are_different_things() {
    let mut bare = entry(Command::RemoveMember { node: NodeId(1) });
    bare.session = None;
    bare.fence_term = None;
    assert_eq!(decode(&encode(&bare), 1), Ok(bare));
}

#[test]
fn golden_sample_of_version_one() {
    let sample = entry(Command::SetSetting { key: "k".into(), value: vec![1] });
    let expected = "0801100118fbd095ffbc31220572\
                    65712d312a0561646d696e32036c61623a0408051006\
                    4000ca01060a016b120101";
    assert_eq!(hex::encode(encode(&sample)), expected.replace(' ', ""));
}

#[test]
fn golden_samples_of_a_model_without_and_with_known_weights() {
    let model = ModelRecord {
        name: "m".parse().expect("valid"),
        digest: Digest([9; 32]),
        weights: Digest([9; 32]),
        size_bytes: 5,
        modified_at: Timestamp(6),
        details_json: "{}".into(),
        capabilities: Vec::new(),
    };
    let head = "0801100118fbd095ffbc3122057265712d312a0561646d696e32036c61623a04080510064000";
    let name = "0a2372656769737472792e6f6c6c616d612e61692f6c6962726172792f6d3a6c6174657374";
    let fields = format!("{name}1220{}180520062a027b7d", "09".repeat(32));
    let known = ModelRecord { weights: Digest([8; 32]), ..model.clone() };
    for (model, expected) in [
        (model, format!("{head}c201530802124f{fields}")), // as it was before weights were asked for
        (known.clone(), format!("{head}c2017508021271{fields}3220{}", "08".repeat(32))),
        (
            ModelRecord { capabilities: vec!["ab".into(), "c".into()], ..known },
            format!("{head}c2017c08021278{fields}3220{}3a0261623a0163", "08".repeat(32)),
        ),
    ] {
        let (node, present, absent, removed) = (NodeId(2), vec![model], vec![], vec![]);
        let sample = entry(Command::ReportModels { node, present, absent, removed });
        assert_eq!(hex::encode(encode(&sample)), expected);
        assert_eq!(decode(&hex::decode(expected).expect("hexadecimal"), 1), Ok(sample));
    }
}

#[test]
fn golden_sample_of_copies_that_are_gone() {
    let (absent, removed) = (vec!["ab".to_owned(), "c".to_owned()], vec!["c".to_owned()]);
    let report = Command::ReportModels { node: NodeId(2), present: vec![], absent, removed };
    golden(report, "c201", "0802 1a026162 1a0163 220163");
}

/// The bytes of a command: its field in the envelope, and the message in it, shorter than 128 bytes.
fn golden(command: Command, field: &str, body: &str) {
    let head = "0801100118fbd095ffbc3122057265712d312a0561646d696e32036c61623a04080510064000";
    let body = body.replace(' ', "");
    let expected = format!("{head}{field}{:02x}{body}", body.len() / 2);
    let sample = entry(command);
    assert_eq!(hex::encode(encode(&sample)), expected);
    assert_eq!(decode(&hex::decode(expected).expect("hexadecimal"), 1), Ok(sample));
}

/// The full name of `m`, with its length.
const NAMED: &str = "2372656769737472792e6f6c6c616d612e61692f6c6962726172792f6d3a6c6174657374";

#[test]
fn golden_samples_of_wishes_and_files() {
    let name = || "m".parse::<ModelName>().expect("valid");
    let (named, check) = (NAMED, golden);
    let (node, digest) = (NodeId(2), Digest([7; 32]));
    let blob = BoundBlob { sha256: digest, size_bytes: 300, root: Root([8; 32]) };
    let body = format!("0802 1247 0a20{} 10ac02 1a20{}", "07".repeat(32), "08".repeat(32));
    check(Command::BindBlobs { node, blobs: vec![blob] }, "aa02", &body);
    let nodes = || vec![NodeId(1), NodeId(3)];
    let ask = |replicas, insecure| Command::AskModel {
        name: name(),
        replicas,
        insecure,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    check(ask(Replicas::Count(2), false), "b202", &format!("0a{named} 12020802"));
    check(ask(Replicas::All, true), "b202", &format!("0a{named} 12021200 1801"));
    let unsaid = Command::AskModel {
        name: name(),
        replicas: Replicas::Count(2),
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: true,
        away: Default::default(),
    };
    check(unsaid, "b202", &format!("0a{named} 12020802 3001"));
    check(ask(Replicas::Nodes(nodes()), false), "b202", &format!("0a{named} 1206 1a04 0a020103"));
    let plan =
        Command::PlanPull { name: name(), round: 8, ingester: NodeId(1), targets: nodes(), kind: Default::default() };
    check(plan, "ba02", &format!("0a{named} 1008 1801 22020103"));
    let resolve = Command::ResolveWish { node, name: name(), round: 8, digest, size_bytes: 300 };
    check(resolve, "c202", &format!("0802 12{named} 1808 2220{} 28ac02", "07".repeat(32)));
    let (code, text) = (ErrorCode::DiskFull, "t".to_owned());
    let tell = Command::TellPull { node, name: name(), round: 8, code, text };
    check(tell, "ca02", &format!("0802 12{named} 1808 2209 6469736b5f66756c6c 2a0174"));
    check(Command::ForgetWish { name: name(), round: None }, "d202", &format!("0a{named}"));
    check(Command::ForgetWish { name: name(), round: Some(8) }, "d202", &format!("0a{named} 1008"));

    let want = Want {
        labels: [("room".to_owned(), "a".to_owned())].into(),
        gpu_memory_bytes_min: 300,
        avoid: [NodeId(3)].into(),
        disk_free_bytes_min: 0,
    };
    let keeping = Want { disk_free_bytes_min: 300, ..want.clone() };
    let (count, kind) = (Replicas::Count(2), PlanKind::Rebalance);
    let ask = |want| Command::AskModel {
        name: name(),
        replicas: count.clone(),
        insecure: false,
        want,
        declared: true,
        unsaid: false,
        away: Default::default(),
    };
    let words = "2211 0a09 0a04726f6f6d 120161 10ac02 1a0103";
    check(ask(want), "b202", &format!("0a{named} 12020802 {words} 2801"));
    let words = "2214 0a09 0a04726f6f6d 120161 10ac02 1a0103 20ac02";
    check(ask(keeping), "b202", &format!("0a{named} 12020802 {words} 2801"));
    let plan = Command::PlanPull { name: name(), round: 8, ingester: NodeId(1), targets: nodes(), kind };
    check(plan, "ba02", &format!("0a{named} 1008 1801 22020103 2802"));
}

#[test]
fn golden_samples_of_the_registry() {
    let name = || "m".parse::<ModelName>().expect("valid");
    let (node, digest, size_bytes) = (NodeId(2), Digest([7; 32]), 5);
    let sevens = "07".repeat(32);
    let noted = format!("0a{NAMED} 1220{sevens} 1805");
    for (how, how_hex) in [
        (How::Found, "2001".to_owned()),
        (How::Pulled, "2002".to_owned()),
        (How::RolledBack { to: 2 }, "2003 2802".to_owned()),
        (How::Tagged { from: name() }, format!("2004 32{NAMED}")),
    ] {
        let note = Command::NoteVersion { name: name(), digest, size_bytes, how };
        golden(note, "e202", &format!("{noted} {how_hex}"));
    }
    for (replicas, replicas_hex) in [(None, ""), (Some(Replicas::Count(2)), "12020802")] {
        let how = How::RolledBack { to: 2 };
        let fix = Command::FixVersion { name: name(), digest, size_bytes, replicas, how };
        golden(fix, "da02", &format!("0a4d {noted} 2003 2802 {replicas_hex}"));
    }
    let pin = |digest| Command::PinModel { name: name(), digest };
    golden(pin(Some(digest)), "ea02", &format!("0a{NAMED} 1220{sevens}"));
    golden(pin(None), "ea02", &format!("0a{NAMED}"));
    let set = |phase, note: &str| Command::SetPhase { name: name(), phase, note: note.to_owned() };
    golden(set(PhaseWord::Active, ""), "f202", &format!("0a{NAMED}"));
    golden(set(PhaseWord::Deprecated, "n"), "f202", &format!("0a{NAMED} 1001 1a016e"));
    golden(set(PhaseWord::Disabled, "n"), "f202", &format!("0a{NAMED} 1002 1a016e"));
    let dropped =
        |nodes, forget, force, unless_pinned| Command::DropCopies { name: name(), nodes, forget, force, unless_pinned };
    golden(dropped(vec![], false, false, false), "fa02", &format!("0a{NAMED}"));
    let some = vec![NodeId(1), NodeId(3)];
    golden(dropped(some, true, true, false), "fa02", &format!("0a{NAMED} 12020103 1801 2001"));
    golden(dropped(vec![], true, true, true), "fa02", &format!("0a{NAMED} 1801 2001 2801"));
    golden(Command::NoteUse { node, day: 20_000, names: vec!["m:t".into()] }, "8203", "0802 10a09c01 1a036d3a74");
    let forget = |after| Command::ForgetBlobs { before: Timestamp(7), after, limit: 9 };
    golden(forget(None), "8a03", "0807 1809");
    golden(forget(Some(digest)), "8a03", &format!("0807 1220{sevens} 1809"));
    let names = Command::ForgetNames { before: Timestamp(7), names: vec!["m:t".into()] };
    golden(names, "aa03", "0807 12036d3a74");
    let labels = [("room".to_owned(), "a".to_owned())].into();
    let labelled = Command::SetLabels { node, own: true, set: labels, unset: vec!["os".into()] };
    golden(labelled, "9203", "0802 1001 1a09 0a04726f6f6d 120161 22026f73");
    let cordon = |cordon| Command::SetCordon { node, cordon };
    golden(cordon(Cordon::Open), "9a03", "0802");
    golden(cordon(Cordon::Cordoned), "9a03", "0802 1001");
    golden(cordon(Cordon::Emptying), "9a03", "0802 1002");
    let course = "2001 2806 3007 3809 400a 4801 5002 5a04 08031004 6005";
    golden(note_copy(name()), "a203", &format!("0802 12{NAMED} 1808 {course}"));
}

#[test]
fn golden_samples_of_tasks_and_of_a_key() {
    let (id, sevens) = (TaskId([7; 16]), "07".repeat(16));
    let opened = format!("0a10{sevens} 120174 1a027b7d 220173 2805 3001");
    golden(open_task(false), "b203", &opened);
    golden(open_task(true), "b203", &format!("{opened} 3801 42016c"));
    let decide = |attempt: Option<u32>| Command::DecideTask { id, approved: true, attempt };
    golden(decide(None), "ba03", &format!("0a10{sevens} 1001"));
    golden(decide(Some(0)), "ba03", &format!("0a10{sevens} 1001 1800"));
    golden(Command::AssignTask { id, node: NodeId(2) }, "c203", &format!("0a10{sevens} 1002"));
    let progress = TaskProgress { done: 1, total: 300, text: "p".into() };
    let told = TaskTold { id, attempt: 3, progress };
    let tell = Command::TellTasks { node: NodeId(2), tasks: vec![told] };
    golden(tell, "ca03", &format!("0802 121e 0a10{sevens} 1003 1a08 0801 10ac02 1a0170"));
    let ended = format!("0802 1210{sevens} 1803");
    let (code, text, next) = (ErrorCode::DiskFull, "t".to_owned(), "n".to_owned());
    golden(end_task(TaskOutcome::Completed { result_json: "1".into() }), "d203", &format!("{ended} 2203 0a0131"));
    let failed = "2213 1211 0a09 6469736b5f66756c6c 120174 1a016e";
    golden(end_task(TaskOutcome::Failed { code, text, next }), "d203", &format!("{ended} {failed}"));
    golden(end_task(TaskOutcome::Cancelled { text: String::new() }), "d203", &format!("{ended} 2202 1a00"));
    golden(end_task(TaskOutcome::Cancelled { text: "t".into() }), "d203", &format!("{ended} 2203 1a0174"));
    golden(Command::CancelTask { id }, "da03", &sevens);
    golden(Command::RetryTask { id, plan: "l".into() }, "e203", &format!("0a10{sevens} 12016c"));
    golden(Command::AddStateKey { secret: SecretKey::new([7; 32]) }, "ea03", &"07".repeat(32));

    let once = Some(OnceKey { key: [1; 32], digest: [2; 32] });
    let keyed = Entry { once, ..entry(Command::Expire) };
    let bytes = hex::encode(encode(&keyed));
    let key_hex = format!("4a440a20{}1220{}", "01".repeat(32), "02".repeat(32));
    assert_eq!(bytes, hex::encode(encode(&entry(Command::Expire))).replacen("40008a", &format!("4000{key_hex}8a"), 1));
    assert!(bytes.contains(&key_hex), "{bytes}");
    assert_eq!(decode(&encode(&keyed), 1), Ok(keyed));
}

#[test]
fn what_this_release_does_not_know_is_an_error() {
    let known = disk::Envelope::decode(encode(&entry(Command::RemoveMember { node: NodeId(1) }))).expect("own bytes");
    let with = |change: &dyn Fn(&mut disk::Envelope)| {
        let mut changed = known.clone();
        change(&mut changed);
        decode(&changed.encode_to_vec(), 1)
    };
    assert_eq!(with(&|envelope| envelope.schema = 2), Err(EnvelopeError::NewerSchema(2)));
    assert_eq!(with(&|envelope| envelope.schema = 0), Err(EnvelopeError::NewerSchema(0)));
    assert_eq!(with(&|envelope| envelope.least_version = 2), Err(EnvelopeError::NewerVersion { needed: 2, own: 1 }));
    assert_eq!(with(&|envelope| envelope.command = None), Err(EnvelopeError::UnknownCommand));
    let role = disk::CommandCreateToken { role: 77, secret_sha256: vec![0; 32], ..Default::default() };
    let role = Stored::CreateToken(role);
    assert_eq!(with(&|envelope| envelope.command = Some(role.clone())), Err(EnvelopeError::Field("role")));
    let code = || "of_the_future".to_owned();
    let told = disk::CommandTellPull { node: 1, name: "m".to_owned(), code: code(), ..Default::default() };
    let told = Stored::TellPull(told);
    assert_eq!(with(&|envelope| envelope.command = Some(told.clone())), Err(EnvelopeError::Field("code")));
    let replicas = Some(disk::Replicas { of: None });
    let asked = Stored::AskModel(disk::CommandAskModel { name: "m".to_owned(), replicas, ..Default::default() });
    assert_eq!(with(&|envelope| envelope.command = Some(asked.clone())), Err(EnvelopeError::Field("replicas")));
    let forgotten = Stored::ForgetWish(disk::CommandForgetWish { name: "no name".to_owned(), round: 0 });
    assert_eq!(with(&|envelope| envelope.command = Some(forgotten.clone())), Err(EnvelopeError::Field("model name")));

    let version = || disk::CommandNoteVersion { name: "m".to_owned(), digest: vec![7; 32], ..Default::default() };
    let ask = disk::CommandPlanPull { name: "m".to_owned(), kind: 4, ..Default::default() };
    for (command, field) in [
        (Stored::PlanPull(ask), "kind"),
        (Stored::NoteVersion(disk::CommandNoteVersion { how: 5, ..version() }), "how"),
        (Stored::NoteVersion(disk::CommandNoteVersion { how: 1, digest: vec![7; 31], ..version() }), "digest"),
        (Stored::FixVersion(disk::CommandFixVersion::default()), "version"),
        (Stored::SetPhase(disk::CommandSetPhase { name: "m".to_owned(), phase: 3, note: String::new() }), "phase"),
        (Stored::PinModel(disk::CommandPinModel { name: "m".to_owned(), digest: vec![7; 33] }), "digest"),
        (Stored::SetCordon(disk::CommandSetCordon { node: 1, cordon: 3 }), "cordon"),
        (Stored::CancelTask(vec![7; 15]), "task id"),
        (Stored::OpenTask(disk::CommandOpenTask { id: vec![7; 16], priority: 256, ..Default::default() }), "priority"),
        (Stored::EndTask(disk::CommandEndTask { id: vec![7; 16], ..Default::default() }), "outcome"),
    ] {
        let shown = format!("{command:?}");
        let read = with(&|envelope| envelope.command = Some(command.clone()));
        assert_eq!(read, Err(EnvelopeError::Field(field)), "{shown}");
    }

    let once = disk::EnvelopeOnce { key: vec![1; 31], digest: vec![2; 32] };
    assert_eq!(with(&|envelope| envelope.once = Some(once.clone())), Err(EnvelopeError::Field("key")));

    // A command with a field number of the future decodes to "no command": never to something else.
    let mut future = disk::Envelope { command: None, ..known.clone() }.encode_to_vec();
    future.extend([0xa2, 0x06, 0x00]); // field 100, empty message
    assert_eq!(decode(&future, 1), Err(EnvelopeError::UnknownCommand));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(&bytes, 1));
        let _ = log_time(&bytes);
    }

    #[test]
    fn settings_of_any_content_read_back(key in ".{0,64}", value in prop::collection::vec(any::<u8>(), 0..300)) {
        let before = entry(Command::SetSetting { key, value });
        prop_assert_eq!(decode(&encode(&before), 1), Ok(before));
    }
}
