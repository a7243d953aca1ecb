//! Checks of this machine and its way to the others, each with what was found and how to mend it.
//!
//! Every check is bounded in time and changes nothing but a probe file in the data directory, which it removes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use ollamax_core::catalog::{MemberState, read};
use ollamax_net::NetHandle;
use ollamax_outbound::{Environment, RuntimeHandle};
use ollamax_proto::v1::check::Outcome;
use ollamax_proto::v1::{Check, DoctorReply};
use ollamax_types::{RuntimeKind, RuntimeState};

use crate::follow::machine::disk_free_bytes;
use crate::slot::Slot;

/// Clock difference that is worth a warning, milliseconds.
const CLOCK_SKEW_WARN_MS: u64 = 5_000;
/// Clock difference that is a fault, milliseconds.
const CLOCK_SKEW_FAIL_MS: u64 = 300_000;
/// Free disk below which the check warns, bytes.
const DISK_FREE_WARN_BYTES: u64 = 10 << 30;
/// Free disk below which the check fails, bytes.
const DISK_FREE_FAIL_BYTES: u64 = 2 << 30;
/// Median sync above which the check warns, milliseconds.
const FSYNC_WARN_MS: u128 = 20;
/// Syncs that are measured.
const FSYNC_PROBES: usize = 11;
/// How long one member may take to answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// What the checks look at.
#[derive(Debug, Clone)]
pub(crate) struct Doctor {
    /// The engines, if any.
    pub(crate) slot: Slot,
    /// Connections between nodes.
    pub(crate) net: NetHandle,
    /// The runtime beside this node.
    pub(crate) runtime: RuntimeHandle,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
}

// === impl Doctor ===

impl Doctor {
    /// Runs every check.
    pub(crate) async fn check(&self) -> DoctorReply {
        let mut checks = vec![self.clock(), self.ports(), self.disk(), self.fsync().await, self.runtime(), self.gpu()];
        checks.push(self.model_store());
        checks.extend(self.reachability().await);
        DoctorReply { checks }
    }

    fn clock(&self) -> Check {
        let Some(engines) = self.slot.get() else { return skipped("clock", "no other node is known yet") };
        let peers = engines.scheduler.peers();
        let Some(worst) = peers.iter().max_by_key(|peer| peer.clock_skew_ms.unsigned_abs()) else {
            return skipped("clock", "no other node was heard yet");
        };
        let found = format!("{} ms against node {}", worst.clock_skew_ms, worst.beat.node);
        let outcome = match worst.clock_skew_ms.unsigned_abs() {
            skew if skew > CLOCK_SKEW_FAIL_MS => Outcome::Fail,
            skew if skew > CLOCK_SKEW_WARN_MS => Outcome::Warn,
            _ => Outcome::Ok,
        };
        check("clock", outcome, found, "timedatectl set-ntp true, on the machine that is off")
    }

    fn ports(&self) -> Check {
        let local = self.net.local();
        let found = format!("peer listens on {}, advertised as {}", local.peer, local.advertise.join(", "));
        let outcome = if local.advertise.is_empty() { Outcome::Fail } else { Outcome::Ok };
        check("ports", outcome, found, "set peer.advertise to an address that the other machines can reach")
    }

    fn disk(&self) -> Check {
        let free = disk_free_bytes(&self.data_dir);
        let found = format!("{} MiB free at {}", free >> 20, self.data_dir.display());
        let outcome = match free {
            free if free < DISK_FREE_FAIL_BYTES => Outcome::Fail,
            free if free < DISK_FREE_WARN_BYTES => Outcome::Warn,
            _ => Outcome::Ok,
        };
        check("disk", outcome, found, "free some space, or move the data directory to a larger disk")
    }

    async fn fsync(&self) -> Check {
        let path = self.data_dir.join("fsync-probe");
        let measured = tokio::task::spawn_blocking(move || median_sync(&path)).await;
        match measured {
            Ok(Ok(median)) => {
                let outcome = if median.as_millis() > FSYNC_WARN_MS { Outcome::Warn } else { Outcome::Ok };
                let found = format!("median of {FSYNC_PROBES} syncs {:.1} ms", median.as_secs_f64() * 1e3);
                check("fsync", outcome, found, "put the data directory on a local SSD; each change waits for one sync")
            }
            Ok(Err(error)) => {
                check("fsync", Outcome::Fail, error.to_string(), "check disk and rights of the data directory")
            }
            Err(error) => check("fsync", Outcome::Fail, error.to_string(), "ollamax logs --level error"),
        }
    }

    fn runtime(&self) -> Check {
        let report = self.runtime.report().borrow().clone();
        let kind = report.kind.as_str();
        match report.state {
            RuntimeState::Up => {
                let models = report.models.map_or(0, |models| models.len());
                let found = format!("{kind} {} at {} with {models} models", report.version, report.url);
                check("runtime", Outcome::Ok, found, "")
            }
            RuntimeState::Absent => {
                check("runtime", Outcome::Warn, "none beside this node", "set runtime.kind and runtime.url")
            }
            RuntimeState::Down(reason) => {
                let fix = if kind == "ollama" {
                    "systemctl status ollama; or set runtime.url"
                } else {
                    "ollamax logs --level warn"
                };
                check("runtime", Outcome::Fail, format!("{kind} is down: {reason}"), fix)
            }
        }
    }

