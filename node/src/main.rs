//! `ollamax-node`: assembles the engines of one machine into a daemon.
//!
//! Everything is checked before anything is touched: a wrong configuration ends here with all its problems and exit
//! code 2. Other failures to start end with one clear text and exit code 1. Commands that need no daemon are in
//! `recovery.rs`, `reset.rs`, `restore.rs` and `verify.rs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ollamax_types::{Clock, Incarnation};

mod adapters;
mod admin_socket;
mod backups;
mod calendar;
#[cfg(test)]
mod cluster_of_one;
mod config;
mod data_dir;
mod doctor;
mod flags;
mod follow;
mod import;
mod joining;
mod lifecycle;
mod log_stream;
#[cfg(test)]
mod loopback;
mod management;
mod member;
mod metrics;
mod model_place;
mod node_file;
mod offline;
mod recovery;
mod removal;
mod reset;
mod restore;
mod run;
mod shelf;
mod shutdown;
mod sites;
mod slot;
mod telemetry;
mod toolbox;
mod unattended;
mod verify;

use config::NodeConfig;
use config::layers::Effective;
use flags::Asked;

/// For RocksDB too; decision record 0013 has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Shifts this process's wall clock, for tests of what time does to a cluster.
const TEST_CLOCK_VARIABLE: &str = "OLLAMAX_TEST_CLOCK_OFFSET_MS";
const EXIT_USAGE: u8 = 2;
/// How long tasks that were cut may take to go.
const TASKS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the stores may take to close behind them.
const STORES_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let asked = match flags::read(std::env::args_os().collect()) {
        Ok(asked) => asked,
        Err(error) => error.exit(),
    };
    let result = match asked {
        Asked::RecoverPlan(args) => return offline::end(args.form, recovery::plan(&args)),
        Asked::RecoverApply(args) => return offline::end(args.form, recovery::apply(&args)),
        Asked::Reset(args) => return offline::end(args.form, reset::reset(&args)),
        Asked::Adopt { data_dir } => adopt(&data_dir),
        Asked::VerifyBackup(args) => return offline::end(args.form, restore::verify(&args)),
        Asked::Restore(args) => return offline::end(args.form, restore::restore(&args)),
        Asked::Verify { data_dir, form } => return offline::end(form, verify::run(&data_dir, form)),
        Asked::Run { data_dir, file, flags, print_config } => {
            // Who only looks may not be allowed to read the token.
            let needs_token = !print_config && !is_member(data_dir.as_deref());
            let effective = match NodeConfig::load(file.as_deref(), variables(), flags, needs_token) {
                Ok(effective) => effective,
                Err(problems) => return tell_problems(&problems),
            };
            if print_config { print(&effective) } else { run_daemon(effective.config, data_dir) }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("ollamax-node: {}", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Whether the directory that would be used is that of a member. What cannot be read is told when it is opened.
fn is_member(data_dir: Option<&Path>) -> bool {
    let default = || default_data_dir().ok();
    data_dir.map(Path::to_owned).or_else(default).is_some_and(|data_dir| data_dir::has_membership(&data_dir))
}

fn run_daemon(config: NodeConfig, data_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let data_dir = match data_dir {
        Some(data_dir) => data_dir,
        None => default_data_dir()?,
    };
    let data_dir = std::path::absolute(data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run::run(run::Start { config, data_dir, clock: clock() }));
    // Tasks that were cut hold the stores; the process must not end under RocksDB's threads.
    runtime.shutdown_timeout(TASKS_TIMEOUT);
    if !ollamax_store::wait_closed(STORES_TIMEOUT) {
        tracing::warn!("the process ends although a store is still open");
    }
    result
}

fn adopt(data_dir: &Path) -> anyhow::Result<()> {
    if !data_dir.join("identity.json").try_exists()? {
        anyhow::bail!("{} is no data directory of a node", data_dir.display());
    }
    data_dir::DataDir::adopt(data_dir, Incarnation(ollamax_security::random_bytes()?))?;
    tell(&format!("{} is adopted; start the daemon on it, and never start the original again", data_dir.display()));
    Ok(())
}

fn print(effective: &Effective<NodeConfig>) -> anyhow::Result<()> {
    std::io::stdout().write_all(config::example::effective(effective).as_bytes())?;
    Ok(())
}

fn tell_problems(problems: &[config::layers::Problem]) -> ExitCode {
    for problem in problems {
        tell(&format!("ollamax-node: {problem}"));
    }
    tell("try: ollamax-node run --help shows every key; nothing was started");
    ExitCode::from(EXIT_USAGE)
}

/// An error and its causes, each told once: some texts hold that of their cause already, before what to do.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

fn tell(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn variables() -> Vec<(String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with(config::layers::ENV_PREFIX)).collect()
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let is_service = user.is_some_and(|user| user.name == ollamax_types::place::SERVICE_USER);
    let (xdg, home) = (std::env::var("XDG_DATA_HOME").ok(), std::env::var("HOME").ok());
    ollamax_types::place::default_data_dir(is_service, xdg.as_deref(), home.as_deref())
        .ok_or_else(|| anyhow::anyhow!("no place for the data directory: HOME is not set\ntry: --data-dir DIR"))
}

fn clock() -> Clock {
    let offset = std::env::var(TEST_CLOCK_VARIABLE).ok().and_then(|text| text.parse::<i64>().ok());
    offset.map_or_else(Clock::system, Clock::shifted)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::with_causes;

    #[test]
    fn a_cause_is_told_once() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let outer = anyhow::Error::new(denied()).context("open it");
        assert_eq!(with_causes(&outer), "open it: permission denied");
        let unusable = crate::data_dir::DataDirError::Unusable { path: "/x".into(), source: denied() };
        let told = with_causes(&unusable.into());
        assert_eq!(told.matches("permission denied").count(), 1, "{told}");
        assert!(told.ends_with("choose another with --data-dir"), "{told}");
    }
}
