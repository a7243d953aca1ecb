//! `OLLAMA_BINS=a:b cargo xtask test ollama`: the suite that runs beside Ollama's own programs, of as many releases as
//! the variable names.
//!
//! The suite is among the gates too and is left out there where the variable is not set. Here that is a failure: nobody
//! calls this to see nothing run.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::closing::Closing;
use crate::setup;
use crate::workspace::{Workspace, succeed};

/// Programs of Ollama, separated by colons.
const VARIABLE: &str = "OLLAMA_BINS";
/// The suite: `cluster-tests/tests/it/real_ollama.rs`.
const SUITE: &str = "real_ollama::";

/// Builds what the suite starts, and runs it.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let programs = programs(&env::var_os(VARIABLE).unwrap_or_default())?;
    setup::run(workspace)?;
    succeed(workspace.build())?;
    let mut closing = Closing::default();
    // The whole workspace is named so that features, and with them what was built, stay the same.
    let mut tests = workspace.cargo(["test", "--workspace", "--locked", "--test", "it", "--", SUITE, "--nocapture"]);
    tests.env(VARIABLE, programs);
    let result = closing.run(tests);
    println!("{}\n\n{}", closing.totals(), closing.text());
    result.map(|()| ExitCode::SUCCESS)
}

/// The programs as they are found from every folder; cargo runs tests in one of its own.
fn programs(named: &OsStr) -> Result<OsString> {
    let programs: Vec<_> = env::split_paths(named).filter(|path| !path.as_os_str().is_empty()).collect();
    if programs.is_empty() {
        bail!("{VARIABLE} names no Ollama\ntry: {VARIABLE}=/usr/local/bin/ollama cargo xtask test ollama");
    }
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("find {}", path.display()));
    let programs = programs.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
    for program in &programs {
        ensure!(program.is_file(), "{VARIABLE}: {} is no file", program.display());
    }
    env::join_paths(programs).context("join the programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_from_the_root_and_must_be_there() {
        let here = env::current_exe().expect("this program");
        let check = |named: OsString, expected: Result<OsString, &str>| {
            let found = programs(&named).map_err(|problem| problem.to_string());
            let is_it = match (&found, &expected) {
                (Ok(found), Ok(expected)) => found == expected,
                (Err(problem), Err(part)) => problem.contains(*part),
                _ => false,
            };
            assert!(is_it, "{named:?}: {found:?}, not {expected:?}");
        };
        let both = env::join_paths([&here, &here]).expect("no colon in it");
        check(here.clone().into_os_string(), Ok(here.clone().into_os_string()));
        check(both.clone(), Ok(both));
        check("Cargo.toml".into(), Ok(env::current_dir().expect("a folder").join("Cargo.toml").into_os_string()));
        check(OsString::new(), Err("names no Ollama"));
        check(":".into(), Err("names no Ollama"));
        check("/nowhere/ollama".into(), Err("/nowhere/ollama is no file"));
    }
}
