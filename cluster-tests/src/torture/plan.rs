//! Which fault comes when, with every number that belongs to it: drawn from the seed alone, so that the same seed,
//! nodes and faults make the same plan.
//!
//! Faults are drawn like cards. The first deck begins with one card of each family that was asked for, so that a short
//! run meets them all; then come the other cards, and then fresh decks. Who leads is not known here: a card says whom
//! it means by role, and what happens on a real machine is never the same to the microsecond.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use ollamax_testkit::Seed;
use ollamax_testkit::disk_faults::{Call, CrashPoint, Moment, Names, Tail, Variant};

/// Purpose for which the plan draws its chance.
const PURPOSE: u64 = 0x706c_616e;
/// What a power cut leaves of bytes that were never synced.
const TAILS: [Tail; 4] = [Tail::Cut, Tail::Torn, Tail::Zeroed, Tail::Garbled];
const NAMES: [Names; 3] = [Names::Undone, Names::Kept, Names::Drawn];
/// How long a node may stand still, ms.
const PAUSES_MS: [u64; 4] = [300, 1_000, 2_000, 3_000];
/// Bytes that a slow link carries in a second.
const RATES: [u32; 3] = [32 << 10, 64 << 10, 256 << 10];
/// Where a process can end in its work: calls, files, and the highest number that is drawn. In order: the write-ahead
/// log is written, synced, closed at its length and taken away; the high-water file, which holds the votes, is synced
/// and gets its name; the state and the log are flushed into tables, and the manifest takes those in.
const CRASHES: [(Call, &str, u64); 10] = [
    (Call::Write, "*.log", 40),
    (Call::Sync, "*.log", 20),
    (Call::Truncate, "*.log", 1),
    (Call::Unlink, "*.log", 1),
    (Call::Sync, "high-water.tmp", 2),
    (Call::Rename, "high-water", 2),
    (Call::Write, "*.sst", 3),
    (Call::Sync, "*.sst", 2),
    (Call::Write, "MANIFEST-*", 2),
    (Call::Sync, "MANIFEST-*", 2),
];
/// The same while a node starts: the manifest is written anew and takes the place of the old one.
const CRASHES_AT_START: [(Call, &str, u64); 3] =
    [(Call::Write, "MANIFEST-*", 1), (Call::Sync, "MANIFEST-*", 1), (Call::Rename, "CURRENT", 1)];
/// The same while a snapshot arrives: its first table is written, synced and taken in.
const CRASHES_IN_SNAPSHOT: [(Call, &str, u64); 3] =
    [(Call::Write, "0.sst", 1), (Call::Sync, "0.sst", 1), (Call::Unlink, "0.sst", 1)];
/// Longest time in which a node is to fall so far behind that it needs a snapshot.
const LAG_TIME: Duration = Duration::from_secs(20);
/// Clients that ask at once in an overload.
const CROWD: usize = 256;

/// The faults by their numbers in the reliability plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    F1,
    F2,
    F3,
    F4,
    F5,
    F6,
    F7,
    F8,
    F9,
    F10,
    F11,
    F12,
    F13,
    F14,
    F16,
}

/// One card of the deck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Card {
    KillLeader,
    KillFollower,
    KillEverybody,
    CrashOfLeader,
    CrashOfFollower,
    CrashAtStart,
    CrashInSnapshot,
    CutPower,
    PauseLeader,
    PauseFollower,
    PartLeader,
    PartFollower,
    OneWay,
    OneLink,
    Bridge,
    Delays,
    Stalls,
    Slowness,
    HalfOpen,
    Lag,
    SyncFails,
    WriteFails,
    FullDisk,
    ShortWrites,
    SlowSyncsOfLeader,
    SlowSyncsOfAll,
    DamagedMark,
    DamagedLog,
    DamagedTables,
    LostState,
    GarbledTail,
    Contention,
    ClockOfLeader,
    ClockOfFollower,
    Transfer,
    ReplaceLeader,
    ReplaceFollower,
    Overload,
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Leader,
    Follower,
    Everybody,
}

