//! `recover plan` and `recover apply`: what is left of a cluster whose majority is gone for good, with the daemon down.
//!
//! `plan` changes nothing but a file that it was asked to write. `apply` builds the store and the key of a new cluster
//! beside the old ones (`recovery/staging.rs`), replaces `identity.json`, which is the one switch, and then moves both
//! into their places. Cut off before the switch, the node is what it was; afterwards, the next `apply` or start of the
//! daemon goes on. The new key means a new cluster id: no old member, credential or token counts there.

mod page;
pub(crate) mod staging;
mod survivor_file;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use ollamax_core::recover::{self, Plan, Survivor};
use ollamax_metadata::recover::{Made, NewCluster, RecoverError, look, make};
use ollamax_security::cluster_key::cluster_id;
use ollamax_security::{ClusterKey, Credential, NodeKey, random_bytes};
use ollamax_store as store;
use ollamax_types::{ErrorCode, Incarnation, NodeId, Role};

use crate::data_dir::{DataDir, Held, Membership, replace_file};
use crate::offline::{EXIT_CONFLICT, EXIT_FAILED, EXIT_USAGE, Failure, Form, code_of, refuse_foreign, show};
use staging::Staging;
use survivor_file::SurvivorFile;

/// What `recover plan` is asked.
#[derive(Debug)]
pub(crate) struct PlanArgs {
    /// The survivor's data directory.
    pub(crate) data_dir: PathBuf,
    /// What other survivors wrote.
    pub(crate) with: Vec<PathBuf>,
    /// Where to write what this one holds.
    pub(crate) write: Option<PathBuf>,
    /// How to show it.
    pub(crate) form: Form,
}

/// What `recover apply` is asked.
#[derive(Debug)]
pub(crate) struct ApplyArgs {
    /// The data directory of the survivor that goes on.
    pub(crate) data_dir: PathBuf,
    /// What other survivors wrote.
    pub(crate) with: Vec<PathBuf>,
    /// The cluster's name, as a sign of consent.
    pub(crate) confirm: Option<String>,
    /// How to show it.
    pub(crate) form: Form,
}

/// Shows what a survivor holds, and what to do with it and the others.
///
/// # Errors
/// When the directory cannot be read, or the survivors do not belong together.
pub(crate) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let held = Held::take(&args.data_dir)?;
    if held.is_recovering() {
        let what = "a recovery of this directory was cut off after its switch";
        return Err(Failure::new(EXIT_CONFLICT, what, "ollamax recover apply, with the same words as before"));
    }
    let own = survey(&args.data_dir, member(held.membership()?)?)?;
    if let Some(path) = &args.write {
        let text = serde_json::to_vec_pretty(&own).expect("plain fields serialise");
        replace_file(path, &text, 0o600).map_err(|error| {
            let what = format!("write {}: {error}", path.display());
            let next = "name a file that this user may write with --write";
            Failure::told(code_of(&error), what, next)
        })?;
    }
    let others = read_all(&args.with)?;
    let plan = plan_of(&own, &others)?;
    let mut text: String = [&own].into_iter().chain(&others).map(page::survivor).collect();
    text += &page::plan(&plan, &own.cluster_name, others.is_empty());
    show(args.form, "RecoveryPlan", &text, shown(&own, &others, &plan))
}

