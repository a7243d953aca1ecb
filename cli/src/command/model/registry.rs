//! `ollamax model`, for names, versions and lifecycle: one file for each thing that can be done with a name.

use serde_json::{Value, json};

use ollamax_proto::v1::{PullProgress, SetPhaseRequest, TagModelRequest};

use crate::args::{Global, LifecycleArgs, Output, RegistryCommand};
use crate::client;
use crate::error::Failure;
use crate::output;

use super::pull;

mod gc;
mod history;
mod pin;
mod remove;
mod rollback;
mod rules;
mod why;

/// Runs one of them.
pub(super) async fn run(global: &Global, command: RegistryCommand) -> Result<(), Failure> {
    match command {
        RegistryCommand::History { name } => history::run(global, name).await,
        RegistryCommand::Rollback(args) => rollback::run(global, args).await,
        RegistryCommand::Pin { name, version } => pin::pin(global, name, version).await,
        RegistryCommand::Unpin { name } => pin::unpin(global, name).await,
        RegistryCommand::Tag { name, new, wait } => tag(global, name, new, wait).await,
        RegistryCommand::Rm(args) => remove::run(global, &args).await,
        RegistryCommand::Deprecate(args) => set_phase(global, args, "deprecated").await,
        RegistryCommand::Disable(args) => set_phase(global, args, "disabled").await,
        RegistryCommand::Enable { name } => {
            set_phase(global, LifecycleArgs { name, note: String::new() }, "active").await
        }
        RegistryCommand::Rules(command) => rules::run(global, command).await,
        RegistryCommand::Why { name } => why::run(global, name).await,
        RegistryCommand::Gc { nodes, dry_run } => gc::run(global, nodes, dry_run).await,
    }
}

/// Gives a model another name.
async fn tag(global: &Global, name: String, new_name: String, wait: bool) -> Result<(), Failure> {
    let request = TagModelRequest { name, new_name };
    let fixed = client::connect_models(global).await?.tag_model(request).await?.into_inner();
    let seen = pull::follow_wish(global, &fixed.name, wait).await?;
    if global.output == Output::Json {
        let copies: Vec<Value> = seen.values().map(pull::copy).collect();
        let digest = hex::encode(&fixed.digest);
        return output::json("ModelTag", json!({"name": fixed.name, "digest": digest, "copies": copies}));
    }
    tell(seen.values())?;
    output::talk(global.output, &format!("Next: ollamax run {}", fixed.name));
    Ok(())
}

/// A line for each node that has it, or is about to.
fn tell<'a>(seen: impl Iterator<Item = &'a PullProgress>) -> Result<(), Failure> {
    for progress in seen.filter(|progress| pull::is_good(progress)) {
        output::line(&pull::told(progress))?;
    }
    Ok(())
}

async fn set_phase(global: &Global, args: LifecycleArgs, phase: &str) -> Result<(), Failure> {
    let LifecycleArgs { name, note } = args;
    let request = SetPhaseRequest { name: name.clone(), phase: phase.to_owned(), note };
    client::connect_models(global).await?.set_phase(request).await?;
    if global.output == Output::Json {
        return output::json("ModelPhase", json!({"name": name, "phase": phase}));
    }
    let (now, next) = match phase {
        "deprecated" => ("is deprecated: it is served still", format!("ollamax model disable {name}")),
        "disabled" => ("is disabled: it answers nobody; its copies stay", format!("ollamax model enable {name}")),
        _ => ("is in use", format!("ollamax run {name}")),
    };
    output::line(&format!("{name} {now}."))?;
    output::talk(global.output, &format!("Next: {next}"));
    Ok(())
}