/// What a process does when it ends in the midst of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// It leads.
    Leading,
    /// It follows.
    Following,
    /// It starts after a SIGKILL.
    Starting,
    /// It takes in a snapshot.
    CatchingUp,
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ailment {
    /// One sync of the write-ahead log fails; those behind it would not.
    LogSync,
    /// One sync of the high-water file fails.
    MarkSync,
    /// One write of the write-ahead log fails.
    LogWrite,
    /// No byte can be written any more.
    Full,
    /// Writes write half of what they are given, and say so.
    Short,
}

/// What happens to the files of a node that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A bit of the high-water file is another.
    MarkFlipped,
    /// The high-water file is gone.
    MarkLost,
    /// The write-ahead log ends in the midst of what was synced.
    LogCut,
    /// A bit in the midst of the write-ahead log is another.
    LogFlipped,
    /// Bits of every table are others.
    TablesFlipped,
    /// All replicated state is gone.
    StateLost,
    /// The database is one that the node had before.
    DatabaseOlder,
    /// Garbage stands behind the write-ahead log, where nothing was ever synced.
    TailGarbled,
}

/// Who hears whom no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Nobody and the leader.
    LeaderAlone,
    /// Nobody and one follower, or two of five.
    FollowersAlone,
    /// The others do not hear the leader; it hears them.
    LeaderUnheard,
    /// The leader and one follower; both hear the rest.
    OneLink,
    /// Two and two; the fifth hears all.
    Bridge,
}

/// What is wrong with all links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Each is late by its own time, which changes: 25 to 125 ms.
    Delays,
    /// At each moment half of them hold everything back.
    Stalls,
    /// Each carries this many bytes in a second.
    Slowness(u32),
}

/// One fault with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a start after the time.
    Kill(Whom),
    /// A process ends at a point of its work, by SIGKILL to itself; its disk may lose what was never synced.
    Crash { scene: Scene, point: CrashPoint, loss: Option<Variant> },
    /// SIGKILL to all, the disks lose what was never synced, and a start after the time.
    CutPower(Variant),
    /// SIGSTOP, and SIGCONT after the time.
    Pause(Whom),
    /// Links do not carry; silent ones stay open, others break.
    Part { split: Split, silent: bool },
    /// All links carry badly.
    Trouble(Trouble),
    /// A follower falls silent, dies and comes back, and its old connections seem to live.
    HalfOpen,
    /// A follower hears nobody until the others have dropped what it would need from their logs.
    Lag,
    /// A disk refuses calls, until the process has ended or the time is over.
    BadDisk { whom: Whom, ailment: Ailment },
    /// Every sync takes this much longer.
    SlowSyncs(Whom, Duration),
    /// The files of a follower are damaged while it is off.
    Damage(Damage),
    /// Somebody else writes and syncs large pieces to the disk that all nodes share.
    Contention,
    /// A node comes back with a time of day that is an hour off, as the leader if it is meant, and later with the right
    /// one.
    JumpClock { whom: Whom, ahead: bool },
    /// The leader hands over.
    Transfer,
    /// A member leaves and joins anew under another id.
    Replace(Whom),
    /// This many more clients write as fast as they can.
    Overload(usize),
}

/// One round of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// From 1.
    pub(crate) number: u32,
    pub(crate) fault: Fault,
    /// How long the fault lasts.
    pub(crate) time: Duration,
    /// From what everything else of this round is drawn.
    pub(crate) seed: Seed,
}

/// All rounds, one after the other, without an end.
#[derive(Debug)]
pub(crate) struct Plan {
    cards: Vec<Card>,
    deck: VecDeque<Card>,
    chance: StdRng,
    seed: Seed,
    number: u32,
}

// === impl Family ===

impl Family {
    pub(crate) const ALL: [Self; 15] = [
        Self::F1,
        Self::F2,
        Self::F3,
        Self::F4,
        Self::F5,
        Self::F6,
        Self::F7,
        Self::F8,
        Self::F9,
        Self::F10,
        Self::F11,
        Self::F12,
        Self::F13,
        Self::F14,
        Self::F16,
    ];