/// Makes a new cluster of one survivor.
///
/// # Errors
/// Without consent, when it is not needed or another survivor is safer, and when the disk refuses.
pub(crate) fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    refuse_foreign(&args.data_dir, "recover apply, with the same words")?;
    let held = Held::take(&args.data_dir)?;
    let before = member(held.membership()?)?.clone();
    let confirm = args.confirm.as_deref();
    // Of one that was cut off after its switch, the state lies whole in its place only when it was opened.
    let own = if held.is_recovering() {
        check_consent(&before.cluster_name, before.node, confirm)?;
        None
    } else {
        let own = survey(&args.data_dir, &before)?;
        check_consent(&own.cluster_name, before.node, confirm)?;
        Some(own)
    };
    let fresh = random_bytes().map_err(|error| failed("draw a number", &error))?;
    let mut dir = held.open(Incarnation(fresh))?;
    let own = own.map_or_else(|| survey(&args.data_dir, &before), Ok)?;
    if own.is_recovered_alone() {
        let fields = json!({"recovered": true, "already": true, "node": own.node, "cluster": own.cluster});
        return show(args.form, "Recovery", &page::already(&own), fields);
    }
    check_plan(&own, &plan_of(&own, &read_all(&args.with)?)?)?;
    let (made, membership) = switch(&mut dir, before)?;
    let fields = json!({
        "recovered": true,
        "already": false,
        "node": own.node,
        "cluster": membership.cluster,
        "recoveredFrom": membership.recovered_from,
        "revision": made.revision,
        "departed": made.departed.iter().map(|node| node.0).collect::<Vec<_>>(),
    });
    show(args.form, "Recovery", &page::made(&own, &made, &membership.cluster), fields)
}

/// The membership, unless there is none to recover.
fn member(membership: Option<&Membership>) -> Result<&Membership, Failure> {
    let Some(membership) = membership else {
        let what = "this node belongs to no cluster: there is nothing to recover";
        return Err(Failure::new(EXIT_CONFLICT, what, "ollamax init or ollamax join TOKEN, with the daemon running"));
    };
    if membership.removed {
        let what = format!("node {} was removed from its cluster and cannot go on for it", membership.node);
        return Err(Failure::new(EXIT_CONFLICT, what, "ollamax recover plan on another survivor"));
    }
    Ok(membership)
}

