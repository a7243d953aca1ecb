//! The library under small programs: what they were promised stays, what they were not is lost, faults reach them.
#![cfg(target_os = "linux")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::*;

const SEED: Seed = Seed(7);
const KEPT: Variant = Variant { tail: Tail::Cut, names: Names::Kept };

fn world() -> (TempDir, DiskFaults) {
    let home = tempfile::tempdir().expect("temp");
    let faults = DiskFaults::prepare(&home.path().join("root"), &home.path().join("scratch")).expect("prepared");
    (home, faults)
}

fn command(faults: &DiskFaults, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(faults.root()).envs(faults.environment()).env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command
}

fn run(faults: &DiskFaults, script: &str) -> Output {
    command(faults, script).output().expect("sh runs")
}

fn run_well(faults: &DiskFaults, script: &str) {
    let output = run(faults, script);
    assert!(output.status.success() && output.stderr.is_empty(), "{script}: {output:?}");
}

/// What stands in a file below the root, if there is one.
fn text(faults: &DiskFaults, name: &str) -> Option<String> {
    fs::read_to_string(faults.root().join(name)).ok()
}

#[test]
fn a_cut_takes_the_unsynced_tail_and_leaves_the_synced_part() {
    let (_home, mut faults) = world();
    run_well(
        &faults,
        "dd if=/dev/zero of=log bs=1000 count=1 conv=fsync status=none; sync .; \
         dd if=/dev/zero of=log bs=700 count=1 oflag=append conv=notrunc status=none",
    );
    assert_eq!(text(&faults, "log").map(|text| text.len()), Some(1_700));
    let report = faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "log").map(|text| text.len()), Some(1_000));
    let tail = LostTail { path: "log".into(), synced_bytes: 1_000, written_bytes: 1_700, left_bytes: 1_000 };
    assert_eq!((report.tails.as_slice(), report.is_exact()), (&[tail][..], true), "{report}");

    // What is left counts as promised, and fdatasync promises as fsync does.
    run_well(&faults, "printf 12345 >> log; sync -d log; printf 678 >> log");
    let garbled = Variant { tail: Tail::Garbled, names: Names::Undone };
    let report = faults.cut_power(SEED, garbled).expect("cut");
    let bytes = fs::read(faults.root().join("log")).expect("read");
    assert_eq!((bytes.len(), &bytes[1_000..1_005]), (1_008, &b"12345"[..]), "{report}");
    assert_ne!(&bytes[1_005..], b"678");
}

#[test]
fn names_last_with_the_sync_of_their_directory() {
    let (_home, mut faults) = world();
    let old = "printf old > current; sync current; sync .; ";
    let next = "printf new > next; sync next; mv -f next current; ";
    run_well(&faults, &format!("{old}{next}"));
    assert_eq!(text(&faults, "current").as_deref(), Some("new"));
    let report = faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "current").as_deref(), Some("old"), "{report}");
    assert_eq!((text(&faults, "next"), report.undone.len()), (None, 2), "{report}");

    run_well(
        &faults,
        &format!("{next}sync .; rm current; mkdir folder; printf x > folder/file; sync folder/file folder"),
    );
    let report = faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "current").as_deref(), Some("new"), "{report}");
    assert!(!faults.root().join("folder").exists() && report.is_exact(), "{report}");

    run_well(&faults, "rm current; sync .; printf y > new");
    let report = faults.cut_power(SEED, KEPT).expect("cut");
    assert_eq!((text(&faults, "current"), text(&faults, "new").as_deref()), (None, Some("")), "{report}");
}

#[test]
fn a_killed_process_leaves_what_it_was_promised() {
    let (_home, mut faults) = world();
    let script = "printf one > file; sync file; sync .; printf two >> file; kill -9 $$";
    assert!(!run(&faults, script).status.success());
    let report = faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "file").as_deref(), Some("one"), "{report}");
}