    pub(crate) const fn id(self) -> &'static str {
        self.words().0
    }

    pub(crate) const fn title(self) -> &'static str {
        self.words().1
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::F1 => ("F1", "killed"),
            Self::F2 => ("F2", "ended in a call"),
            Self::F3 => ("F3", "power cut of all"),
            Self::F4 => ("F4", "paused"),
            Self::F5 => ("F5", "parted"),
            Self::F6 => ("F6", "bad links"),
            Self::F7 => ("F7", "half-open connections"),
            Self::F8 => ("F8", "behind until a snapshot"),
            Self::F9 => ("F9", "bad disks"),
            Self::F10 => ("F10", "slow syncs"),
            Self::F11 => ("F11", "damaged files"),
            Self::F12 => ("F12", "busy disk"),
            Self::F13 => ("F13", "clock jumps"),
            Self::F14 => ("F14", "membership"),
            Self::F16 => ("F16", "overload"),
        }
    }

    /// Finds a family by its number, `F1` or `f1`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|family| family.id().eq_ignore_ascii_case(text.trim()));
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::id).collect();
            format!("{text:?} is no fault of torture; there are {}", known.join(", "))
        })
    }

    /// Whether the nodes have to be joined by links that can be broken.
    pub(crate) const fn needs_links(self) -> bool {
        matches!(self, Self::F2 | Self::F5 | Self::F6 | Self::F7 | Self::F8 | Self::F11)
    }

    /// Whether the nodes have to stand on disks that can fail.
    pub(crate) const fn needs_disks(self) -> bool {
        matches!(self, Self::F2 | Self::F3 | Self::F9 | Self::F10)
    }
}

// === impl Card ===

