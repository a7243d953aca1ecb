//! What needs no daemon: checking a backup, and making a new cluster of one.
//!
//! A restore checks the whole backup first, then fills a directory that belongs to no cluster: state, keys, and as the
//! last step the membership. Cut off before that step, the directory is one of a node that waits; what lies in it is
//! swept at the next start. The cluster key is a new one: members of the old cluster are never taken for members of
//! this one.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::lineage::Founder;
use ollamax_gateway::grpc::AdminError;
use ollamax_metadata::backup::{self, Facts, Page, Restored, Target};
use ollamax_security::cluster_key::cluster_id;
use ollamax_security::{BackupKey, ClusterKey, Credential, NodeKey, random_bytes};
use ollamax_store as store;
use ollamax_types::{ErrorCode, Incarnation, Role};

use crate::config::{NodeConfig, is_label};
use crate::data_dir::{DataDir, DataDirError, Membership, has_membership};
use crate::run::node_name;

/// What a mounted file system brings along.
const OF_THE_DISK: &str = "lost+found";

/// What was found or done: for people, and for programs.
#[derive(Debug)]
pub(crate) struct Outcome {
    text: String,
    fields: Value,
}

/// Checks a backup.
///
/// # Errors
/// When anything about it is not as it was written, or the key is none or another.
pub(crate) fn verify(file: &Path, key_file: Option<&Path>) -> Result<Outcome, AdminError> {
    let key = key_file.map(load_key).transpose()?;
    let verified = backup::verify(&mut open(file)?, key.as_ref())?;
    let (page, bytes) = (&verified.page, verified.bytes);
    let mut fields = of_page(file, page);
    fields["bytes"] = bytes.into();
    let what = format!("{}: cluster {}, revision {}, {bytes} bytes", file.display(), page.cluster_name, page.revision);
    let Some(facts) = &verified.facts else {
        let text = format!(
            "{what}: it is whole, as far as can be seen without its key.\n\
             It opens with the key whose public half is {}.\n\
             try: ollamax-node backup verify {} --key-file FILE\n",
            page.recipient,
            file.display()
        );
        fields["opened"] = false.into();
        return Ok(Outcome { text, fields });
    };
    add_facts(&mut fields, facts);
    Ok(Outcome { text: format!("{what}: it can be restored, all {} records.\n", facts.records), fields })
}

/// Makes a new cluster of a backup, with this machine as its one member.
///
/// # Errors
/// When the backup is not good, the directory belongs to somebody, or the disk refuses. No member comes of it then.
pub(crate) fn restore(
    file: &Path,
    key_file: &Path,
    data_dir: &Path,
    name: Option<&str>,
) -> Result<Outcome, AdminError> {
    let key = load_key(key_file)?;
    if let Some(name) = name.filter(|name| !is_label(name)) {
        return Err(bad_request(format!("{name:?} is not 1 to 63 letters, digits, '-', '_' or '.'")));
    }
    let data_dir = std::path::absolute(data_dir).map_err(|error| failed("name the directory", &error))?;
    refuse_used(&data_dir)?;
    let mut from = open(file)?;
    let checked = backup::check(&mut from, &key)?;
    let fresh = Incarnation(random_bytes().map_err(|error| failed("draw an identity", &error))?);
    let mut dir = DataDir::open(&data_dir, fresh).map_err(|error| of_directory(&error))?;
    let name = name.map_or_else(|| node_name(&NodeConfig::default(), &dir), str::to_owned);
    let keys = data_dir.join("keys");
    let node_key = NodeKey::load_or_create(&keys.join("node.key")).map_err(|error| failed("make the key", &error))?;
    let cluster_key = ClusterKey::generate().map_err(|error| failed("make the cluster key", &error))?;
    let member = NewMember {
        name: name.clone(),
        peer_id: node_key.peer_id().clone(),
        incarnation: dir.incarnation(),
        // It tells where it can be reached when it starts.
        peer_addresses: Vec::new(),
        p2p_addresses: Vec::new(),
        api_addresses: Vec::new(),
    };
    let public_key = cluster_key.public_key();
    let founder = Founder { cluster: cluster_id(&public_key), public_key, member };
    let target =
        Target { dir: data_dir.clone(), store: store::Config::default(), incarnation: dir.incarnation(), founder };
    let restored = backup::restore(&mut from, &key, checked, &target)?;
    let membership = membership(&restored, &cluster_key, &target)?;
    cluster_key.seal(&keys.join("cluster.key")).map_err(|error| failed("store the cluster key", &error))?;
    dir.set_membership(Some(membership)).map_err(|error| failed("store the membership", &error))?;
    Ok(told(file, &data_dir, &restored, &target))
}

