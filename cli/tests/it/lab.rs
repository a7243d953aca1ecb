//! The cluster that the scripted daemon belongs to: three nodes, one model, two tokens.

use prost::Message;

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::verify_news::Sight;
use ollamax_proto::v1::{
    Attention, BackupView, BlobProgress, CancelPullReply, CancelTaskReply, Check, CheckUpgradeReply, ClusterEvent,
    CordonNodeReply, CreateBackupProgress, CreateTokenReply, DecideTaskReply, DoctorReply, DrainNodeReply, EventsReply,
    ExportHead, ExportPart, GetQuotaReply, GetTaskReply, Gpu, GrantLeaseReply, ImportModelProgress, ImportedCopy,
    Impossibility, InitReply, JoinReply, KvEffect, KvHeader, KvLease, KvValue, LabelNodeReply, LeaveReply,
    LimitPullReply, ListBackupsReply, ListLeasesReply, ListMigrationsReply, ListModelsReply, ListPullsReply,
    ListSettingsReply, ListTokensReply, ListToolsReply, ListWishesReply, LocalView, LogLine, Migration, ModelCopy,
    ModelLeft, ModelView, MoveReply, MoveView, NewBackupKeyReply, NodeLabel, NodeView, OutlookReply, PullProgress,
    RaftMember, RaftStatusReply, RaftView, RangeReply, RemoveNodeReply, RenewLeaseReply, Resident, RetryTaskReply,
    RevokeLeaseReply, RevokeTokenReply, RunMigrationsReply, Runtime, RuntimeProgress, SetSettingReply, Setting,
    Shortage, ShowOpenApiReply, SourceProgress, StatusReply, TakeSnapshotReply, Token, ToolView,
    TransferLeadershipReply, TxnReply, VerifyNews, WishChange, WishChanges, WishView, check, export_part, kv_effect,
    migration, model_left, raft_status_reply, reach_back_reply, runtime, wish_change, wish_view,
};

use crate::daemon::{Answer, Script, told};

pub(crate) mod tasks;

/// 2026-01-02 03:04:05 UTC.
const THEN_MS: u64 = 1_767_323_045_000;