#[test]
fn syncs_are_delayed_counted_and_logged() {
    let (_home, faults) = world();
    faults.log_syncs(true).expect("on");
    run_well(&faults, "printf x > file; sync file");
    let begun = faults.syncs_begun().expect("read");
    let delay = Duration::from_millis(120);
    faults.delay_syncs(delay).expect("set");
    run_well(&faults, "sync -d file; sync .");
    let times = faults.sync_times().expect("read");
    assert_eq!((faults.syncs().expect("read"), begun, times.len()), (3, 1, 3));
    assert_eq!(
        times.iter().map(|time| time.kind).collect::<Vec<_>>(),
        [SyncKind::File, SyncKind::FileData, SyncKind::Directory]
    );
    for time in &times[1..] {
        assert!(time.begun_number > begun && time.ended - time.begun >= delay, "{time:?}");
    }
    assert!(times[0].ended - times[0].begun < delay && times[0].ended <= times[1].begun, "{times:?}");
    let processes = faults.processes().expect("read");
    let total = |count: fn(&ProcessCounters) -> u64| processes.iter().map(count).sum::<u64>();
    assert_eq!((total(|one| one.fsyncs), total(|one| one.fdatasyncs)), (2, 1));
    assert_eq!((total(|one| one.writes), total(|one| one.written_bytes)), (1, 1));
}

#[test]
fn syncs_and_writes_are_refused_and_shortened_as_often_as_asked() {
    let (_home, mut faults) = world();
    let dd = "dd if=/dev/zero of=file bs=100 count=1 conv=fsync status=none";
    let refused = |faults: &DiskFaults, reason: &str| {
        let output = run(faults, dd);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{said}");
        run_well(faults, dd);
    };
    faults.fail_syncs(Errno::EIO, 1).expect("set");
    refused(&faults, "Input/output error");
    faults.fail_writes(Errno::ENOSPC, 1).expect("set");
    refused(&faults, "No space left on device");
    faults.shorten_writes(1).expect("set");
    run_well(&faults, dd);
    let processes = faults.processes().expect("read");
    let total = |count: fn(&ProcessCounters) -> u64| processes.iter().map(count).sum::<u64>();
    assert_eq!((total(|one| one.failed_syncs), total(|one| one.failed_writes)), (1, 1));
    assert_eq!((total(|one| one.shortened_writes), total(|one| one.writes)), (1, 5));

    // A refused sync promises nothing.
    faults.fail_syncs(Errno::EIO, ALWAYS).expect("set");
    assert!(!run(&faults, "sync .; sync file").status.success());
    faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "file"), None);
}

#[test]
fn a_process_ends_where_it_was_told_to_and_only_once() {
    let check = |at: (Call, &'static str, u64, Moment), script: &str, left: [Option<&str>; 2]| {
        let (_home, faults) = world();
        let (call, names, number, moment) = at;
        let point = CrashPoint { call, names, number, moment };
        faults.crash_at(&point).expect("set");
        assert!(!run(&faults, script).status.success(), "{point}: {script}");
        assert_eq!(faults.crashes().expect("read"), 1, "{point}: {script}");
        assert_eq!(["a", "b"].map(|name| text(&faults, name)), left.map(|text| text.map(str::to_owned)), "{point}");
        run_well(&faults, "printf x > a; sync a; mv -f a b; rm b");
        assert_eq!(faults.crashes().expect("read"), 1, "{point}: once");
    };
    let write = "printf one > a; printf two > b";
    check((Call::Write, "a", 1, Moment::Before), write, [Some(""), None]);
    check((Call::Write, "a", 1, Moment::Within), write, [Some("o"), None]);
    check((Call::Write, "a", 1, Moment::After), write, [Some("one"), None]);
    check((Call::Write, "b*", 1, Moment::Before), write, [Some("one"), Some("")]);
    check((Call::Write, "", 2, Moment::Before), write, [Some("one"), Some("")]);
    let sync = "printf one > a; sync a; printf two > b";
    check((Call::Sync, "*", 1, Moment::Before), sync, [Some("one"), None]);
    let rename = "printf one > a; mv -f a b";
    check((Call::Rename, "b", 1, Moment::Before), rename, [Some("one"), None]);
    check((Call::Rename, "b", 1, Moment::After), rename, [None, Some("one")]);
    let unlink = "printf one > a; rm a";
    check((Call::Unlink, "a", 1, Moment::Before), unlink, [Some("one"), None]);
    check((Call::Unlink, "a", 1, Moment::After), unlink, [None, None]);
    let truncate = "printf one > a; truncate -s 1 a";
    check((Call::Truncate, "a", 1, Moment::Before), truncate, [Some("one"), None]);
    check((Call::Truncate, "a", 1, Moment::After), truncate, [Some("o"), None]);
}