impl Card {
    const ALL: [Self; 38] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillEverybody,
        Self::CrashOfLeader,
        Self::CrashOfFollower,
        Self::CrashAtStart,
        Self::CrashInSnapshot,
        Self::CutPower,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::PartLeader,
        Self::PartFollower,
        Self::OneWay,
        Self::OneLink,
        Self::Bridge,
        Self::Delays,
        Self::Stalls,
        Self::Slowness,
        Self::HalfOpen,
        Self::Lag,
        Self::SyncFails,
        Self::WriteFails,
        Self::FullDisk,
        Self::ShortWrites,
        Self::SlowSyncsOfLeader,
        Self::SlowSyncsOfAll,
        Self::DamagedMark,
        Self::DamagedLog,
        Self::DamagedTables,
        Self::LostState,
        Self::GarbledTail,
        Self::Contention,
        Self::ClockOfLeader,
        Self::ClockOfFollower,
        Self::Transfer,
        Self::ReplaceLeader,
        Self::ReplaceFollower,
        Self::Overload,
    ];

    const fn family(self) -> Family {
        match self {
            Self::KillLeader | Self::KillFollower | Self::KillEverybody => Family::F1,
            Self::CrashOfLeader | Self::CrashOfFollower | Self::CrashAtStart | Self::CrashInSnapshot => Family::F2,
            Self::CutPower => Family::F3,
            Self::PauseLeader | Self::PauseFollower => Family::F4,
            Self::PartLeader | Self::PartFollower | Self::OneWay | Self::OneLink | Self::Bridge => Family::F5,
            Self::Delays | Self::Stalls | Self::Slowness => Family::F6,
            Self::HalfOpen => Family::F7,
            Self::Lag => Family::F8,
            Self::SyncFails | Self::WriteFails | Self::FullDisk | Self::ShortWrites => Family::F9,
            Self::SlowSyncsOfLeader | Self::SlowSyncsOfAll => Family::F10,
            Self::DamagedMark | Self::DamagedLog | Self::DamagedTables | Self::LostState | Self::GarbledTail => {
                Family::F11
            }
            Self::Contention => Family::F12,
            Self::ClockOfLeader | Self::ClockOfFollower => Family::F13,
            Self::Transfer | Self::ReplaceLeader | Self::ReplaceFollower => Family::F14,
            Self::Overload => Family::F16,
        }
    }

    /// A bridge takes two on each side.
    const fn fits(self, nodes: usize) -> bool {
        !matches!(self, Self::Bridge) || nodes >= 5
    }

    fn draw(self, chance: &mut StdRng) -> (Fault, Duration) {
        let mut ms = |least: u64, most: u64| Duration::from_millis(chance.random_range(least..=most));
        match self {
            Self::KillLeader => (Fault::Kill(Whom::Leader), ms(200, 1_500)),
            Self::KillFollower => (Fault::Kill(Whom::Follower), ms(200, 1_500)),
            Self::KillEverybody => (Fault::Kill(Whom::Everybody), ms(200, 1_500)),
            Self::CrashOfLeader => crash(Scene::Leading, &CRASHES, chance),
            Self::CrashOfFollower => crash(Scene::Following, &CRASHES, chance),
            Self::CrashAtStart => crash(Scene::Starting, &CRASHES_AT_START, chance),
            Self::CrashInSnapshot => crash(Scene::CatchingUp, &CRASHES_IN_SNAPSHOT, chance),
            Self::CutPower => {
                let time = ms(200, 1_000);
                (Fault::CutPower(loss(chance)), time)
            }
            Self::PauseLeader => (Fault::Pause(Whom::Leader), pause(chance)),
            Self::PauseFollower => (Fault::Pause(Whom::Follower), pause(chance)),
            Self::PartLeader => part(Split::LeaderAlone, chance),
            Self::PartFollower => part(Split::FollowersAlone, chance),
            // What is deaf in one direction stays open by its nature.
            Self::OneWay => (Fault::Part { split: Split::LeaderUnheard, silent: true }, ms(1_500, 3_500)),
            Self::OneLink => part(Split::OneLink, chance),
            Self::Bridge => part(Split::Bridge, chance),
            Self::Delays => (Fault::Trouble(Trouble::Delays), ms(2_000, 3_000)),
            Self::Stalls => (Fault::Trouble(Trouble::Stalls), ms(2_000, 3_000)),
            Self::Slowness => {
                let time = ms(2_000, 3_000);
                (Fault::Trouble(Trouble::Slowness(RATES[chance.random_range(0..3_usize)])), time)
            }
            Self::HalfOpen => (Fault::HalfOpen, ms(3_000, 5_000)),
            Self::Lag => (Fault::Lag, LAG_TIME),
            Self::SyncFails => {
                let ailment = if chance.random_bool(0.5) { Ailment::LogSync } else { Ailment::MarkSync };
                bad_disk(ailment, chance)
            }
            Self::WriteFails => bad_disk(Ailment::LogWrite, chance),
            Self::FullDisk => bad_disk(Ailment::Full, chance),
            Self::ShortWrites => bad_disk(Ailment::Short, chance),
            Self::SlowSyncsOfLeader => (Fault::SlowSyncs(Whom::Leader, ms(50, 2_000)), Duration::from_secs(3)),
            Self::SlowSyncsOfAll => (Fault::SlowSyncs(Whom::Everybody, ms(50, 300)), Duration::from_secs(3)),
            Self::DamagedMark => damage([Damage::MarkFlipped, Damage::MarkLost], chance),
            Self::DamagedLog => damage([Damage::LogCut, Damage::LogFlipped], chance),
            Self::DamagedTables => damage([Damage::TablesFlipped; 2], chance),
            Self::LostState => damage([Damage::StateLost, Damage::DatabaseOlder], chance),
            Self::GarbledTail => damage([Damage::TailGarbled; 2], chance),
            Self::Contention => (Fault::Contention, ms(4_000, 6_000)),
            Self::ClockOfLeader => clock(Whom::Leader, chance),
            Self::ClockOfFollower => clock(Whom::Follower, chance),
            Self::Transfer => (Fault::Transfer, ms(500, 1_000)),
            Self::ReplaceLeader => (Fault::Replace(Whom::Leader), ms(100, 500)),
            Self::ReplaceFollower => (Fault::Replace(Whom::Follower), ms(100, 500)),
            Self::Overload => (Fault::Overload(CROWD), ms(3_000, 5_000)),
        }
    }
}

/// What a power cut takes.
fn loss(chance: &mut StdRng) -> Variant {
    let tail = TAILS[chance.random_range(0..TAILS.len())];
    Variant { tail, names: NAMES[chance.random_range(0..NAMES.len())] }
}