/// What the node of this directory holds.
fn survey(root: &Path, membership: &Membership) -> Result<SurvivorFile, Failure> {
    let found = look(root, store::Config::default()).map_err(|error| unreadable(&error))?;
    let (told, stored) = (membership.cluster_id().ok(), found.survivor.cluster);
    if told != Some(stored) || membership.node != found.survivor.node {
        let what = format!(
            "identity.json names node {} of cluster {}, and the replicated state node {} of cluster {stored}",
            membership.node, membership.cluster, found.survivor.node
        );
        return Err(Failure::new(EXIT_CONFLICT, what, "restore the directory as a whole, or use another survivor"));
    }
    Ok(SurvivorFile::of(membership, found))
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<SurvivorFile>, Failure> {
    paths.iter().map(|path| SurvivorFile::read(path)).collect()
}

fn plan_of(own: &SurvivorFile, others: &[SurvivorFile]) -> Result<Plan, Failure> {
    let survivors = [own].into_iter().chain(others).map(SurvivorFile::survivor);
    let survivors = survivors.collect::<Result<Vec<Survivor>, _>>().map_err(|error| failed("read an id", &error))?;
    recover::plan(&survivors).map_err(|refusal| {
        let next = match &refusal {
            recover::Refusal::Recovered { .. } => {
                "start the recovered node; on the others: ollamax reset --confirm, then ollamax join TOKEN"
            }
            recover::Refusal::Twice(_) => "leave out the older file of the two",
            recover::Refusal::OtherCluster { .. } => "leave out the files of the other cluster",
            recover::Refusal::Nobody | recover::Refusal::Departed => "ollamax recover plan on another survivor",
        };
        Failure::new(EXIT_CONFLICT, refusal.to_string(), next)
    })
}

fn check_consent(name: &str, node: NodeId, confirm: Option<&str>) -> Result<(), Failure> {
    let what = match confirm {
        Some(given) if given == name => return Ok(()),
        Some(given) => format!("the cluster is called {name}, not {given}; nothing was done"),
        None => format!(
            "this needs your consent: it would give up cluster {name} and make node {node} the only member of a new one"
        ),
    };
    let next = format!("ollamax recover plan; then repeat the command with --confirm {name}");
    Err(Failure::new(EXIT_USAGE, what, next))
}

fn check_plan(own: &SurvivorFile, plan: &Plan) -> Result<(), Failure> {
    if !plan.needed {
        let what = "a majority of the voters is here: nothing needs to be given up";
        let here: Vec<String> = plan.voters.difference(&plan.missing).map(NodeId::to_string).collect();
        let next = format!("start ollamax-node on the nodes {}", here.join(", "));
        return Err(Failure::new(EXIT_CONFLICT, what, next));
    }
    if plan.safest.0 != own.node {
        let what = format!("node {} is safer: its log ends later than that of node {}", plan.safest, own.node);
        let next = format!("on node {}: ollamax recover apply --confirm {}", plan.safest, own.cluster_name);
        return Err(Failure::new(EXIT_CONFLICT, what, next));
    }
    Ok(())
}

/// Builds everything beside the old, then switches.
fn switch(dir: &mut DataDir, before: Membership) -> Result<(Made, Membership), Failure> {
    let root = dir.root().to_owned();
    let staging = Staging::of(&root);
    let config = store::Config::default();
    config.check_room(&root).map_err(|error| failed("make room for a second state", &error))?;
    let node_key = NodeKey::load(&root.join("keys").join("node.key"));
    let node_key = node_key.map_err(|error| failed("read the node's key", &error))?;
    let key = ClusterKey::generate().map_err(|error| failed("make the cluster key", &error))?;
    let (cluster, incarnation) = (cluster_id(&key.public_key()), dir.incarnation());
    let new = NewCluster { cluster, public_key: key.public_key(), node: before.node, incarnation };
    staging.clear().map_err(|error| failed("throw away an earlier attempt", &error))?;
    let made = make(&root, &staging.store(), config, &new).map_err(|error| unreadable(&error))?;
    let peer_id = node_key.peer_id().clone();
    let credential = Credential { cluster, node: before.node, peer_id, role: Role::Voter, incarnation };
    let credential = credential.sign(&key).map_err(|error| failed("sign the credential", &error))?;
    key.seal(&staging.key()).map_err(|error| failed("store the cluster key", &error))?;
    let membership = Membership {
        cluster: cluster.to_string(),
        cluster_public_key: hex::encode(key.public_key()),
        role: Role::Voter,
        credential: hex::encode(credential),
        known: Vec::new(),
        raft_opened: true,
        recovered_from: Some(before.cluster.clone()),
        ..before
    };
    dir.switch_to_recovered(membership.clone()).map_err(|error| {
        let told = error.to_string();
        let what = format!("switch to the new cluster: {}", told.lines().next().unwrap_or_default());
        Failure::new(EXIT_FAILED, what, "mend the disk; then repeat the command, which goes on where it stopped")
    })?;
    Ok((made, membership))
}

fn shown(own: &SurvivorFile, others: &[SurvivorFile], plan: &Plan) -> Value {
    let numbers = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    json!({
        "needed": plan.needed,
        "safest": plan.safest.0,
        "voters": numbers(&plan.voters),
        "missing": numbers(&plan.missing),
        "mayLose": plan.may_lose,
        "survivor": own,
        "others": others,
    })
}

fn unreadable(error: &RecoverError) -> Failure {
    let (exit, next) = match error.code() {
        ErrorCode::IdentityConflict => (EXIT_CONFLICT, "stop what has the directory open; then repeat the command"),
        ErrorCode::DiskFull => (EXIT_FAILED, "free some space on the disk of the data directory; nothing was changed"),
        _ => (EXIT_FAILED, "use another survivor; this directory was not changed"),
    };
    Failure::new(exit, error.to_string(), next).with_code(error.code())
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(EXIT_FAILED, format!("{what}: {error}"), "mend that; then repeat the command: nothing was changed yet")
}

#[cfg(test)]
mod tests;