/// Refuses a directory that is a member's, or is no node's and not empty.
fn refuse_used(dir: &Path) -> Result<(), AdminError> {
    let refused = |why: &str| {
        let what = format!("{} cannot take a backup", dir.display());
        let next = "name an empty directory, or one that does not exist, with --data-dir";
        Err(AdminError::new(ErrorCode::PreconditionFailed, what, why, next))
    };
    if has_membership(dir) {
        return refused("it belongs to a member of a cluster");
    }
    if dir.join("identity.json").exists() {
        return Ok(());
    }
    match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("read the directory", &error)),
        Ok(entries) => match entries.flatten().find(|entry| entry.file_name() != OF_THE_DISK) {
            Some(entry) => refused(&format!("there is {:?} in it", entry.file_name())),
            None => Ok(()),
        },
    }
}

/// What makes the directory a member's.
fn membership(restored: &Restored, key: &ClusterKey, target: &Target) -> Result<Membership, AdminError> {
    let credential = Credential {
        cluster: target.founder.cluster,
        node: restored.member.id,
        peer_id: restored.member.peer_id.clone(),
        role: Role::Voter,
        incarnation: target.incarnation,
    };
    let credential = credential.sign(key).map_err(|error| failed("sign the credential", &error))?;
    Ok(Membership {
        cluster: target.founder.cluster.to_string(),
        cluster_name: restored.page.cluster_name.clone(),
        cluster_public_key: hex::encode(target.founder.public_key),
        node: restored.member.id,
        name: restored.member.name.clone(),
        role: Role::Voter,
        credential: hex::encode(credential),
        known: Vec::new(),
        raft_opened: true,
        removed: false,
    })
}

fn told(file: &Path, data_dir: &Path, restored: &Restored, target: &Target) -> Outcome {
    let Restored { page, facts, member, revision } = restored;
    let dir = data_dir.display();
    let text = format!(
        "Restored cluster {} as of revision {} into {dir}, all {} records.\n\
         It is a new cluster ({}): this is node {}, named {}, and leads alone; revisions go on at {revision}.\n\
         Models, join tokens and other members are not in it.\n\n\
         Next: ollamax-node run --data-dir {dir}\n\
         \x20     ollamax token create --data-dir {dir}, then ollamax join on the other machines, with empty directories\n",
        page.cluster_name, page.revision, facts.records, target.founder.cluster, member.id, member.name
    );
    let mut fields = of_page(file, page);
    add_facts(&mut fields, facts);
    fields["restoredAs"] = json!({
        "cluster": target.founder.cluster.to_string(),
        "node": member.id.0,
        "nodeName": member.name,
        "revision": revision,
        "dataDir": dir.to_string(),
    });
    Outcome { text, fields }
}

fn of_page(file: &Path, page: &Page) -> Value {
    json!({
        "file": file.display().to_string(),
        "cluster": page.cluster.to_string(),
        "clusterName": page.cluster_name,
        "revision": page.revision,
        "takenAtMs": page.taken_at.0,
        "release": page.release,
        "recipient": page.recipient,
    })
}

