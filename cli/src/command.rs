//! One file per command. Each asks the node, then shows what came back.

use clap::CommandFactory as _;

use crate::args::{Cli, Command, Global, UpgradeCommand};
use crate::error::Failure;
use crate::output;

pub(crate) mod autopilot;
pub(crate) mod backup;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod kv;
pub(crate) mod leave;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod migrate;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod offline;
pub(crate) mod parting;
pub(crate) mod ps;
pub(crate) mod raft;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod tool;
pub(crate) mod upgrade;
pub(crate) mod wait;

/// Runs what was asked for, until it is done or Ctrl-C.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    // A cluster in the foreground ends its own processes first; a pull goes on.
    if command.hears_ctrl_c() {
        return dispatch(&global, command).await;
    }
    tokio::select! {
        // In this order: Ctrl-C is listened to before anything is begun.
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        outcome = dispatch(&global, command) => outcome,
    }
}

async fn dispatch(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init::run(global, args).await,
        Command::Join(args) => join::run(global, args).await,
        Command::Leave(args) => leave::run(global, args).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Status => status::run(global).await,
        Command::Wait(args) => wait::run(global, args).await,
        Command::Node(command) => node::run(global, command).await,
        Command::Autopilot(command) => autopilot::run(global, command).await,
        Command::Model(command) => model::run(global, command).await,
        Command::Kv(command) => kv::run(global, command).await,
        Command::Raft(command) => raft::run(global, command).await,
        Command::Backup(command) => backup::run(global, command).await,
        Command::Migrate(command) => migrate::run(global, command).await,
        Command::Upgrade(UpgradeCommand::Check) => upgrade::check(global).await,
        Command::Tool(command) => tool::run(global, command).await,
        Command::Task(command) => task::run(global, command).await,
        Command::Approve(args) => task::approve(global, args).await,
        Command::Mcp(args) => mcp::run(global, &args).await,
        Command::Ps(args) => ps::run(global, &args).await,
        Command::Run(args) => run::run(global, args).await,
        Command::Logs(args) => logs::run(global, args).await,
        Command::Events(args) => events::run(global, args).await,
        Command::Doctor => doctor::run(global).await,
        Command::Recover(command) => offline::recover(global, command).await,
        Command::Reset(args) => offline::reset(global, &args).await,
        Command::Dev(command) => dev::run(global, command).await,
        Command::Completion { shell } => completion(shell),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ollamax", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
            below.iter().for_each(|below| check(below));
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!below.is_empty() || example.contains("\n  ollamax "), "{}", command.get_name());
        }
        check(&Cli::command());
    }
}