    fn gpu(&self) -> Check {
        let gpu = ["/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/kfd"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(gpu) = gpu else { return skipped("gpu", "no GPU driver on this machine") };
        let report = self.runtime.report().borrow().clone();
        let on_cpu: Vec<String> = report
            .resident
            .iter()
            .filter(|model| model.size_vram_bytes == 0)
            .map(|model| model.name.to_string())
            .collect();
        if on_cpu.is_empty() {
            return check("gpu", Outcome::Ok, format!("{gpu} is there; no loaded model runs on the CPU"), "");
        }
        let found = format!("{gpu} is there, but these models run on the CPU: {}", on_cpu.join(", "));
        check("gpu", Outcome::Warn, found, "check the runtime's GPU support (nvidia-smi, the runtime's log)")
    }

    fn model_store(&self) -> Check {
        let kind = self.runtime.report().borrow().kind;
        let Some(store) = store_of(kind, &self.data_dir, &self.environment).filter(|store| store.exists()) else {
            return skipped("model_store", "the runtime's model store is not on this machine or not made yet");
        };
        let access = nix::unistd::access(&store, nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK);
        match access {
            Ok(()) => check("model_store", Outcome::Ok, format!("{} can be read and written", store.display()), ""),
            Err(error) => {
                let fix = "add the daemon's user to the group of the store, e.g. usermod -aG ollama ollamax";
                check("model_store", Outcome::Warn, format!("{}: {error}", store.display()), fix)
            }
        }
    }

    async fn reachability(&self) -> Vec<Check> {
        let Some(engines) = self.slot.get() else {
            return vec![skipped("reachability", "not a member of a cluster yet")];
        };
        let members = read::members(&*engines.metadata.view()).unwrap_or_default();
        let others = members.into_iter().filter(|member| member.id != engines.node);
        let present = others.filter(|member| !matches!(member.state, MemberState::Departed { .. }));
        let probes = present.map(|member| async move {
            let mut problem = "it has told no address".to_owned();
            for address in &member.peer_addresses {
                let probe = self.net.probe(address, &member.peer_id);
                match tokio::time::timeout(REACH_TIMEOUT, probe).await {
                    Ok(Ok(())) => {
                        return check("reachability", Outcome::Ok, format!("{} at {address}", member.name), "");
                    }
                    Ok(Err(error)) => problem = error.to_string(),
                    Err(_) => problem = format!("{address}: no answer within {} s", REACH_TIMEOUT.as_secs()),
                }
            }
            let fix = format!("start ollamax-node on {}, and open its peer port in the firewall", member.name);
            check("reachability", Outcome::Fail, format!("{}: {problem}", member.name), &fix)
        });
        join_all(probes).await
    }
}

fn check(id: &str, outcome: Outcome, found: impl Into<String>, fix: &str) -> Check {
    let fix = if outcome == Outcome::Ok { "" } else { fix };
    let mut check = Check { id: id.to_owned(), found: found.into(), fix: fix.to_owned(), ..Check::default() };
    check.set_outcome(outcome);
    check
}

fn skipped(id: &str, why: &str) -> Check {
    check(id, Outcome::Skipped, why, "")
}

/// Where a runtime of this kind keeps its models: the engine's store is ours, an Ollama's is where its environment
/// says, when it runs on this machine. Asked at each check, because the runtime may have been chosen only after the
/// start.
fn store_of(kind: RuntimeKind, data_dir: &Path, environment: &Environment) -> Option<PathBuf> {
    match kind {
        RuntimeKind::Engine => Some(data_dir.join("models")),
        RuntimeKind::Ollama => {
            let by_home = || environment.home.as_ref().map(|home| home.join(".ollama/models"));
            environment.ollama_models.clone().or_else(by_home)
        }
    }
}

fn median_sync(path: &Path) -> std::io::Result<Duration> {
    let mut file = std::fs::File::create(path)?;
    let mut times = Vec::with_capacity(FSYNC_PROBES);
    let measured = (|| {
        for _ in 0..FSYNC_PROBES {
            file.write_all(&[0; 512])?;
            let started = Instant::now();
            file.sync_data()?;
            times.push(started.elapsed());
        }
        Ok(())
    })();
    drop(std::fs::remove_file(path));
    measured.map(|()| {
        times.sort_unstable();
        times[FSYNC_PROBES / 2]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_store_is_that_of_the_runtime_as_it_is_now() {
        let store = |kind, environment: &Environment| store_of(kind, Path::new("/data"), environment);
        let mut environment = Environment::default();
        assert_eq!(store(RuntimeKind::Engine, &environment), Some(PathBuf::from("/data/models")));
        assert_eq!(store(RuntimeKind::Ollama, &environment), None);
        environment.home = Some(PathBuf::from("/home/lab"));
        assert_eq!(store(RuntimeKind::Ollama, &environment), Some(PathBuf::from("/home/lab/.ollama/models")));
        environment.ollama_models = Some(PathBuf::from("/models"));
        assert_eq!(store(RuntimeKind::Ollama, &environment), Some(PathBuf::from("/models")));
    }

    #[test]
    fn the_sync_probe_leaves_nothing_behind_and_fails_clearly_without_rights() {
        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("probe");
        assert!(median_sync(&path).expect("measured") > Duration::ZERO);
        assert!(!path.exists());
        assert!(median_sync(Path::new("/proc/no-such-place/probe")).is_err());
    }
}
