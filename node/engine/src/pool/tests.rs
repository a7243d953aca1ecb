//! Loads that fail, with a script in the place of the runner: it says what lies in the file that it is to load. And a
//! queue that is full, which needs no runner at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::options::Options;
use crate::protocol::{Event, Fault, write_frame};

use super::*;

/// Says the file's frame, or dies as if the system had killed it; then waits for its end. A file beside it is next.
const SCRIPT: &str = r#"#!/bin/sh
[ -e "$3.killed" ] && kill -9 $$
exec 3< "$3"
[ -e "$3.next" ] && mv "$3.next" "$3"
cat <&3
exec cat > /dev/null
"#;

fn loaded() -> Event {
    Event::Loaded(Footprint::default())
}

fn failed(fault: Fault) -> Event {
    Event::Failed { fault, message: "unable to load model".to_owned() }
}

fn put(path: PathBuf, event: &Event) {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, event).expect("a frame");
    fs::write(path, bytes).expect("written");
}

/// A model whose loads end with these events, one after the other.
fn model(folder: &Path, name: &str, loads: &[Event]) -> Wanted {
    let path = folder.join(name);
    for (event, ending) in loads.iter().zip(["", ".next"]) {
        put(folder.join(format!("{name}{ending}")), event);
    }
    let details = Details {
        parent_model: String::new(),
        format: "gguf".to_owned(),
        family: String::new(),
        families: None,
        parameter_size: String::new(),
        quantization_level: String::new(),
    };
    let digest = Digest::of(name.as_bytes());
    let label = Label { name: name.to_owned(), digest: digest.clone(), details };
    Wanted { weights: digest, path, settings: Options::default().settings(None), keep_alive: None, label }
}

fn names(pool: &Pool) -> Vec<String> {
    pool.residents().into_iter().map(|resident| resident.label.name).collect()
}

async fn load(pool: &Pool, wanted: &Wanted) -> Result<(), String> {
    let lease = pool.acquire(wanted).await.map_err(|error| error.to_string())?;
    lease.give_back().await;
    Ok(())
}

#[tokio::test]
async fn only_a_load_that_lacks_memory_makes_idle_models_go() {
    let temp = tempfile::tempdir().expect("temp");
    let folder = temp.path();
    let program = folder.join("runner.sh");
    fs::write(&program, SCRIPT).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("runnable");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let pool = Pool::new(program, tasks, stop.clone());
    let idle = model(folder, "idle", &[loaded()]);

    load(&pool, &idle).await.expect("loads");
    let broken = model(folder, "broken", &[failed(Fault::Runner), loaded()]);
    assert_eq!(load(&pool, &broken).await.expect_err("refused"), "unable to load model");
    assert_eq!(names(&pool), ["idle"], "a broken file costs nobody a place, and is not tried again");

    let big = model(folder, "big", &[failed(Fault::Memory), loaded()]);
    load(&pool, &big).await.expect("loads once there is room");
    assert_eq!(names(&pool), ["big"]);

    let killed = model(folder, "killed", &[loaded()]);
    fs::write(folder.join("killed.killed"), "").expect("written");
    let error = load(&pool, &killed).await.expect_err("killed again");
    assert!(error.starts_with("llama runner process has terminated: signal: 9"), "{error}");
    assert!(names(&pool).is_empty());

    let huge = model(folder, "huge", &[failed(Fault::Memory), loaded()]);
    load(&pool, &huge).await.expect_err("with nobody to make room it is not tried again");
    stop.cancel();
}

#[tokio::test]
async fn one_more_than_may_wait_is_told_in_ollamas_words() {
    let temp = tempfile::tempdir().expect("temp");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let pool = Pool::new(temp.path().join("never-started"), tasks, stop.clone());
    let wanted = model(temp.path(), "asked", &[]);
    let turn = pool.seat(&wanted.weights).turn().await.expect("nobody else asks");
    let mut waiting: Vec<_> = (0..limits::QUEUE_LENGTH_MAX).map(|_| Box::pin(pool.acquire(&wanted))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    let error = pool.acquire(&wanted).await.expect_err("one too many");
    assert!(matches!(error, AcquireError::Busy), "{error}");
    assert_eq!(error.to_string(), "server busy, please try again.  maximum pending requests exceeded");
    drop(waiting.pop());
    assert!(futures::poll!(Box::pin(pool.acquire(&wanted))).is_pending(), "who gave up made room");
    drop((waiting, turn));
    stop.cancel();
}