fn crash(scene: Scene, points: &[(Call, &'static str, u64)], chance: &mut StdRng) -> (Fault, Duration) {
    let (call, names, number_max) = points[chance.random_range(0..points.len())];
    let number = chance.random_range(1..=number_max);
    let moments = [Moment::Before, Moment::After, Moment::Within];
    // Only a write can be half done.
    let choices = if call == Call::Write { 3_usize } else { 2 };
    let moment = moments[chance.random_range(0..choices)];
    let loss = if chance.random_bool(0.5) { Some(loss(chance)) } else { None };
    let time = match scene {
        Scene::CatchingUp => LAG_TIME,
        Scene::Leading | Scene::Following | Scene::Starting => Duration::from_millis(chance.random_range(200..=1_000)),
    };
    (Fault::Crash { scene, point: CrashPoint { call, names, number, moment }, loss }, time)
}

fn pause(chance: &mut StdRng) -> Duration {
    Duration::from_millis(PAUSES_MS[chance.random_range(0..PAUSES_MS.len())])
}

fn part(split: Split, chance: &mut StdRng) -> (Fault, Duration) {
    let silent = chance.random_bool(0.5);
    (Fault::Part { split, silent }, Duration::from_millis(chance.random_range(1_500..=3_500)))
}

fn bad_disk(ailment: Ailment, chance: &mut StdRng) -> (Fault, Duration) {
    let whom = if chance.random_bool(0.5) { Whom::Leader } else { Whom::Follower };
    let time_ms = match ailment {
        Ailment::Short => 2_000..=3_000,
        Ailment::LogSync | Ailment::MarkSync | Ailment::LogWrite | Ailment::Full => 200..=1_000,
    };
    (Fault::BadDisk { whom, ailment }, Duration::from_millis(chance.random_range(time_ms)))
}

fn damage(either: [Damage; 2], chance: &mut StdRng) -> (Fault, Duration) {
    let damage = either[chance.random_range(0..either.len())];
    (Fault::Damage(damage), Duration::from_millis(chance.random_range(100..=500)))
}

fn clock(whom: Whom, chance: &mut StdRng) -> (Fault, Duration) {
    let ahead = chance.random_bool(0.5);
    (Fault::JumpClock { whom, ahead }, Duration::from_millis(chance.random_range(2_000..=3_000)))
}

// === impl Fault ===

impl Fault {
    pub(crate) const fn family(&self) -> Family {
        match self {
            Self::Kill(_) => Family::F1,
            Self::Crash { .. } => Family::F2,
            Self::CutPower(_) => Family::F3,
            Self::Pause(_) => Family::F4,
            Self::Part { .. } => Family::F5,
            Self::Trouble(_) => Family::F6,
            Self::HalfOpen => Family::F7,
            Self::Lag => Family::F8,
            Self::BadDisk { .. } => Family::F9,
            Self::SlowSyncs(..) => Family::F10,
            Self::Damage(_) => Family::F11,
            Self::Contention => Family::F12,
            Self::JumpClock { .. } => Family::F13,
            Self::Transfer | Self::Replace(_) => Family::F14,
            Self::Overload(_) => Family::F16,
        }
    }

    /// How long what a node hears may have been on its way, beyond what a busy machine takes: bytes that were held back
    /// arrive later, and a node that stood still reads them when it wakes up.
    pub(crate) const fn holds_back(&self, time: Duration) -> Duration {
        match self {
            Self::Pause(_) | Self::Part { silent: true, .. } | Self::Trouble(_) | Self::HalfOpen => time,
            // What a cut link carried is lost.
            Self::Kill(_)
            | Self::Crash { .. }
            | Self::CutPower(_)
            | Self::Part { silent: false, .. }
            | Self::Lag
            | Self::BadDisk { .. }
            | Self::SlowSyncs(..)
            | Self::Damage(_)
            | Self::Contention
            | Self::JumpClock { .. }
            | Self::Transfer
            | Self::Replace(_)
            | Self::Overload(_) => Duration::ZERO,
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Everybody => "everybody",
        })
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leading => "leader",
            Self::Following => "follower",
            Self::Starting => "starting node",
            Self::CatchingUp => "node that gets a snapshot",
        })
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogSync => "a sync of the log fails",
            Self::MarkSync => "a sync of the high-water file fails",
            Self::LogWrite => "a write of the log fails",
            Self::Full => "no room",
            Self::Short => "short writes",
        })
    }
}

// === impl Damage ===

