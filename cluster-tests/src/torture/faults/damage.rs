//! Faults of files: bytes of a node that is off are others, or gone, when it starts again.
//!
//! Where what was synced may be lost with them, the node must not start: it says why, is removed, and comes back as
//! another. What was never synced is cut by the start itself. Before the damage the node hears nobody until its
//! high-water file, which is written once a second, knows what it has synced. Where too little is there to be damaged,
//! nothing is.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use ollamax_proto::v1::status_reply::Phase;
use ollamax_testkit::link::Mode;
use ollamax_testkit::{copy_directory, wait};

use crate::faults::{Done, PATIENCE, Stage};
use crate::plan::Damage;
use crate::report::Invariant;

/// The replicated state in a data directory, the database in it, and what it promises.
const STATE: &str = "raft";
const DATABASE: &str = "db";
const MARK: &str = "high-water";
/// How long a node hears nobody at most: a mark that was not written until then knows everything.
const SILENCE: Duration = Duration::from_secs(3);
/// A log that is shorter may hold nothing but notes that nobody was promised.
const LOG_BYTES_MIN: u64 = 4 << 10;
/// So long a log has to be before the node is off.
const LOG_BYTES_WANTED: u64 = 8 << 10;
const GARBAGE_BYTES: usize = 200;
/// How a process ends that refuses to start, and how its last word begins.
const REFUSED: &str = "exit status: 1";
const SAID: &str = "ollamax-node: ";
/// What it says then: it could not open its state, or there is none. Who has started and stops says something else.
const UNOPENED: &str = "open the replicated state: ";
const GONE: [&str; 2] = ["its replicated state in ", " is gone"];

impl Stage<'_> {
    pub(super) async fn damage(&mut self, damage: Damage) -> Result<Done> {
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let victim = self.one_of(&followers)?;
        let cluster = self.cluster;
        let old = cluster.status(victim).await?.node_id;
        if damage == Damage::DatabaseOlder {
            Box::pin(self.keep_database(leader, victim)).await.context("keep a database")?;
        }
        let state = cluster.node(victim).data_dir().join(STATE);
        if matches!(damage, Damage::LogCut | Damage::LogFlipped)
            && let Err(short) = long_log(&state.join(DATABASE)).await
        {
            return Ok(Done::not_injected(format!("node {victim}: {short:#}")));
        }
        cluster.links().divide(&[victim], &self.others(victim), Mode::Cut);
        written_anew(&state.join(MARK)).await?;
        cluster.kill(&[victim]).await?;
        cluster.links().heal();
        let Some(what) = spoil(&state, damage, &mut self.chance).context("damage the files")? else {
            Box::pin(self.start_again(&[victim])).await.context("start what is not damaged")?;
            return Ok(Done::not_injected(format!("node {victim} had too little for {damage}")));
        };
        self.last().await;
        let ended = Box::pin(self.start_or_end(victim)).await?;
        let Some(ended) = ended else {
            let started = format!("node {victim} started although {what}");
            // It votes from now on, with what it had promised forgotten.
            let judged = damage.loses_promises().then(|| (Invariant::I12, Err(started.clone())));
            return Ok(Done { judged: judged.into_iter().collect(), ..Done::now(Ok(started)) });
        };
        ensure!(damage.loses_promises(), "node {victim} does not bear it that {what}: {ended}");
        let said = refusal_of(&ended);
        let said = said.with_context(|| format!("node {victim} ended and refused no start when {what}: {ended}"))?;
        let new = Box::pin(self.replace_lost(victim, old)).await;
        let new = new.with_context(|| format!("after node {victim} had said {said}"))?;
        ensure!(new > old, "id {new} is not a new one");
        let proof = Ok(format!("{what}; node {victim} said {said:?}, and is member {new} now"));
        Ok(Done { judged: vec![(Invariant::I12, Ok(()))], ..Done::now(proof) })
    }

    /// Keeps the database of a node as it is now, and lets the node go on until it holds more.
    async fn keep_database(&mut self, leader: usize, victim: usize) -> Result<()> {
        let cluster = self.cluster;
        let state = cluster.node(victim).data_dir().join(STATE);
        cluster.kill(&[victim]).await?;
        copy_directory(&state.join(DATABASE), &older(&state))?;
        let stood_at = cluster.status(leader).await?.raft.context("no raft view")?.last_log_index;
        Box::pin(self.start_again(&[victim])).await?;
        wait::until("the node to hold more", PATIENCE, || async {
            let last = cluster.status(victim).await?.raft.context("no raft view")?.last_log_index;
            ensure!(last > stood_at, "its log ends at {last}");
            anyhow::Ok(())
        })
        .await
    }

    /// Starts a node and waits until it takes part again. How it ended, and the end of its log, if it did so before.
    async fn start_or_end(&self, victim: usize) -> Result<Option<String>> {
        let (cluster, node) = (self.cluster, self.cluster.node(victim));
        if let Err(error) = cluster.restart(&[victim]).await {
            return Ok(Some(format!("{error:#}")));
        }
        // It listens before it has opened its state.
        let member = wait::until("the node to take part again", PATIENCE, || async {
            let phase = cluster.status(victim).await?.phase();
            ensure!(phase == Phase::Member, "it is {phase:?}");
            anyhow::Ok(())
        });
        tokio::select! {
            ended = node.ended(PATIENCE) => Ok(Some(format!("{}: {}", node.log_tail(), ended?))),
            member = member => member.map(|()| None),
        }
    }
}

