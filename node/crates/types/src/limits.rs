//! Every bound that is not configuration, with its unit in its name.

use std::time::Duration;

/// Largest request body that the gateway holds in memory; a larger one is answered 413.
pub const GATEWAY_BODY_BYTES_MAX: usize = 64 << 20;
/// Largest value of one configuration key.
pub const SETTING_VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest configuration key.
pub const SETTING_KEY_BYTES_MAX: usize = 256;
/// Longest name of a node or cluster.
pub const LABEL_BYTES_MAX: usize = 63;
/// Most keys that one command may read (design rule of the pure `apply`).
pub const COMMAND_KEYS_MAX: usize = 1_024;
/// Most tasks on record.
pub const TASKS_MAX: u64 = 4_096;
/// Most tasks of one caller that are not over.
pub const TASKS_OPEN_MAX: usize = 256;
/// Largest arguments of a task, as JSON text.
pub const TASK_ARGUMENTS_BYTES_MAX: usize = 16 << 10;
/// Longest plan of a task, which whoever approves it reads. A longer one says how many lines more there are.
pub const TASK_PLAN_BYTES_MAX: usize = 4 << 10;
/// Largest result of a task, as JSON text.
pub const TASK_RESULT_BYTES_MAX: usize = 64 << 10;
/// Longest text that a task tells: how far it is, why it failed, what to do next. A longer one is cut.
pub const TASK_TEXT_BYTES_MAX: usize = 512;
/// Times that a task is begun before it fails for good.
pub const TASK_ATTEMPTS_MAX: u32 = 5;
/// Highest priority of a task.
pub const TASK_PRIORITY_MAX: u8 = 9;
/// Priority of a task of which nobody says one.
pub const TASK_PRIORITY_USUAL: u8 = 5;
/// How long a task stays on record when it is over.
pub const TASK_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How long a task waits for somebody to approve it.
pub const TASK_APPROVAL_FOR: Duration = Duration::from_secs(3_600);
/// How long a node has a task without telling of it.
pub const TASK_LEASE: Duration = Duration::from_secs(10);
/// Most tasks that one command tells of.
pub const TASKS_TOLD_MAX: usize = 64;
/// Most tasks that one node works at: as many as one command tells of, since most of them wait for bytes that others
/// move.
pub const TASKS_PER_NODE_MAX: usize = TASKS_TOLD_MAX;
/// Most answers that are kept for requests with a key.
pub const ONCE_MAX: u64 = 16_384;
/// How long the answer to a request with a key is kept.
pub const ONCE_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Largest message of an assistant: as many bytes as a call's arguments may have, and what frames them.
pub const ASSISTANT_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// After how long the cluster draws another key for the states that its clients carry.
pub const STATE_KEY_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Most keys for the states that clients carry: the next one, the one that seals, and the one before it.
pub const STATE_KEYS_MAX: usize = 3;
/// How long a client may carry a state before it goes on.
pub const STATE_CARRIED_FOR: Duration = Duration::from_secs(600);
/// Most models in one report command; a node with more sends a series.
pub const REPORT_MODELS_MAX: usize = 200;
/// Largest `details` object of one model record, as JSON text.
pub const MODEL_DETAILS_BYTES_MAX: usize = 4 << 10;
/// Most addresses that a member advertises for one listener.
pub const ADDRESSES_MAX: usize = 16;
/// Largest gRPC message between nodes.
pub const PEER_MESSAGE_BYTES_MAX: usize = GATEWAY_BODY_BYTES_MAX + (1 << 20);
/// Largest encoded command in the log.
pub const COMMAND_BYTES_MAX: usize = 3 << 19;
// All tasks of a node are told of in one command, with the longest texts.
const _: () = assert!(TASKS_TOLD_MAX * (TASK_TEXT_BYTES_MAX + 64) <= COMMAND_BYTES_MAX);
/// Most conditions, and most operations of either list, in one transaction.
pub const TXN_OPS_MAX: usize = 128;
/// Most bytes of values that the reads of one transaction may answer; larger ones are read by themselves.
pub const TXN_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest key of a value.
pub const VALUE_KEY_BYTES_MAX: usize = 512;
/// Largest value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Bytes of keys and values under `user/`, where no other quota was set.
pub const USER_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Share of a quota from which on `status` asks for attention, percent.
pub const QUOTA_NEARLY_FULL_PERCENT: u64 = 80;
/// Largest quota that can be set for values under one prefix.
pub const QUOTA_BYTES_MAX: u64 = 8 << 30;
/// Most values that go with one lease.
pub const LEASE_VALUES_MAX: u32 = 256;
/// Most leases.
pub const LEASES_MAX: u64 = 16_384;
/// Shortest lease.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most client sessions.
pub const SESSIONS_MAX: u64 = 16_384;
/// Most commands of one client session that may be under way at once.
pub const SESSION_WINDOW_MAX: u32 = 1_024;
/// Shortest life of a client session without a command.
pub const SESSION_TTL_MIN: Duration = Duration::from_secs(10);
/// Longest life of a client session without a command.
pub const SESSION_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Most leases and sessions that one command ends or looks at again.
pub const EXPIRE_ITEMS_MAX: usize = 32;
/// Most records that one step of a migration goes through; it may read one more for each.
pub const MIGRATION_STEP_ITEMS_MAX: usize = 128;
/// Most steps of a migration that are tried on a state without changing it.
pub const MIGRATION_REHEARSAL_STEPS_MAX: usize = 1_000;
/// Bytes of commands waiting for the log on one node; beyond it callers get `overloaded`.
pub const PROPOSALS_IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// How long a change waits for a quorum before the caller hears `no_quorum`.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_millis(1_800);
/// How long a linearizable read waits for a quorum before the caller hears `no_quorum`.
pub const READ_TIMEOUT: Duration = Duration::from_millis(1_800);
/// Largest chunk of one snapshot message.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1 << 20;
/// Frames between nodes.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// Silence after which a node is everybody's last choice.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(800);
/// Silence after which a node is counted as dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long members that were not heard yet are waited for. Behind that they count as what is known of them: nothing.
pub const HEAR_TIMEOUT: Duration = Duration::from_secs(5);
/// GPUs of one node that are told of.
pub const GPUS_MAX: usize = 64;
/// Nodes that one node asks for no files for a while, and that are told of.
pub const QUARANTINED_MAX: usize = 64;
/// Join token life when no `--ttl` is given.
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(3_600);
/// Longest join token life.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Longest text of a join token that is read, with room for what an editor adds, bytes.
pub const TOKEN_TEXT_BYTES_MAX: usize = 4 << 10;
/// TCP keep-alive of client connections: idle time, interval, probes.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Interval between keep-alive probes.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Probes before a silent client connection is closed.
pub const TCP_KEEPALIVE_RETRIES: u32 = 4;
/// Most members that have not departed.
pub const MEMBERS_MAX: usize = 512;
/// Most departed members kept on record; the longest departed are forgotten first.
pub const DEPARTED_MEMBERS_MAX: usize = 256;
/// Most join tokens on record; expired, revoked and used-up ones make room.
pub const TOKENS_MAX: usize = 512;
/// Most joins that one token may permit.
pub const TOKEN_USES_MAX: u32 = 1_000;
/// Longest advertised address.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Longest model key (`ModelName::key`).
pub const MODEL_KEY_BYTES_MAX: usize = 640;
/// Longest peer id and token id.
pub const IDENTIFIER_BYTES_MAX: usize = 128;
/// Longest request id that is taken from a caller.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Largest error answer of a runtime that is read to find its kind.
pub const RUNTIME_ERROR_BYTES_MAX: usize = 64 << 10;
/// Largest manifest of a model that is read.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Most layers of one manifest.
pub const MANIFEST_LAYERS_MAX: usize = 4_096;
/// Largest file of a model.
pub const BLOB_BYTES_MAX: u64 = 16 << 40;
/// Most bytes of all files of one model together.
pub const MODEL_BYTES_MAX: u64 = 16 << 40;
/// Largest configuration file of a model that is read.
pub const CONFIG_BLOB_BYTES_MAX: usize = 1 << 20;
/// Most manifests of one store that are looked at.
pub const STORE_MANIFESTS_MAX: usize = 10_000;
/// Most files that one model is made of, adapters among them.
pub const CREATE_FILES_MAX: usize = 64;
/// Most files of models that a node takes at once in Ollama's words: all those of two models.
pub const UPLOADS_MAX: usize = 2 * CREATE_FILES_MAX;
/// Largest description of a model that is made, in JSON.
pub const CREATE_BODY_BYTES_MAX: usize = 1 << 20;
/// Most watchers of one pull.
pub const PULL_WATCHERS_MAX: usize = 256;
/// Most things that a runtime says a model can do.
pub const CAPABILITIES_MAX: usize = 16;
/// Longest word for what a model can do.
pub const CAPABILITY_BYTES_MAX: usize = 32;
/// Most files that one command binds to their BLAKE3.
pub const BIND_BLOBS_MAX: usize = 256;
/// Most files whose BLAKE3 is on record.
pub const BLOBS_MAX: u64 = 262_144;
/// Most models that are asked for.
pub const WISHES_MAX: u64 = 4_096;
/// Names of models with a record of their own.
pub const MODELS_MAX: u64 = 16_384;
/// Versions that are kept in the history of one name, beside a pinned one that is older.
pub const VERSIONS_MAX: usize = 64;
/// Copies of one model that may wait to be removed.
pub const DROPS_MAX: usize = 512;
/// Why a model is in its phase, bytes.
pub const PHASE_NOTE_BYTES_MAX: usize = 256;
/// Files that one command forgets.
pub const FORGET_BLOBS_MAX: usize = 512;
/// Names that one command looks at, each with its history.
pub const FORGET_NAMES_MAX: usize = 12;
/// Labels of one kind on one node, and labels that one wish asks for.
pub const LABELS_MAX: usize = 32;
/// Most nodes that one wish may have as its targets.
pub const WISH_TARGETS_MAX: usize = 64;
/// How long the same question is answered with a round whose ingester has the model already: who receives may be away
/// for long, and the registry must be asked again some day.
pub const ROUND_KEPT_FOR: Duration = Duration::from_secs(600);
/// The same where nobody says anything of places and a new round would go on with the same nodes: little is lost by
/// one, and who is off must not keep the others from what the registry has today.
pub const ROUND_KEPT_UNSAID_FOR: Duration = Duration::from_secs(60);
/// Most nodes that one wish keeps as those with a copy too many; beyond them copies stay as they were found.
pub const WISH_SURPLUS_MAX: usize = 64;
/// Most failures of nodes that one wish keeps; those without a part in its plan make room.
pub const WISH_FAILURES_MAX: usize = 128;
/// Most members that a copy names as those that it came from.
pub const COPY_SOURCES_MAX: usize = 8;
/// Longest text of a failure in a wish; a longer one is cut.
pub const FAILURE_TEXT_BYTES_MAX: usize = 512;