/// Everything goes well.
pub(crate) fn script() -> Script {
    Script::from([
        ("Status", told(&status())),
        ("Init", told(&init())),
        ("Join", told(&join())),
        ("Leave", told(&LeaveReply {})),
        ("CreateToken", told(&token_made())),
        ("ListTokens", told(&ListTokensReply { tokens: vec![token(), spent()], view: None })),
        ("RevokeToken", told(&RevokeTokenReply {})),
        ("DrainNode", told(&DrainNodeReply { node_id: 2 })),
        ("RemoveNode", told(&RemoveNodeReply { node_id: 3 })),
        ("ListModels", told(&models())),
        ("ImportModel", Answer::Told(import().iter().map(Message::encode_to_vec).collect())),
        ("Pull", Answer::Told(pulls_to_the_end().iter().map(Message::encode_to_vec).collect())),
        ("ListPulls", told(&ListPullsReply { pulls: vec![fetching(1), failed_pull()] })),
        ("CancelPull", told(&CancelPullReply { found: true })),
        ("LimitPull", told(&LimitPullReply { nodes: 2 })),
        ("PlanWishes", told(&wish_changes())),
        ("ApplyWishes", told(&wish_changes())),
        ("ListWishes", told(&ListWishesReply { wishes: vec![wish()] })),
        ("MoveModel", told(&MoveReply { shown: Some(moved("rebalance", "n2")) })),
        ("Outlook", told(&outlook())),
        ("LabelNode", told(&LabelNodeReply { node_id: 2, labels: vec![label("gpu", "big"), label("room", "a")] })),
        ("CordonNode", told(&CordonNodeReply { node_id: 2, models: models_left() })),
        ("Verify", Answer::Told(all_verified().iter().map(Message::encode_to_vec).collect())),
        ("FollowWish", Answer::Told(pulls_to_the_end().iter().map(Message::encode_to_vec).collect())),
        ("Export", Answer::Told(exported().iter().map(Message::encode_to_vec).collect())),
        ("Import", told(&came_in_a_bundle())),
        ("Create", Answer::Told(created().iter().map(Message::encode_to_vec).collect())),
        ("Push", Answer::Told(pushed().iter().map(Message::encode_to_vec).collect())),
        ("Logs", Answer::Told(log_lines().iter().map(Message::encode_to_vec).collect())),
        ("Follow", Answer::Told(events().iter().map(Message::encode_to_vec).collect())),
        ("Range", told(&RangeReply { header: header(), values: vec![value()], more: false })),
        ("Txn", told(&TxnReply { header: header(), held: true, effects: vec![put_over(41)] })),
        ("GrantLease", told(&GrantLeaseReply { header: header(), id: 43, ttl_ms: 30_000 })),
        ("RenewLease", told(&RenewLeaseReply { header: header(), ttl_ms: 30_000 })),
        ("RevokeLease", told(&RevokeLeaseReply { header: header() })),
        ("ListLeases", told(&ListLeasesReply { header: header(), leases: vec![lease()], more: false })),
        ("GetQuota", told(&GetQuotaReply { header: header(), keys: 1, bytes: 14, bytes_max: 64 << 20 })),
        ("CreateBackup", Answer::Told(backup_made().iter().map(Message::encode_to_vec).collect())),
        ("ListBackups", told(&backups())),
        ("NewBackupKey", told(&backup_key())),
        ("ListSettings", told(&ListSettingsReply { settings: vec![knob()], more: false, view: None })),
        ("SetSetting", told(&SetSettingReply { revision: 45, term: 2 })),
        ("ListTools", told(&ListToolsReply { tools: vec![tool()] })),
        ("ShowOpenApi", told(&openapi())),
        ("CallTool", told(&tasks::answered(r#"{"status":"ok","node":"n1","problems":[]}"#))),
        ("ListTasks", told(&tasks::listed())),
        ("GetTask", told(&GetTaskReply { task: Some(tasks::completed()) })),
        ("CancelTask", told(&CancelTaskReply { task: Some(tasks::ending()) })),
        ("RetryTask", told(&RetryTaskReply { task: Some(tasks::queued()) })),
        ("DecideTask", told(&DecideTaskReply { task: Some(tasks::queued()) })),
        ("Doctor", told(&DoctorReply { checks: vec![clock(), ports()] })),
        ("GetRaftStatus", told(&raft_status())),
        ("TransferLeadership", told(&leader_given())),
        ("TakeSnapshot", told(&snapshot_taken())),
        ("ListMigrations", told(&migrations())),
        ("RunMigrations", run_of(migration(migration::Status::Applied))),
        ("CheckUpgrade", told(&CheckUpgradeReply { checks: vec![quorum(), way_back()], view: status().view })),
    ])
}

fn openapi() -> ShowOpenApiReply {
    ShowOpenApiReply { document_json: r#"{"openapi":"3.1.0","paths":{"/tools/health_check":{}}}"#.to_owned() }
}

fn tool() -> ToolView {
    let declared = r#"{"name":"health_check","title":"Check health","inputSchema":{"type":"object"},"examples":[{"title":"Is all well?","arguments":{}}]}"#;
    ToolView {
        name: "health_check".to_owned(),
        title: "Check health".to_owned(),
        description: "Says in one word whether all is well.".to_owned(),
        family: "health".to_owned(),
        class: "read".to_owned(),
        permission: "read".to_owned(),
        declared_json: declared.to_owned(),
    }
}

/// The ledger: one was applied, nobody has asked for the other.
fn migrations() -> ListMigrationsReply {
    let (name, group, about) = ("later".to_owned(), "models".to_owned(), "models of before get more".to_owned());
    let mut pending = Migration { number: 100, name, phase: 1, group, about, needs: 3, ..Migration::default() };
    pending.set_status(migration::Status::Pending);
    let migrations = vec![migration(migration::Status::Applied), pending];
    ListMigrationsReply { migrations, cluster_version: 3, view: status().view }
}

/// The first migration, with this status.
pub(crate) fn migration(status: migration::Status) -> Migration {
    let mut migration = Migration {
        number: 1,
        name: "noted_deadlines".to_owned(),
        phase: 0,
        group: "core".to_owned(),
        about: "deadlines of what has ended go".to_owned(),
        needs: 3,
        reversible: true,
        started_at_ms: THEN_MS,
        finished_at_ms: Some(THEN_MS + 12),
        actor: "node/1 for admin".to_owned(),
        duration_ms: 12,
        looked_at: 6,
        changed: 4,
        ..Migration::default()
    };
    migration.set_status(status);
    migration
}

/// A plan of one, a step of it, and this end.
pub(crate) fn run_of(end: Migration) -> Answer {
    let step =
        |migration: Migration| RunMigrationsReply { migration: Some(migration), ..RunMigrationsReply::default() };
    let plan = RunMigrationsReply { planned: vec![1], cluster_version: 3, ..RunMigrationsReply::default() };
    let replies = [plan, step(migration(migration::Status::Applying)), step(end)];
    Answer::Told(replies.iter().map(Message::encode_to_vec).collect())
}

fn quorum() -> Check {
    let found = "a majority of the voters answers; n1 leads".to_owned();
    let mut check = Check { id: "quorum".to_owned(), found, ..Check::default() };
    check.set_outcome(check::Outcome::Ok);
    check
}

fn way_back() -> Check {
    let found = "the cluster runs version 3; it goes up when the last member applies more, and not back".to_owned();
    let fix = "to keep the way back open, first on every member: raft.version_max = 3".to_owned();
    let mut check = Check { id: "way_back".to_owned(), found, fix, ..Check::default() };
    check.set_outcome(check::Outcome::Ok);
    check
}

/// Something to weigh before an upgrade.
pub(crate) fn one_voter() -> Check {
    let found = "none of 1 voters can be spared: changes wait while one restarts".to_owned();
    let fix = "go on if changes may wait; three voters can spare one".to_owned();
    let mut check = Check { id: "tolerance".to_owned(), found, fix, ..Check::default() };
    check.set_outcome(check::Outcome::Warn);
    check
}

/// Node 1 leads; node 3 does not vote and is behind.
fn raft_status() -> RaftStatusReply {
    let member = |id: u64, voter: bool, behind: Option<u64>, silent_ms: Option<u64>| {
        let name = format!("n{id}");
        RaftMember { id, name, voter, behind, silent_ms }
    };
    let mut reply = RaftStatusReply {
        node_id: 1,
        node_name: "n1".to_owned(),
        term: 2,
        leader: 1,
        has_quorum: true,
        contact_ms: Some(12),
        last_log_index: 41,
        committed_index: 40,
        applied_index: 40,
        log_first_index: 1,
        snapshot_index: 0,
        members: vec![member(1, true, None, None), member(2, true, Some(0), Some(90)), member(3, false, Some(5), None)],
        voters_changing: false,
        fsync_p50_us: 2_000,
        fsync_p99_us: 8_200,
        fsyncs: 130,
        cluster_version: 2,
        release: 3,
        state_hash: vec![0xcd; 4],
        ..RaftStatusReply::default()
    };
    reply.set_state(raft_status_reply::State::Leader);
    reply
}

fn leader_given() -> TransferLeadershipReply {
    let (leader_name, before_name) = ("n2".to_owned(), "n1".to_owned());
    TransferLeadershipReply { leader: 2, leader_name, before: 1, before_name, took_ms: 84 }
}

fn snapshot_taken() -> TakeSnapshotReply {
    let node_name = "n1".to_owned();
    TakeSnapshotReply { node_id: 1, node_name, index: 40, term: 2, already: false, records: Some(57) }
}

/// Node 1 answers, at revision 44.
fn header() -> Option<KvHeader> {
    Some(KvHeader { node_id: 1, revision: 44, term: 2, age_ms: None })
}

fn value() -> KvValue {
    let (key, value) = ("user/motd".to_owned(), b"hello".to_vec());
    KvValue { key, value, created: 12, modified: 41, version: 3, lease: 0 }
}

/// The one knob that was set.
fn knob() -> Setting {
    Setting { key: "autopilot.dead_after_ms".to_owned(), value: b"1800000".to_vec(), revision: 40 }
}

fn put_over(previous: u64) -> KvEffect {
    KvEffect { effect: Some(kv_effect::Effect::Put(previous)) }
}

fn lease() -> KvLease {
    KvLease { id: 43, ttl_ms: 30_000, ends_at_ms: THEN_MS, values: 2 }
}

/// The picture of the whole cluster.
pub(crate) fn status() -> StatusReply {
    let mut reply = StatusReply {
        daemon_version: "0.1.0".to_owned(),
        data_dir: "/var/lib/ollamax".to_owned(),
        node_id: 1,
        node_name: "n1".to_owned(),
        peer_id: "12D3KooWn1".to_owned(),
        cluster: vec![0xab; 4],
        cluster_name: "lab".to_owned(),
        raft: Some(RaftView {
            term: 2,
            leader: 1,
            last_log_index: 41,
            committed_index: 40,
            voters: vec![1, 2, 3],
            learners: vec![],
            has_quorum: true,
            healthy_nodes: 3,
            failure_tolerance: 1,
            ..RaftView::default()
        }),
        nodes: (1..=3).map(node).collect(),
        view: Some(LocalView { applied_index: 40, age_ms: 0 }),
        state_hash: vec![0xcd; 4],
        pid: 4_711,
        api_url: "http://127.0.0.1:11435".to_owned(),
        log_first_index: 1,
        snapshot_index: 0,
        ..StatusReply::default()
    };
    reply.set_phase(Phase::Member);
    reply
}

/// The same of a node that is no member any more.
pub(crate) fn status_of_a_removed_node() -> StatusReply {
    let mut reply = status();
    reply.set_phase(Phase::Removed);
    reply
}

/// The same without a majority.
pub(crate) fn status_without_quorum() -> StatusReply {
    let mut reply = status();
    for node in &mut reply.nodes[1..] {
        node.set_health(Health::Dead);
    }
    let raft = reply.raft.as_mut().expect("there");
    (raft.has_quorum, raft.healthy_nodes, raft.failure_tolerance) = (false, 1, 0);
    reply.view = Some(LocalView { applied_index: 40, age_ms: 12_000 });
    reply.attention = vec![Attention {
        id: "no_quorum".to_owned(),
        what: "no majority of voters answers".to_owned(),
        why: "n2 and n3 are silent".to_owned(),
        next: "start the missing voters: ollamax node list".to_owned(),
    }];
    reply
}

fn node(id: u64) -> NodeView {
    let mut runtime =
        Runtime { version: "0.24.0".to_owned(), url: "http://127.0.0.1:11434".to_owned(), ..Runtime::default() };
    runtime.set_kind(if id == 3 { runtime::Kind::Engine } else { runtime::Kind::Ollama });
    runtime.set_state(runtime::State::Up);
    let resident = Resident {
        name: "demo:latest".to_owned(),
        digest: vec![7; 32],
        size_bytes: 4_000_000,
        size_vram_bytes: 1_000_000,
        context_length: 512,
        ..Resident::default()
    };
    let gpu = Gpu {
        uuid: "GPU-8f6a".to_owned(),
        name: "NVIDIA H100".to_owned(),
        memory_total_bytes: Some(80_000_000_000),
        memory_used_bytes: Some(3_000_000_000),
        use_permille: Some(420),
    };
    let mut node = NodeView {
        id,
        name: format!("n{id}"),
        role: "voter".to_owned(),
        peer_id: format!("12D3KooWn{id}"),
        api_addresses: vec![format!("http://10.0.0.{id}:11435")],
        peer_addresses: vec![format!("10.0.0.{id}:11436")],
        p2p_addresses: vec![format!("/ip4/10.0.0.{id}/tcp/11437")],
        runtime: Some(runtime),
        resident: if id == 2 { vec![resident] } else { vec![] },
        models: 1,
        silent_ms: 120,
        clock_skew_ms: -3,
        applied_index: 40,
        daemon_version: "0.1.0".to_owned(),
        joined_at_ms: THEN_MS,
        leader: id == 1,
        voter: true,
        memory_used_bytes: 1_000_000_000,
        memory_total_bytes: 8_000_000_000,
        disk_free_bytes: Some(50_000_000_000),
        cpu_permille: 57,
        gpus: if id == 2 { vec![gpu] } else { vec![] },
        // The first is the one that is asked.
        way: if id == 1 { String::new() } else { "tcp".to_owned() },
        rtt_us: (id != 1).then_some(500),
        ..NodeView::default()
    };
    node.set_health(Health::Alive);
    node.set_state(State::Active);
    node
}

fn init() -> InitReply {
    InitReply {
        cluster: vec![0xab; 4],
        cluster_name: "lab".to_owned(),
        node_id: 1,
        token: "TOKEN".to_owned(),
        peer_addresses: vec!["10.0.0.1:11436".to_owned()],
    }
}

fn join() -> JoinReply {
    let probe = |address: &str, reached: bool, problem: &str| reach_back_reply::Probe {
        address: address.to_owned(),
        reached,
        problem: problem.to_owned(),
    };
    JoinReply {
        node_id: 4,
        cluster: vec![0xab; 4],
        cluster_name: "lab".to_owned(),
        already: false,
        probes: vec![probe("10.0.0.4:11436", true, ""), probe("10.0.0.4:11437", false, "timed out")],
        node_name: "gpu-2".to_owned(),
        lane_only: false,
    }
}

fn token() -> Token {
    Token {
        id: "t1".to_owned(),
        role: "voter".to_owned(),
        uses_left: 2,
        created_at_ms: THEN_MS,
        expires_at_ms: THEN_MS + 7_200_000,
        ..Token::default()
    }
}

fn spent() -> Token {
    Token { id: "t0".to_owned(), role: "learner".to_owned(), uses_left: 0, expired: true, ..token() }
}

fn token_made() -> CreateTokenReply {
    let peer_addresses = vec!["10.0.0.1:11436".to_owned()];
    CreateTokenReply { token: "TOKEN".to_owned(), record: Some(token()), peer_addresses }
}

fn model() -> ModelView {
    let copy = |node_id: u64, resident: bool| ModelCopy {
        node_id,
        node_name: format!("n{node_id}"),
        digest: vec![7; 32],
        modified_at_ms: THEN_MS,
        served: true,
        resident,
    };
    ModelView {
        name: "demo:latest".to_owned(),
        digest: vec![7; 32],
        size_bytes: 2_121_280,
        modified_at_ms: THEN_MS,
        details_json: r#"{"family":"llama"}"#.to_owned(),
        copies: vec![copy(1, false), copy(2, true)],
        conflict: false,
        capabilities: vec!["completion".to_owned(), "tools".to_owned()],
        phase: "active".to_owned(),
        pinned: false,
    }
}

fn models() -> ListModelsReply {
    ListModelsReply { models: vec![model()], view: None, all_bytes: 5_000_000, unique_bytes: 4_242_560 }
}

fn import() -> [ImportModelProgress; 2] {
    let copy = |node_id: u64| ImportedCopy { node_id, node_name: format!("n{node_id}"), digest: vec![7; 32] };
    let going =
        ImportModelProgress { status: "sending".to_owned(), completed_bytes: 4, total_bytes: 8, copies: vec![] };
    [
        going,
        ImportModelProgress {
            status: "done".to_owned(),
            completed_bytes: 8,
            total_bytes: 8,
            copies: vec![copy(1), copy(2)],
        },
    ]
}

/// A node that is on its way.
pub(crate) fn fetching(node_id: u64) -> PullProgress {
    let blob = |byte: u8, size_bytes: u64, verified_bytes: u64| BlobProgress {
        sha256: vec![byte; 32],
        size_bytes,
        verified_bytes,
    };
    let source = |source: &str, bytes: u64| SourceProgress { source: source.to_owned(), bytes };
    let mut pull = PullProgress {
        name: "llama3.2:latest".to_owned(),
        node_id,
        node_name: format!("n{node_id}"),
        digest: vec![7; 32],
        blobs: vec![blob(1, 2_000_000_000, 1_100_000_000), blob(2, 485, 485)],
        sources: vec![source("origin", 1_100_000_000), source("here", 485)],
        verified_bytes: 1_100_000_485,
        total_bytes: 2_000_000_485,
        bytes_per_second: Some(117_000_000),
        left_ms: Some(8_000),
        ..PullProgress::default()
    };
    pull.set_stage(Stage::Fetching);
    pull
}

/// The same node later.
pub(crate) fn pulled(node_id: u64) -> PullProgress {
    let (bytes_per_second, left_ms) = (None, None);
    let mut pull = PullProgress { verified_bytes: 2_000_000_485, bytes_per_second, left_ms, ..fetching(node_id) };
    pull.blobs[0].verified_bytes = 2_000_000_000;
    pull.set_stage(Stage::Done);
    pull
}

/// A node that got the model from a bundle.
fn came_in_a_bundle() -> PullProgress {
    let source = SourceProgress { source: "bundle".to_owned(), bytes: 2_000_000_485 };
    PullProgress { sources: vec![source], ..pulled(1) }
}

/// What a runtime says at work, and at the end.
fn at_work(name: &str, said: &[(&str, u64, u64)]) -> Vec<RuntimeProgress> {
    let told = |status: &str, digest: Vec<u8>| {
        let (name, node_name) = (name.to_owned(), "n1".to_owned());
        RuntimeProgress { name, node_id: 1, node_name, status: status.to_owned(), digest, ..RuntimeProgress::default() }
    };
    let steps = said.iter().map(|(status, completed_bytes, total_bytes)| RuntimeProgress {
        completed_bytes: *completed_bytes,
        total_bytes: *total_bytes,
        ..told(status, vec![])
    });
    steps.chain([told("", vec![7; 32])]).collect()
}

/// A model that was made, and its copies.
fn created() -> Vec<RuntimeProgress> {
    let copy = |copy: PullProgress| {
        let copy = PullProgress { name: "lab/mine:latest".to_owned(), ..copy };
        RuntimeProgress { copy: Some(copy), ..RuntimeProgress::default() }
    };
    let mut all = at_work("lab/mine:latest", &[("uploading", 4, 8), ("writing manifest", 0, 0)]);
    all.extend([copy(fetching(2)), copy(pulled(1)), copy(pulled(2))]);
    all
}

fn pushed() -> Vec<RuntimeProgress> {
    at_work("me/mine:latest", &[("retrieving manifest", 0, 0), ("pushing 070707070707", 4, 8)])
}

/// The front of a bundle, as far as anybody looks at it here.
pub(crate) fn bundle() -> Vec<u8> {
    let mut bundle = vec![0; 512];
    bundle[257..262].copy_from_slice(b"ustar");
    bundle
}

/// What is said of a sound file; `file` tells it from others.
pub(crate) fn verified(file: u8, size_bytes: u64) -> VerifyNews {
    let mut news = VerifyNews {
        node_id: 1,
        node_name: "n1".to_owned(),
        sha256: vec![file; 32],
        name: "llama3.2:latest".to_owned(),
        size_bytes,
        done_bytes: size_bytes,
        ..VerifyNews::default()
    };
    news.set_sight(Sight::Sound);
    news
}

fn all_verified() -> [VerifyNews; 3] {
    let mut begun = VerifyNews { done_bytes: 0, ..verified(2, 2_000_000_000) };
    begun.set_sight(Sight::Unspecified);
    [verified(1, 485), begun, verified(2, 2_000_000_000)]
}

fn label(key: &str, value: &str) -> NodeLabel {
    NodeLabel { key: key.to_owned(), value: value.to_owned() }
}

fn wish_changes() -> WishChanges {
    let change = |name: &str, kind: wish_change::Kind, text: &str| WishChange {
        name: name.to_owned(),
        kind: kind.into(),
        text: text.to_owned(),
    };
    let changes = vec![
        change("llama3.2:latest", wish_change::Kind::Ask, "+ wanted on 3 nodes"),
        change("demo:latest", wish_change::Kind::Forget, "- no longer declared; copies stay"),
        change("mine:latest", wish_change::Kind::Same, "as declared"),
    ];
    WishChanges { changes }
}

/// One copy of it is missing.
fn wish() -> WishView {
    let mut wish = WishView {
        name: "llama3.2:latest".to_owned(),
        count: Some(3),
        holders: vec!["n1".to_owned(), "n2".to_owned()],
        labels: vec![label("room", "a")],
        gpu_memory_bytes_min: 16_000_000_000,
        disk_free_bytes_min: 50_000_000_000,
        avoid: vec!["n4".to_owned()],
        declared: true,
        asked_by: "node/1 for admin".to_owned(),
        asked_at_ms: THEN_MS,
        digest: vec![7; 32],
        size_bytes: 2_000_000_485,
        reason: "2 of 3 copies are there".to_owned(),
        kind: "asked".to_owned(),
        ..WishView::default()
    };
    wish.set_state(wish_view::State::Short);
    wish
}

/// From node 1 to node 3.
fn moved(kind: &str, leaves: &str) -> MoveView {
    MoveView {
        name: "llama3.2:latest".to_owned(),
        kind: kind.to_owned(),
        from: "n1".to_owned(),
        to: vec!["n3".to_owned()],
        leaves: leaves.to_owned(),
        size_bytes: 2_000_000_485,
    }
}

fn outlook() -> OutlookReply {
    let why = vec!["n2: 90.0 GB of GPU memory needed, none known".to_owned()];
    OutlookReply {
        moves: vec![moved("repair", "")],
        short: vec![Shortage { name: "llama3.2:latest".to_owned(), has: 2, wants: 3 }],
        impossible: vec![Impossibility { name: "big:latest".to_owned(), why }],
    }
}

fn models_left() -> Vec<ModelLeft> {
    let left = |name: &str, elsewhere: u32, fate: model_left::Fate| ModelLeft {
        name: name.to_owned(),
        size_bytes: 2_121_280,
        elsewhere,
        fate: fate.into(),
        why: vec![],
    };
    vec![left("demo:latest", 1, model_left::Fate::Goes), left("mine:latest", 0, model_left::Fate::Unwished)]
}

fn exported() -> [ExportPart; 3] {
    let head = ExportHead { digest: vec![7; 32], length_bytes: 512, name: "llama3.2:latest".to_owned() };
    let bundle = bundle();
    let data = |bytes: &[u8]| export_part::Part::Data(bytes.to_vec().into());
    let parts = [export_part::Part::Head(head), data(&bundle[..300]), data(&bundle[300..])];
    parts.map(|part| ExportPart { part: Some(part) })
}

fn failed_pull() -> PullProgress {
    let mut pull = PullProgress {
        name: "big:latest".to_owned(),
        node_id: 1,
        node_name: "n1".to_owned(),
        code: "disk_full".to_owned(),
        error: "the disk at /models is full".to_owned(),
        ..PullProgress::default()
    };
    pull.set_stage(Stage::Failed);
    pull
}

/// Two nodes, the second one last.
fn pulls_to_the_end() -> [PullProgress; 4] {
    let mut waiting = PullProgress { verified_bytes: 0, bytes_per_second: None, left_ms: None, ..fetching(2) };
    waiting.set_stage(Stage::Waiting);
    [fetching(1), waiting, pulled(1), pulled(2)]
}

fn backup() -> BackupView {
    let name = "ollamax-lab-20260102T030405Z-44.oxb.age".to_owned();
    BackupView {
        place: format!("/var/lib/ollamax/backups/{name}"),
        name,
        size_bytes: 8_400,
        cluster: vec![0xab; 4],
        cluster_name: "lab".to_owned(),
        revision: 44,
        taken_at_ms: THEN_MS,
        release: "0.1.0".to_owned(),
        recipient: "age1lab".to_owned(),
        problem: String::new(),
    }
}

fn backup_made() -> [CreateBackupProgress; 2] {
    let going = CreateBackupProgress {
        written_bytes: 4_000,
        records: 9,
        doing: "writing".to_owned(),
        ..CreateBackupProgress::default()
    };
    let doing = "done".to_owned();
    let last = CreateBackupProgress { made: Some(backup()), removed: 1, age_ms: Some(90_000), doing, ..going.clone() };
    [going, last]
}

fn backups() -> ListBackupsReply {
    let name = "ollamax-lab-20260101T030405Z-12.oxb.age".to_owned();
    let cut = BackupView {
        place: format!("/var/lib/ollamax/backups/{name}"),
        name,
        size_bytes: 100,
        problem: "it is no backup".to_owned(),
        ..BackupView::default()
    };
    ListBackupsReply { backups: vec![backup(), cut], place: "/var/lib/ollamax/backups".to_owned(), more: false }
}

fn backup_key() -> NewBackupKeyReply {
    let (secret, recipient) = ("AGE-SECRET-KEY-1LAB".to_owned(), "age1lab".to_owned());
    NewBackupKeyReply { secret, recipient, replaced: "age1old".to_owned() }
}

/// Two lines of the daemon's log.
pub(crate) fn log_lines() -> [LogLine; 2] {
    let line = |json: &str| LogLine { json: json.to_owned() };
    [
        line(
            r#"{"ts":"2026-01-02T03:04:05Z","level":"info","target":"node","msg":"ready","node_id":1,"request_id":""}"#,
        ),
        line(r#"{"ts":"2026-01-02T03:04:06Z","level":"warn","target":"node","msg":"refused","code":"no_quorum"}"#),
    ]
}

/// Where the events begin, and two of them.
fn events() -> [EventsReply; 2] {
    let event = |revision: u64, kind: &str, subject: &str, text: &str| ClusterEvent {
        revision,
        at_ms: THEN_MS,
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        text: text.to_owned(),
    };
    let joined = event(41, "member_joined", "node/3", "n3 joined as voter");
    let quota = event(43, "quota_set", "user/", "may take 9 bytes");
    [
        EventsReply { node_id: 1, revision: 11, oldest: 12, events: vec![] },
        EventsReply { node_id: 1, revision: 44, oldest: 12, events: vec![joined, quota] },
    ]
}

fn clock() -> Check {
    let mut check = Check { id: "clock".to_owned(), found: "2 ms from the others".to_owned(), ..Check::default() };
    check.set_outcome(check::Outcome::Ok);
    check
}

fn ports() -> Check {
    let (found, fix) = ("11436 is not reached from n2".to_owned(), "sudo ufw allow 11436/tcp".to_owned());
    let mut check = Check { id: "reachability".to_owned(), found, fix, ..Check::default() };
    check.set_outcome(check::Outcome::Warn);
    check
}

/// A check that fails.
pub(crate) fn full_disk() -> Check {
    let (found, fix) = ("1 MiB free".to_owned(), "free some space".to_owned());
    let mut check = Check { id: "disk".to_owned(), found, fix, ..Check::default() };
    check.set_outcome(check::Outcome::Fail);
    check
}