impl Damage {
    /// Whether what was synced is lost with it, or may be, so that the node must not start again as who it was.
    pub(crate) const fn loses_promises(self) -> bool {
        match self {
            Self::MarkFlipped
            | Self::MarkLost
            | Self::LogCut
            | Self::LogFlipped
            | Self::TablesFlipped
            | Self::StateLost
            | Self::DatabaseOlder => true,
            Self::TailGarbled => false,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MarkFlipped => "a flipped bit in its high-water file",
            Self::MarkLost => "no high-water file",
            Self::LogCut => "a log that was cut",
            Self::LogFlipped => "a flipped bit in its log",
            Self::TablesFlipped => "flipped bits in its tables",
            Self::StateLost => "no replicated state",
            Self::DatabaseOlder => "an older database",
            Self::TailGarbled => "garbage behind its log",
        })
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaderAlone => "leader alone",
            Self::FollowersAlone => "followers alone",
            Self::LeaderUnheard => "leader unheard",
            Self::OneLink => "leader and one follower apart",
            Self::Bridge => "bridge",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(whom) => write!(f, "{whom} killed"),
            Self::Crash { scene, point, loss: None } => write!(f, "{scene} ended {point}"),
            Self::Crash { scene, point, loss: Some(Variant { tail, names }) } => {
                write!(f, "{scene} ended {point}, and lost what was not synced (tails {tail:?}, names {names:?})")
            }
            Self::CutPower(Variant { tail, names }) => write!(f, "power cut of all (tails {tail:?}, names {names:?})"),
            Self::Pause(whom) => write!(f, "{whom} paused"),
            Self::Part { split, silent: true } => write!(f, "{split}, silent"),
            Self::Part { split, silent: false } => write!(f, "{split}, cut"),
            Self::Trouble(Trouble::Delays) => f.write_str("links late"),
            Self::Trouble(Trouble::Stalls) => f.write_str("links stall"),
            Self::Trouble(Trouble::Slowness(rate)) => write!(f, "links of {} KiB/s", rate >> 10),
            Self::HalfOpen => f.write_str("follower half-open"),
            Self::Lag => f.write_str("follower behind until a snapshot"),
            Self::BadDisk { whom, ailment } => write!(f, "disk of {whom}: {ailment}"),
            Self::SlowSyncs(whom, delay) => write!(f, "syncs of {whom} slower by {} ms", delay.as_millis()),
            Self::Damage(damage) => write!(f, "follower with {damage}"),
            Self::Contention => f.write_str("disk busy with large writes"),
            Self::JumpClock { whom, ahead: true } => write!(f, "clock of {whom} an hour ahead"),
            Self::JumpClock { whom, ahead: false } => write!(f, "clock of {whom} an hour behind"),
            Self::Transfer => f.write_str("leadership handed over"),
            Self::Replace(whom) => write!(f, "{whom} replaced"),
            Self::Overload(crowd) => write!(f, "{crowd} more clients"),
        }
    }
}

// === impl Plan ===

impl Plan {
    /// The rounds for a cluster of this many nodes, with faults of these families.
    pub(crate) fn new(seed: Seed, nodes: usize, families: &[Family]) -> Self {
        let wanted = |card: &Card| card.fits(nodes) && families.contains(&card.family());
        let cards: Vec<Card> = Card::ALL.into_iter().filter(wanted).collect();
        let mut chance = seed.generator(PURPOSE);
        let mut deck = shuffled(&cards, &mut chance);
        // One of each family comes first. The order is kept otherwise.
        let mut seen = BTreeSet::new();
        let firsts: Vec<Card> = deck.iter().copied().filter(|card| seen.insert(card.family())).collect();
        deck.sort_by_key(|card| !firsts.contains(card));
        Self { cards, deck: deck.into(), chance, seed, number: 0 }
    }
}

impl Iterator for Plan {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        if self.deck.is_empty() {
            self.deck = shuffled(&self.cards, &mut self.chance).into();
        }
        let (fault, time) = self.deck.pop_front()?.draw(&mut self.chance);
        self.number += 1;
        let seed = Seed(self.seed.0.wrapping_add(u64::from(self.number)));
        Some(Round { number: self.number, fault, time, seed })
    }
}

fn shuffled(cards: &[Card], chance: &mut StdRng) -> Vec<Card> {
    let mut deck = cards.to_vec();
    deck.shuffle(chance);
    deck
}

#[cfg(test)]
mod tests;
