//! The replicated state: a command and a view of the state go in, mutations and an answer come out.
//!
//! `apply` is pure. What it reads comes through [`View`]; what it changes goes out as [`Mutation`]s, which `store`
//! writes in one batch with the applied index. A [`Refusal`] is an answer like any other and changes nothing; a
//! [`Fault`] means that the state cannot be trusted, and halts the node.

pub mod apply;
pub mod command;
pub mod happening;
pub mod lineage;
pub mod mem;
pub mod migrations;
pub mod models;
pub mod names;
pub mod principal;
pub mod read;
pub mod record;
pub mod txn;
mod unsaid;
pub mod view;

pub use apply::{Applied, CLUSTER_VERSION, NAMED_VERSION, apply, bytes_max_of, prefixes, quotas, value_prefix};
pub use command::{
    Answer, BoundBlob, CAPABILITIES_VERSION, Command, CopyCourse, Entry, NAMES_VERSION, NewMember, OnceKey, Refusal,
    STATE_KEYS_VERSION, TASKS_VERSION, TokenProblem, UNLESS_PINNED_VERSION, UNSAID_VERSION,
};
pub use happening::{ClusterEvent, EventKind, events_of, leader_elected, voters_changed};
pub use record::{
    Blob, Cluster, Cordon, Counts, Drop, Due, Failure, Fill, How, Key, KeyRange, Lease, Location, Member, MemberState,
    Migration, MigrationStatus, Model, Once, Phase, PhaseWord, Pin, Plan, PlanKind, Record, Remembered, Replicas,
    Session, Setting, Since, StateKey, StateKeys, Task, TaskOutcome, TaskProgress, TaskState, TaskTold, Token, Usage,
    Value, Version, Want, Wish,
};
pub use txn::Txn;
pub use unsaid::{COPIES_UNSAID, places_kept};
pub use view::{Fault, Mutation, View};
