//! Commands that need no daemon: `ollamax-node` beside `ollamax` is asked, and what it says is passed on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::daemon::{Daemon, Script};
use crate::terminal::{PATIENCE, command, compare, finish, page};

/// Says how it was started, or how far it is and then refuses, as `ollamax-node` does, or does not end.
const STAND_IN: &str = r#"#!/bin/sh
case "$*" in
*other*)
    printf 'progress: 1 of 2 MiB fetched\n' >&2
    printf 'ollamax-node: the cluster is called lab, not other\nand nothing was done\ntry: ollamax recover plan\n' >&2
    exit 2 ;;
*refused*)
    printf '{"apiVersion":"ollamax/v1","kind":"Error","exit":4,"code":"identity_conflict","what":"in use"}\n' >&2
    exit 4 ;;
*endless*)
    printf 'begun\n'
    exec /bin/sleep 600 ;;
*) printf '%s\n' "ollamax-node $*" ;;
esac
"#;

/// The command lines on the page, with their exit codes.
const LINES: [(&str, i32); 11] = [
    ("recover plan", 0),
    ("recover plan --with n3.json --write n1.json --with n4.json", 0),
    ("recover apply --confirm lab --with n3.json", 0),
    ("recover apply --confirm other", 2),
    ("reset", 0),
    ("reset --confirm", 0),
    ("backup verify a.oxb.age", 0),
    ("backup verify a.oxb.age --key-file key", 0),
    ("backup verify s3://lab/x/a.oxb.age --config node.toml", 0),
    ("backup restore a.oxb.age --key-file - --name n9", 0),
    ("backup restore s3://lab/x/a.oxb.age --config node.toml --key-file key", 0),
];

/// `ollamax` with a stand-in beside it.
fn install(place: &Path) -> PathBuf {
    let (built, program) = (Path::new(env!("CARGO_BIN_EXE_ollamax")), place.join("ollamax"));
    if fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).expect("copied");
    }
    let node = place.join("ollamax-node");
    fs::write(&node, STAND_IN).expect("written");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o755)).expect("set");
    program
}

#[tokio::test]
async fn what_the_node_says_of_its_directory_is_passed_on() {
    let daemon = Daemon::start(Script::new()).await;
    let program = install(&daemon.data_dir);
    let mut all = Vec::new();
    for (line, exit) in LINES {
        for line in [line.to_owned(), format!("{line} -o json")] {
            let words: Vec<&str> = line.split(' ').collect();
            let said = finish(command(&program, &daemon.data_dir, &words), &daemon).await;
            assert_eq!(said.exit, exit, "{line}: {said:?}");
            all.push((line, said));
        }
    }
    compare("offline", &page(&all));

    fs::remove_file(daemon.data_dir.join("ollamax-node")).expect("removed");
    let said = finish(command(&program, &daemon.data_dir, &["reset"]), &daemon).await;
    assert!(said.exit == 1 && said.stderr.contains("install ollamax-node"), "{said:?}");
}

#[tokio::test]
async fn what_the_node_refuses_for_programs_is_handed_on_as_it_is() {
    let daemon = Daemon::start(Script::new()).await;
    let program = install(&daemon.data_dir);
    let words = ["recover", "apply", "--confirm", "refused", "-o", "json"];
    let said = finish(command(&program, &daemon.data_dir, &words), &daemon).await;
    let object = r#"{"apiVersion":"ollamax/v1","kind":"Error","exit":4,"code":"identity_conflict","what":"in use"}"#;
    assert_eq!((said.exit, said.stdout.as_str(), said.stderr.trim_end()), (4, "", object));
}

#[tokio::test]
async fn what_runs_ends_with_the_command() {
    let daemon = Daemon::start(Script::new()).await;
    let program = install(&daemon.data_dir);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let words = ["recover", "apply", "--confirm", "endless"];
        let mut child = command(&program, &daemon.data_dir, &words).spawn().expect("started");
        let mut screen = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(screen.next_line().await.expect("read").as_deref(), Some("begun"));
        let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("sent");
        // As long as the program beside it runs, the screen stays open.
        let last = tokio::time::timeout(PATIENCE, screen.next_line()).await.expect("in time").expect("read");
        assert_eq!(last, None, "{signal}");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("ended");
        assert_eq!(ended.code(), Some(130), "{signal}");
    }
}