#[test]
fn an_end_before_a_sync_promises_nothing_and_one_after_it_does() {
    for (moment, left) in [(Moment::Before, None), (Moment::After, Some("one"))] {
        let (_home, mut faults) = world();
        // The file's own sync, and then that of its directory.
        faults.crash_at(&CrashPoint { call: Call::Sync, names: "", number: 2, moment }).expect("set");
        assert!(!run(&faults, "printf one > a; sync a; sync .").status.success());
        faults.cut_power(SEED, Variant::STRICT).expect("cut");
        assert_eq!(text(&faults, "a").as_deref(), left, "{moment:?}");
    }
}

#[test]
fn counted_faults_meet_only_the_files_that_are_named() {
    let (_home, faults) = world();
    faults.only("*.log").expect("set");
    faults.fail_syncs(Errno::EIO, ALWAYS).expect("set");
    faults.fail_writes(Errno::ENOSPC, 1).expect("set");
    run_well(&faults, "printf x > a; sync a; sync .");
    assert!(!run(&faults, "printf x > b.log").status.success());
    run_well(&faults, "printf x > b.log");
    assert!(!run(&faults, "sync b.log").status.success());
    assert!(faults.only("a/b").is_err() && faults.only(&"x".repeat(33)).is_err());
}

#[test]
fn bytes_written_in_place_are_said_to_be_unknown() {
    let (_home, mut faults) = world();
    run_well(&faults, "printf 12345 > file; sync file; sync .; printf x | dd of=file conv=notrunc status=none");
    let report = faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!((report.inexact.as_slice(), report.is_exact()), (&[PathBuf::from("file")][..], false), "{report}");
}

#[test]
fn a_cut_that_would_prove_nothing_or_meet_a_living_process_is_refused() {
    let (_home, mut faults) = world();
    let error = faults.cut_power(SEED, Variant::STRICT).expect_err("nothing was written");
    assert!(error.to_string().contains("nothing was written"), "{error:#}");

    let mut living = command(&faults, "printf x > file; echo ready; read line");
    let mut living = living.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh runs");
    let mut line = String::new();
    BufReader::new(living.stdout.take().expect("piped")).read_line(&mut line).expect("it speaks");
    assert_eq!(line, "ready\n");
    let error = faults.cut_power(SEED, Variant::STRICT).expect_err("it lives");
    assert!(error.to_string().contains("lives"), "{error:#}");
    assert_eq!(text(&faults, "file").as_deref(), Some("x"), "nothing was touched");

    living.kill().expect("killed");
    living.wait().expect("reaped");
    faults.cut_power(SEED, Variant::STRICT).expect("cut");
    assert_eq!(text(&faults, "file"), None);
}

#[test]
fn directories_that_do_not_fit_are_refused() {
    let home = tempfile::tempdir().expect("temp");
    let check = |root: &str, scratch: &str, reason: &str| {
        let error = DiskFaults::prepare(&home.path().join(root), &home.path().join(scratch)).expect_err(reason);
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    };
    check("a", "a/scratch", "lies below the root");
    check("b", "with a blank", "no blank or colon");
    DiskFaults::prepare(&home.path().join("c"), &home.path().join("used")).expect("prepared");
    check("c", "used", "make ");
}