fn add_facts(fields: &mut Value, facts: &Facts) {
    let families = facts.families.iter().map(|(family, records)| (family.clone(), Value::from(*records)));
    fields["opened"] = true.into();
    fields["term"] = facts.term.into();
    fields["logTimeMs"] = facts.log_time.0.into();
    fields["clusterVersion"] = facts.cluster_version.into();
    fields["node"] = facts.node.0.into();
    fields["records"] = facts.records.into();
    fields["families"] = Value::Object(families.collect());
}

fn load_key(path: &Path) -> Result<BackupKey, AdminError> {
    BackupKey::load(path).map_err(|error| {
        let next = "write the line AGE-SECRET-KEY-... into a file of mode 0600, and name it with --key-file";
        AdminError::new(ErrorCode::BadRequest, error.to_string(), "", next)
    })
}

fn open(path: &Path) -> Result<File, AdminError> {
    let what = format!("read {}", path.display());
    File::open(path).map_err(|error| {
        AdminError::new(
            ErrorCode::BadRequest,
            what,
            error.to_string(),
            "name the file of a backup: ollamax backup list",
        )
    })
}

fn bad_request(what: String) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, what, "", "correct it and repeat the command")
}

fn failed(what: &str, error: &dyn std::error::Error) -> AdminError {
    let next = "look at the disk and the rights of the directory, and repeat the command";
    AdminError::new(ErrorCode::StorageFailed, what, error.to_string(), next)
}

/// The directory's own words end with what to do.
fn of_directory(error: &DataDirError) -> AdminError {
    let told = error.to_string();
    let (why, next) = told.split_once("\ntry: ").unwrap_or((&told, ""));
    AdminError::new(ErrorCode::PreconditionFailed, "open the directory", why, next)
}

