//! `raft verify` hands on what the `ollamax-node` beside it says, and its exit code. Here that is another program.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::terminal::{PATIENCE, command};

/// `ollamax` in a directory of its own, and `node` in the place of the program that it looks for.
fn install(node: Option<&str>) -> (TempDir, PathBuf) {
    let root = tempfile::Builder::new().prefix("ollamax-").tempdir().expect("a directory");
    let (built, program) = (Path::new(env!("CARGO_BIN_EXE_ollamax")), root.path().join("ollamax"));
    if std::fs::hard_link(built, &program).is_err() {
        std::fs::copy(built, &program).expect("copied");
    }
    if let Some(node) = node {
        symlink(node, root.path().join("ollamax-node")).expect("linked");
    }
    (root, program)
}

async fn said(root: &TempDir, program: &Path, words: &[&str]) -> Output {
    let mut command = command(program, root.path(), words);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("in time").expect("started")
}

#[tokio::test]
async fn the_node_is_asked_about_the_directory_in_the_form_that_is_wanted() {
    let (root, program) = install(Some("/bin/echo"));
    for (words, form) in [(&["raft", "verify"][..], "table"), (&["raft", "verify", "-o", "json"][..], "json")] {
        let output = said(&root, &program, words).await;
        let expected = format!("verify --data-dir {} --output {form}\n", root.path().display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    }
}

#[tokio::test]
async fn its_exit_code_is_handed_on_and_nothing_is_added() {
    let (root, program) = install(Some("/bin/false"));
    for words in [&["raft", "verify"][..], &["raft", "verify", "-o", "json"][..]] {
        let output = said(&root, &program, words).await;
        assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(1), 0, 0), "{output:?}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let (root, program) = install(None);
    let output = said(&root, &program, &["raft", "verify"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{told}");
    assert!(told.contains("ollamax-node is not there") && told.contains("  try: install ollamax-node"), "{told}");
}
