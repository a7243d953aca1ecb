//! The supervisor with real processes: a shell script stands for the engine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use ollamax_outbound::Config;
use ollamax_outbound::config::Kind;
use ollamax_types::{RuntimeKind, RuntimeState};

use crate::server::{Server, json};
use crate::watch::{World, quick};

/// A program that says it listens at `url`, leaves a child behind, and ends when its stdin closes.
fn script(folder: &Path, url: &str) -> PathBuf {
    let path = folder.join("engine");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = serve ] || exit 9\nsleep 1000 >/dev/null 2>&1 &\necho $! >> {pids}\n\
         echo 'warming up' >&2\necho '{{\"listening\":\"{url}\",\"gpu\":false}}'\ncat > /dev/null\n",
        pids = folder.join("children").display()
    );
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

fn engine_config() -> Config {
    Config { kind: Kind::Engine, ..quick() }
}

fn is_alive(pid: i32) -> bool {
    // A killed child whose parent is gone may stay a zombie where nobody reaps; that is dead too.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

async fn runtime() -> Server {
    Server::start(|line| match line {
        line if line.starts_with("GET /api/version") => json(r#"{"version":"0.1.0"}"#),
        _ => json(r#"{"models":[]}"#),
    })
    .await
}

#[tokio::test]
async fn the_engine_is_started_restarted_and_ended_with_its_children() {
    let server = runtime().await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let world = World::start(None, engine_config(), &script(folder.path(), server.url.as_str()));
    let first = world.wait_for("up", |report| report.state == RuntimeState::Up).await;
    assert_eq!(first.kind, RuntimeKind::Engine);
    assert_eq!(first.gpu, Some(false), "as it said when it began to listen");
    let pid = first.pid.expect("a pid");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
    let again = |report: &ollamax_outbound::Report| report.state == RuntimeState::Up && report.pid != Some(pid);
    world.wait_for("up again", again).await;
    assert!(world.handle.client().is_some());
    world.end().await;
    let children = std::fs::read_to_string(folder.path().join("children")).expect("written");
    let pids: Vec<i32> = children.lines().map(|line| line.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 2);
    for pid in pids {
        assert!(!is_alive(pid), "{pid} outlived the engine");
    }
}

#[tokio::test]
async fn an_engine_that_cannot_start_is_down_and_says_why() {
    let world = World::start(None, engine_config(), Path::new("/nowhere/ollamax-engine"));
    let report = world.wait_for("down", |r| format!("{:?}", r.state).contains("/nowhere/ollamax-engine")).await;
    assert!(matches!(report.state, RuntimeState::Down(_)), "{report:?}");
    world.end().await;

    let folder = tempfile::tempdir().expect("temporary folder");
    let path = script(folder.path(), "unused");
    std::fs::write(&path, "#!/bin/sh\necho 'port is taken' >&2\nexit 3\n").expect("written");
    let world = World::start(None, engine_config(), &path);
    world.wait_for("down", |report| format!("{:?}", report.state).contains("exit status: 3")).await;
    world.end().await;
}

#[tokio::test]
async fn an_engine_that_lives_and_says_nothing_readable_is_down_and_is_ended() {
    let check = async |does: &str, reason: &str| {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = script(folder.path(), "unused");
        let pid = folder.path().join("pid");
        std::fs::write(&path, format!("#!/bin/sh\necho $$ > {}\n{does}\nexec sleep 1000 >&-\n", pid.display()))
            .expect("written");
        let world = World::start(None, engine_config(), &path);
        world.wait_for(reason, |report| format!("{:?}", report.state).contains(reason)).await;
        world.end().await;
        let pid = std::fs::read_to_string(pid).expect("written").trim().parse().expect("a pid");
        assert!(!is_alive(pid), "{pid} was left behind");
    };
    let closes = check("exec >&-", "closed its output");
    let babbles = check("head -c 20000 /dev/zero | tr '\\0' x", "first line cannot be read");
    tokio::join!(closes, babbles);
}