/// Says what came of it: data on standard output, an error for people on the other, with `json` one object.
pub(crate) fn tell(json: bool, outcome: Result<Outcome, AdminError>) -> ExitCode {
    let (text, is_good) = match (&outcome, json) {
        (Ok(outcome), true) => (format!("{}\n", outcome.fields), true),
        (Ok(outcome), false) => (outcome.text.clone(), true),
        (Err(error), true) => (format!("{}\n", json!({"error": of_error(error)})), false),
        (Err(error), false) => (page_of_error(error), false),
    };
    let written = if is_good || json {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    if is_good && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn of_error(error: &AdminError) -> Value {
    json!({"code": error.code.as_str(), "what": error.what, "why": error.why, "next": error.next})
}

fn page_of_error(error: &AdminError) -> String {
    let lines = [("ollamax-node: ", &error.what), ("why: ", &error.why), ("try: ", &error.next)];
    lines.iter().filter(|(_, line)| !line.is_empty()).map(|(start, line)| format!("{start}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ollamax_core::catalog::Command;
    use ollamax_metadata::backup::Order;
    use ollamax_types::{NodeId, RequestId, Timestamp};

    use super::*;
    use crate::backups::alone::Alone;

    #[test]
    fn only_a_directory_that_is_nobodys_takes_a_backup() {
        let temp = tempfile::tempdir().expect("temp");
        assert!(refuse_used(&temp.path().join("none")).is_ok());
        assert!(refuse_used(temp.path()).is_ok());
        fs::create_dir(temp.path().join(OF_THE_DISK)).expect("made");
        assert!(refuse_used(temp.path()).is_ok());
        fs::write(temp.path().join("thesis.tex"), "").expect("written");
        let error = refuse_used(temp.path()).expect_err("somebody's");
        assert!(error.code == ErrorCode::PreconditionFailed && error.why.contains("thesis.tex"), "{error:?}");

        let waiting = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(waiting.path(), Incarnation([1; 16])).expect("opened");
        assert!(refuse_used(waiting.path()).is_ok(), "a node that waits");
        let membership = Membership {
            cluster: "00".repeat(16),
            cluster_name: "lab".to_owned(),
            cluster_public_key: String::new(),
            node: NodeId(1),
            name: "n1".to_owned(),
            role: Role::Voter,
            credential: String::new(),
            known: Vec::new(),
            raft_opened: false,
            removed: false,
        };
        dir.set_membership(Some(membership)).expect("stored");
        let error = refuse_used(waiting.path()).expect_err("a member");
        assert!(error.why.contains("member of a cluster"), "{error:?}");
    }

    #[test]
    fn what_a_restore_that_was_cut_off_left_is_swept() {
        let temp = tempfile::tempdir().expect("temp");
        drop(DataDir::open(temp.path(), Incarnation([1; 16])).expect("opened"));
        let (raft, key) = (temp.path().join("raft"), temp.path().join("keys").join("cluster.key"));
        fs::create_dir_all(raft.join("db")).expect("made");
        fs::write(&key, "of a cluster that never was").expect("written");
        assert!(refuse_used(temp.path()).is_ok(), "it may be restored again");
        let dir = DataDir::open(temp.path(), Incarnation([2; 16])).expect("opened");
        assert!(dir.membership().is_none() && !raft.exists() && !key.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_backup_becomes_a_directory_of_a_member_once() {
        let alone = Alone::start().await;
        let setting = Command::SetSetting { key: "a".to_owned(), value: b"1".to_vec() };
        let set = alone.handle.propose(RequestId::default(), "admin", setting).await.expect("set");
        let temp = tempfile::tempdir().expect("temp");
        let (file, key_file) = (temp.path().join("backup.oxb.age"), temp.path().join("key"));
        let key = BackupKey::generate();
        fs::write(&key_file, key.text().expose()).expect("written");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("set");
        let order = Order { taken_at: Timestamp(7), release: "0.1.0".to_owned(), recipient: key.recipient() };
        let to = File::create(&file).expect("made");
        alone.handle.write_backup(&order, to, &mut |_| Ok(())).expect("written");
        alone.close().await;

        let verified = verify(&file, Some(&key_file)).expect("good").fields;
        assert_eq!((&verified["opened"], &verified["families"]["settings"]), (&json!(true), &json!(1)));
        let dir = temp.path().join("new");
        let restored = restore(&file, &key_file, &dir, Some("fresh")).expect("restored").fields;
        assert_eq!(restored["restoredAs"]["node"], 514);
        assert!(restored["restoredAs"]["revision"].as_u64() > Some(set.revision + 999_999_999), "{restored}");
        let opened = DataDir::open(&dir, Incarnation([5; 16])).expect("a good directory");
        let membership = opened.membership().expect("a member");
        assert_eq!((membership.name.as_str(), membership.node, membership.raft_opened), ("fresh", NodeId(514), true));
        let cluster_key = ClusterKey::load(&dir.join("keys").join("cluster.key")).expect("a key");
        assert_eq!(membership.cluster_id(), Ok(cluster_id(&cluster_key.public_key())));
        let error = restore(&file, &key_file, &dir, None).expect_err("it is a member's now");
        assert_eq!(error.code, ErrorCode::PreconditionFailed);

        let mut bytes = fs::read(&file).expect("readable");
        bytes.truncate(bytes.len() - 1);
        fs::write(&file, bytes).expect("written");
        let other = temp.path().join("other");
        let error = restore(&file, &key_file, &other, None).expect_err("it is cut off");
        assert!(error.code == ErrorCode::StorageCorrupt && !other.exists(), "{error:?}");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let temp = tempfile::tempdir().expect("temp");
        let (key, none) = (temp.path().join("key"), temp.path().join("none.oxb.age"));
        let error = verify(&none, None).expect_err("no file");
        assert!(error.code == ErrorCode::BadRequest && error.next.contains("ollamax backup list"), "{error:?}");
        let error = restore(&none, &key, temp.path(), None).expect_err("no key");
        assert!(error.next.contains("--key-file"), "{error:?}");
        assert_eq!(page_of_error(&error).lines().count(), 2, "{}", page_of_error(&error));
        assert_eq!(of_error(&error)["code"], "bad_request");
    }
}