/// Waits until the newest log of a node that runs is so long that it can be damaged.
async fn long_log(database: &Path) -> Result<()> {
    wait::until("its log to be long enough", PATIENCE, || async {
        let bytes = files(database, "log")?.pop().map_or(0, |(_, length)| length);
        ensure!(bytes >= LOG_BYTES_WANTED, "it has {bytes} bytes");
        anyhow::Ok(())
    })
    .await
}

/// Waits until a mark was written since now, or long enough for one that is up to date.
async fn written_anew(mark: &Path) -> Result<()> {
    let before = written_at(mark)?;
    let written = wait::until("the mark to be written", SILENCE, || async {
        ensure!(written_at(mark)? != before, "it was not");
        anyhow::Ok(())
    });
    drop(written.await);
    Ok(())
}

fn written_at(mark: &Path) -> Result<SystemTime> {
    mark.metadata().and_then(|found| found.modified()).with_context(|| format!("look at {}", mark.display()))
}

/// What a process said that refused to start; nothing when it ended otherwise, without a word, or after its start.
fn refusal_of(error: &str) -> Option<String> {
    let said = error.lines().rev().find_map(|line| line.strip_prefix(SAID))?;
    let refused = said.starts_with(UNOPENED) || GONE.iter().all(|part| said.contains(part));
    (refused && error.ends_with(REFUSED)).then(|| said.to_owned())
}

/// Damages the files of a node that does not run. What was done; nothing where there is too little to be damaged.
fn spoil(state: &Path, damage: Damage, chance: &mut StdRng) -> Result<Option<String>> {
    let (mark, database) = (state.join(MARK), state.join(DATABASE));
    let what = match damage {
        Damage::MarkFlipped => flip(&mark, 0..mark.metadata()?.len(), chance)?,
        Damage::MarkLost => {
            fs::remove_file(&mark)?;
            "high-water is gone".to_owned()
        }
        Damage::LogCut | Damage::LogFlipped => {
            // An earlier one may be flushed already, and of no use to anybody.
            let newest = files(&database, "log")?.pop();
            let Some((path, length)) = newest.filter(|(_, length)| *length >= LOG_BYTES_MIN) else {
                return Ok(None);
            };
            if damage == Damage::LogFlipped {
                flip(&path, length / 4..length / 2, chance)?
            } else {
                OpenOptions::new().write(true).open(&path)?.set_len(length / 2)?;
                format!("{} was cut from {length} bytes to the half", shown(&path))
            }
        }
        Damage::TablesFlipped => {
            let tables = files(&database, "sst")?;
            for (path, length) in tables.iter().filter(|(_, length)| *length > 0) {
                flip(path, length / 4..length / 4 + 1, chance)?;
                flip(path, length / 2..length / 2 + 1, chance)?;
            }
            if tables.is_empty() {
                return Ok(None);
            }
            format!("two bits of {} tables were flipped", tables.len())
        }
        Damage::StateLost => {
            fs::remove_dir_all(state)?;
            "its replicated state is gone".to_owned()
        }
        Damage::DatabaseOlder => {
            fs::remove_dir_all(&database)?;
            copy_directory(&older(state), &database)?;
            "its database is an older one".to_owned()
        }
        Damage::TailGarbled => {
            let (path, length) = files(&database, "log")?.pop().context("there is no log")?;
            let mut garbage = [0_u8; GARBAGE_BYTES];
            chance.fill_bytes(&mut garbage);
            OpenOptions::new().append(true).open(&path)?.write_all(&garbage)?;
            format!("{GARBAGE_BYTES} bytes of garbage stand behind the {length} of {}", shown(&path))
        }
    };
    Ok(Some(what))
}

/// Turns a bit of a byte in this range.
fn flip(path: &Path, range: std::ops::Range<u64>, chance: &mut StdRng) -> Result<String> {
    ensure!(!range.is_empty(), "{} is empty", path.display());
    let file = File::options().read(true).write(true).open(path)?;
    let (at, bit) = (chance.random_range(range), chance.random_range(0..8_u32));
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    Ok(format!("bit {bit} of byte {at} of {} was flipped", shown(path)))
}

/// Files of a database with their lengths, in the order in which they were begun.
fn files(database: &Path, kind: &str) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|own| own == kind)) {
            let length = path.metadata()?.len();
            found.push((number, path, length));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path, length)| (path, length)).collect())
}

/// Where a database is kept that is put back later.
fn older(state: &Path) -> PathBuf {
    state.with_file_name("older-database")
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use ollamax_testkit::Seed;

    use super::*;

    /// Where the files of a node stand, and their bytes: two logs, of which the second is the newest, and one table.
    const FILES: [(&str, usize); 4] =
        [("high-water", 40), ("db/000009.log", 7_000), ("db/000010.log", 9_000), ("db/000008.sst", 800)];

    /// How many bytes of each file are gone, added or others after a damage; nothing when it was not done.
    fn hit(damage: Damage, newest_bytes: usize) -> Option<[usize; 4]> {
        let folder = tempfile::tempdir().expect("temp");
        let state = folder.path().join(STATE);
        fs::create_dir_all(state.join(DATABASE)).expect("made");
        fs::create_dir(older(&state)).expect("made");
        fs::write(older(&state).join("000009.log"), vec![7; 7_000]).expect("written");
        let bytes = |name: &str, bytes: usize| if name == "db/000010.log" { newest_bytes } else { bytes };
        for (name, length) in FILES {
            fs::write(state.join(name), vec![7; bytes(name, length)]).expect("written");
        }
        let what = spoil(&state, damage, &mut Seed(3).generator(1)).expect("damaged");
        assert!(what.as_ref().is_none_or(|what| !what.is_empty()));
        let hit = FILES.map(|(name, length)| {
            let left = fs::read(state.join(name)).unwrap_or_default();
            let kept = left.iter().take(bytes(name, length)).filter(|byte| **byte == 7).count();
            bytes(name, length).max(left.len()) - kept
        });
        assert!(what.is_some() || hit == [0; 4], "{damage} was not done, and hit {hit:?}");
        what.map(|_| hit)
    }

    #[test]
    fn each_damage_hits_its_file_and_no_other() {
        assert_eq!(hit(Damage::MarkFlipped, 9_000), Some([1, 0, 0, 0]));
        assert_eq!(hit(Damage::MarkLost, 9_000), Some([40, 0, 0, 0]));
        assert_eq!(hit(Damage::LogCut, 9_000), Some([0, 0, 4_500, 0]));
        assert_eq!(hit(Damage::LogFlipped, 9_000), Some([0, 0, 1, 0]));
        assert_eq!(hit(Damage::LogCut, 3_000), None, "too little to be cut");
        assert_eq!(hit(Damage::LogFlipped, 3_000), None, "too little to be promised");
        assert_eq!(hit(Damage::TablesFlipped, 9_000), Some([0, 0, 0, 2]));
        assert_eq!(hit(Damage::StateLost, 9_000), Some([40, 7_000, 9_000, 800]));
        assert_eq!(hit(Damage::DatabaseOlder, 9_000), Some([0, 0, 9_000, 800]));
        assert_eq!(hit(Damage::TailGarbled, 9_000), Some([0, 0, GARBAGE_BYTES, 0]));
    }

    #[test]
    fn only_a_process_that_refused_and_said_why_has_a_reason() {
        let check = |said: &str, status: &str, refused: bool| {
            let told = format!("log of n2:\n{{}}\n{said}\ntry: join anew: n2 exited: {status}");
            let expected = said.strip_prefix(SAID).filter(|_| refused);
            assert_eq!(refusal_of(&told).as_deref(), expected, "{told}");
        };
        let unopened = "ollamax-node: open the replicated state: the store is older than its own marks";
        let gone = "ollamax-node: node 2 had joined cluster c, but its replicated state in /n2/raft is gone; its vote";
        check(unopened, "exit status: 1", true);
        check(gone, "exit status: 1", true);
        check(unopened, "exit status: 101", false);
        check(unopened, "signal: 9 (SIGKILL)", false);
        check("{}", "exit status: 1", false);
        let stopped = "ollamax-node: the node stopped because its state cannot be trusted: a table is damaged";
        check(stopped, "exit status: 1", false);
        check(&format!("{unopened}\n{stopped}"), "exit status: 1", false);
        check("ollamax-node: listen on 127.0.0.1:1 (api.listen): address in use", "exit status: 1", false);
    }

    #[tokio::test]
    async fn a_log_that_is_long_enough_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("temp");
        fs::write(folder.path().join("000004.log"), "short").expect("written");
        fs::write(folder.path().join("000009.log"), vec![7; 9_000]).expect("written");
        long_log(folder.path()).await.expect("long enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_waited_for_until_it_is_written_and_not_for_ever() {
        let folder = tempfile::tempdir().expect("temp");
        let mark = folder.path().join(MARK);
        fs::write(&mark, "promised").expect("written");
        let begin = Instant::now();
        written_anew(&mark).await.expect("there");
        assert!(begin.elapsed() >= SILENCE);
        let begin = Instant::now();
        let write = async {
            wait::pause(SILENCE / 10).await;
            let file = OpenOptions::new().write(true).open(&mark).expect("there");
            file.set_modified(SystemTime::UNIX_EPOCH).expect("set");
        };
        let (written, ()) = futures::join!(written_anew(&mark), write);
        written.expect("there");
        assert!(begin.elapsed() < SILENCE);
        fs::remove_file(&mark).expect("removed");
        assert!(written_anew(&mark).await.is_err());
    }
}
