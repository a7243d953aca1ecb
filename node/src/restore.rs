//! What needs no daemon: checking a backup, and making a new cluster of one. Either lies in a file or in a bucket.
//!
//! A restore checks the whole backup first, then fills a directory that belongs to no cluster: state, keys, and as the
//! last step the membership. Cut off before that step, the directory is one of a node that waits; what lies in it is
//! swept at the next start. The cluster key is a new one: members of the old cluster are never taken for members of
//! this one.

mod origin;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::lineage::{Founder, Leads};
use ollamax_gateway::grpc::AdminError;
use ollamax_metadata::backup::{self, BackupError, Facts, Page, Restorable, Restored, Target};
use ollamax_security::cluster_key::cluster_id;
use ollamax_security::{BackupKey, BackupKeyError, ClusterKey, Credential, NodeKey, random_bytes};
use ollamax_store as store;
use ollamax_types::{Incarnation, Role};

use crate::backups::WAITING;
use crate::config::{NodeConfig, is_label};
use crate::data_dir::{DataDir, DataDirError, Held, Membership, has_membership};
use crate::offline::{EXIT_CONFLICT, EXIT_FAILED, EXIT_USAGE, Failure, Form, denied, refuse_foreign, show, utc};
use crate::run::node_name;

pub(crate) use origin::Origin;
use origin::Scratch;

/// What lies in a directory that is nobody's all the same: what a mounted file system brings along, what `reset`
/// leaves, and what a restore leaves that was cut off before its first step was done.
const NOBODYS: [&str; 7] = ["lost+found", "lock", "keys", "models", "runtime.json", "backups", WAITING];
/// What to do about a disk.
const DISK_NEXT: &str = "look at the disk, its room and the rights of the directory; then repeat the command";

/// What `backup verify` is asked.
#[derive(Debug)]
pub(crate) struct VerifyArgs {
    /// The backup.
    pub(crate) from: Origin,
    /// The secret half of its key; without it only the outside is checked.
    pub(crate) key_file: Option<PathBuf>,
    /// How to show it.
    pub(crate) form: Form,
}

/// What `restore` is asked.
#[derive(Debug)]
pub(crate) struct RestoreArgs {
    /// The backup.
    pub(crate) from: Origin,
    /// The secret half of its key.
    pub(crate) key_file: PathBuf,
    /// Where the new cluster's first member shall lie.
    pub(crate) data_dir: PathBuf,
    /// The node's name; `None`: the machine's.
    pub(crate) name: Option<String>,
    /// How to show it.
    pub(crate) form: Form,
}

/// What was found or done: for people, and for programs.
#[derive(Debug)]
struct Outcome {
    text: String,
    fields: Value,
}

/// Checks a backup.
///
/// # Errors
/// When anything about it is not as it was written, or the key is none or another.
pub(crate) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let Outcome { text, fields } = look(args)?;
    show(args.form, "Backup", &text, fields)
}

/// Makes a new cluster of a backup, with this machine as its one member.
///
/// # Errors
/// When the backup is not good, the directory belongs to somebody, or the disk refuses. No member comes of it then.
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let Outcome { text, fields } = make(args)?;
    show(args.form, "RestoredCluster", &text, fields)
}

fn look(args: &VerifyArgs) -> Result<Outcome, Failure> {
    let file = &args.from.name;
    let key = args.key_file.as_deref().map(load_key).transpose()?;
    let number: [u8; 16] = random_bytes().map_err(|error| failed("draw a number", &error))?;
    let scratch = Scratch { dir: std::env::temp_dir(), folder: format!("ollamax-{}", hex::encode(number)) };
    let verified = backup::verify(&mut args.from.open(&scratch, args.form)?, key.as_ref()).map_err(refused)?;
    let (page, bytes) = (&verified.page, verified.bytes);
    let (mut fields, mut text) = (of_page(file, page), shown(page));
    fields["bytes"] = bytes.into();
    match &verified.facts {
        None => {
            fields["opened"] = false.into();
            text += "It is whole, as far as can be seen without its key.\n";
            let config = args.from.config.as_ref().map(|config| format!(" --config {}", config.display()));
            let config = config.unwrap_or_default();
            text += &format!("Next: ollamax backup verify {} --key-file FILE{config}\n", file.display());
        }
        Some(facts) => {
            add_facts(&mut fields, facts);
            for (family, records) in &facts.families {
                text += &format!("{records:>9} {family}\n");
            }
            text += &format!("It can be restored: all {} records were read.\n", facts.records);
        }
    }
    Ok(Outcome { text, fields })
}

fn make(args: &RestoreArgs) -> Result<Outcome, Failure> {
    let key = load_key(&args.key_file)?;
    let name = args.name.as_deref();
    if let Some(name) = name.filter(|name| !is_label(name)) {
        let what = format!("{name:?} is not 1 to 63 letters, digits, '-', '_' or '.'");
        return Err(Failure::new(EXIT_USAGE, what, "correct it and repeat the command"));
    }
    let data_dir = std::path::absolute(&args.data_dir).map_err(|error| failed("name the directory", &error))?;
    refuse_foreign(&data_dir, "backup restore, with the same words")?;
    refuse_used(&data_dir)?;
    // Held from here on: a daemon that waits there is told of before anything is fetched.
    let held = match Held::take(&data_dir) {
        Ok(held) => Some(held),
        Err(DataDirError::NotOurs { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let (mut from, checked) = fetch_and_check(args, &key, &data_dir)?;
    let mut dir = open_unused(&data_dir, held)?;
    let name = name.map_or_else(|| node_name(&NodeConfig::default(), &dir), str::to_owned);
    let keys = data_dir.join("keys");
    let node_key = NodeKey::load_or_create(&keys.join("node.key")).map_err(|error| failed("make the key", &error))?;
    let cluster_key = ClusterKey::generate().map_err(|error| failed("make the cluster key", &error))?;
    let member = NewMember {
        name,
        peer_id: node_key.peer_id().clone(),
        incarnation: dir.incarnation(),
        // It tells where it can be reached when it starts.
        peer_addresses: Vec::new(),
        p2p_addresses: Vec::new(),
        api_addresses: Vec::new(),
    };
    let public_key = cluster_key.public_key();
    let founder = Founder { cluster: cluster_id(&public_key), public_key, leads: Leads::Newcomer(member) };
    let target =
        Target { dir: data_dir.clone(), store: store::Config::default(), incarnation: dir.incarnation(), founder };
    let restored = backup::restore(&mut from, &key, checked, &target).map_err(refused)?;
    let membership = membership(&restored, &cluster_key, &target)?;
    cluster_key.seal(&keys.join("cluster.key")).map_err(|error| failed("store the cluster key", &error))?;
    dir.set_membership(Some(membership))?;
    Ok(told(&args.from.name, &data_dir, &restored, &target))
}

/// Opens the backup and checks it. What is fetched lies in the file system of the directory; where nothing comes of it,
/// a directory that was made for that goes again.
fn fetch_and_check(args: &RestoreArgs, key: &BackupKey, data_dir: &Path) -> Result<(File, Restorable), Failure> {
    let was_there = data_dir.exists();
    let scratch = Scratch { dir: data_dir.to_owned(), folder: WAITING.to_owned() };
    let checked = args.from.open(&scratch, args.form).and_then(|mut from| {
        let checked = backup::check(&mut from, key).map_err(refused)?;
        Ok((from, checked))
    });
    if checked.is_err() && !was_there {
        // One with something in it stays.
        drop(fs::remove_dir(data_dir));
    }
    checked
}

/// Opens the directory that is to be filled. Fetching took its time, and before a lock is held somebody may have made a
/// member of it: so it is looked at again, and once more under its lock.
fn open_unused(data_dir: &Path, held: Option<Held>) -> Result<DataDir, Failure> {
    refuse_used(data_dir)?;
    let fresh = Incarnation(random_bytes().map_err(|error| failed("draw an identity", &error))?);
    let dir = match held {
        Some(held) => held.open(fresh)?,
        None => DataDir::open(data_dir, fresh)?,
    };
    refuse_used(data_dir)?;
    Ok(dir)
}

/// Refuses a directory that is a member's, or is no node's and not empty.
fn refuse_used(dir: &Path) -> Result<(), Failure> {
    let refused = |why: &str| {
        let what = format!("{} cannot take a backup: {why}", dir.display());
        let next = "name an empty directory, or one that does not exist, with --data-dir";
        Err(Failure::new(EXIT_CONFLICT, what, next))
    };
    if has_membership(dir) {
        return refused("it belongs to a member of a cluster");
    }
    let unreadable =
        |error: std::io::Error| denied(dir, &error).unwrap_or_else(|| failed("read the directory", &error));
    if dir.join("identity.json").try_exists().map_err(unreadable)? {
        return Ok(());
    }
    match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unreadable(error)),
        Ok(entries) => match entries.flatten().find(|entry| !NOBODYS.iter().any(|name| entry.file_name() == *name)) {
            Some(entry) => refused(&format!("there is {:?} in it", entry.file_name())),
            None => Ok(()),
        },
    }
}

/// What makes the directory a member's.
fn membership(restored: &Restored, key: &ClusterKey, target: &Target) -> Result<Membership, Failure> {
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
        recovered_from: None,
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
         \x20     ollamax token create --data-dir {dir}\n\
         \x20     ollamax join on the other machines, with empty directories\n",
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

/// What everybody can read of it.
fn shown(page: &Page) -> String {
    let rows = [
        ("Cluster", format!("{} ({})", page.cluster_name, page.cluster)),
        ("Made", utc(page.taken_at.0).unwrap_or_else(|| format!("{} ms", page.taken_at.0))),
        ("Revision", page.revision.to_string()),
        ("Release", page.release.clone()),
        ("Key", page.recipient.clone()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}

fn load_key(path: &Path) -> Result<BackupKey, Failure> {
    BackupKey::load(path).map_err(|error| {
        if let BackupKeyError::Unreadable { path, source } = &error
            && let Some(denied) = denied(path, source)
        {
            return denied;
        }
        let next = "write the line AGE-SECRET-KEY-... into a file of mode 0600, and name it with --key-file";
        Failure::new(EXIT_USAGE, error.to_string(), next)
    })
}

/// Why a backup is not believed or not restored. Where the disk is in the way, no daemon's log tells more.
fn refused(error: BackupError) -> Failure {
    let next = match &error {
        BackupError::Export(_)
        | BackupError::State(_)
        | BackupError::Io { .. }
        | BackupError::Full(_)
        | BackupError::Open(_)
        | BackupError::Import(_)
        | BackupError::Lineage(_) => Some(DISK_NEXT),
        BackupError::NoCluster
        | BackupError::BrokenOff
        | BackupError::NotABackup(_)
        | BackupError::Newer { .. }
        | BackupError::ClusterTooNew { .. }
        | BackupError::Damaged { .. }
        | BackupError::OtherKey { .. } => None,
    };
    let told = AdminError::from(error);
    Failure::told(told.code, told.what, next.unwrap_or(&told.next))
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(EXIT_FAILED, format!("{what}: {error}"), DISK_NEXT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ollamax_core::catalog::Command;
    use ollamax_metadata::backup::Order;
    use ollamax_types::{ErrorCode, NodeId, RequestId, Timestamp};

    use super::*;
    use crate::backups::alone::Alone;
    use crate::data_dir::tests::membership as of_a_member;
    use crate::offline::exit_of;

    fn to_verify(file: &Path, key_file: Option<&Path>) -> VerifyArgs {
        let from = Origin { name: file.to_owned(), config: None };
        VerifyArgs { from, key_file: key_file.map(Path::to_owned), form: Form::Text }
    }

    fn to_restore(file: &Path, key_file: &Path, data_dir: &Path, name: Option<&str>) -> RestoreArgs {
        RestoreArgs {
            from: Origin { name: file.to_owned(), config: None },
            key_file: key_file.to_owned(),
            data_dir: data_dir.to_owned(),
            name: name.map(str::to_owned),
            form: Form::Text,
        }
    }

    #[test]
    fn only_a_directory_that_is_nobodys_takes_a_backup() {
        let temp = tempfile::tempdir().expect("temp");
        assert!(refuse_used(&temp.path().join("none")).is_ok());
        assert!(refuse_used(temp.path()).is_ok());
        for name in NOBODYS {
            fs::create_dir(temp.path().join(name)).expect("made");
            assert!(refuse_used(temp.path()).is_ok(), "{name}");
        }
        let state = temp.path().join("raft");
        fs::create_dir(&state).expect("made");
        let error = refuse_used(temp.path()).expect_err("a state without an identity");
        assert!(error.exit == EXIT_CONFLICT && error.text.contains("raft"), "{error:?}");
        fs::remove_dir(state).expect("removed");
        fs::write(temp.path().join("thesis.tex"), "").expect("written");
        let error = refuse_used(temp.path()).expect_err("somebody's");
        assert!(error.exit == EXIT_CONFLICT && error.text.contains("thesis.tex"), "{error:?}");

        let waiting = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(waiting.path(), Incarnation([1; 16])).expect("opened");
        assert!(refuse_used(waiting.path()).is_ok(), "a node that waits");
        dir.set_membership(Some(of_a_member())).expect("stored");
        let error = refuse_used(waiting.path()).expect_err("a member");
        assert!(error.text.contains("member of a cluster"), "{error:?}");
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

        let outside = look(&to_verify(&file, None)).expect("whole");
        assert_eq!(outside.fields["opened"], false);
        assert!(outside.text.starts_with("Cluster   lab (") && outside.text.contains("Next: "), "{}", outside.text);
        let verified = look(&to_verify(&file, Some(&key_file))).expect("good");
        assert_eq!((&verified.fields["opened"], &verified.fields["families"]["settings"]), (&json!(true), &json!(1)));
        assert!(verified.text.contains("Made      1970-01-01 00:00:00 UTC\n"), "{}", verified.text);
        assert!(verified.text.contains("\n        1 settings\n"), "{}", verified.text);
        assert!(verified.text.ends_with("records were read.\n"), "{}", verified.text);
        let dir = temp.path().join("new");
        let restored = make(&to_restore(&file, &key_file, &dir, Some("fresh"))).expect("restored").fields;
        assert_eq!(restored["restoredAs"]["node"], 514);
        assert!(restored["restoredAs"]["revision"].as_u64() > Some(set.revision + 999_999_999), "{restored}");
        let opened = DataDir::open(&dir, Incarnation([5; 16])).expect("a good directory");
        let membership = opened.membership().expect("a member");
        assert_eq!((membership.name.as_str(), membership.node, membership.raft_opened), ("fresh", NodeId(514), true));
        let cluster_key = ClusterKey::load(&dir.join("keys").join("cluster.key")).expect("a key");
        assert_eq!(membership.cluster_id(), Ok(cluster_id(&cluster_key.public_key())));
        let error = make(&to_restore(&file, &key_file, &dir, None)).expect_err("it is a member's now");
        assert_eq!(error.exit, EXIT_CONFLICT, "{error:?}");

        let mut bytes = fs::read(&file).expect("readable");
        bytes.truncate(bytes.len() - 1);
        fs::write(&file, bytes).expect("written");
        let other = temp.path().join("other");
        let error = make(&to_restore(&file, &key_file, &other, None)).expect_err("it is cut off");
        assert!(error.exit == EXIT_FAILED && error.text.contains("it is damaged") && !other.exists(), "{error:?}");
    }

    #[test]
    fn a_directory_in_use_is_told_before_anything_is_fetched() {
        let temp = tempfile::tempdir().expect("temp");
        let (key_file, dir) = (temp.path().join("key"), temp.path().join("dir"));
        fs::write(&key_file, BackupKey::generate().text().expose()).expect("written");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("set");
        let restore = || make(&to_restore(Path::new("s3://lab/a"), &key_file, &dir, None)).expect_err("no bucket");
        let waiting = DataDir::open(&dir, Incarnation([1; 16])).expect("opened");
        assert_eq!(restore().exit, EXIT_CONFLICT);
        drop(waiting);
        let error = restore();
        assert!(error.exit == EXIT_USAGE && error.text.contains("backup.s3.endpoint"), "{error:?}");
    }

    #[test]
    fn what_came_into_the_directory_while_the_backup_was_fetched_is_not_overwritten() {
        let temp = tempfile::tempdir().expect("temp");
        for waited in [false, true] {
            // A member was made of it before its lock was taken, be it before the fetch or behind it.
            let path = temp.path().join(waited.to_string());
            let mut dir = DataDir::open(&path, Incarnation([1; 16])).expect("opened");
            let raft = path.join("raft");
            fs::create_dir(&raft).expect("made");
            fs::write(raft.join("high-water"), "promised").expect("written");
            dir.set_membership(Some(of_a_member())).expect("stored");
            drop(dir);
            let held = waited.then(|| Held::take(&path).expect("nobody has it open"));
            let error = open_unused(&path, held).expect_err("a member's");
            assert!(error.exit == EXIT_CONFLICT && error.text.contains("member of a cluster"), "{error:?}");
            let dir = DataDir::open(&path, Incarnation([2; 16])).expect("as it was");
            assert_eq!(dir.membership(), Some(&of_a_member()));
        }
        let path = temp.path().join("files");
        fs::create_dir_all(path.join("raft")).expect("made");
        let error = open_unused(&path, None).expect_err("somebody's");
        assert!(error.exit == EXIT_CONFLICT && path.join("raft").exists(), "{error:?}");
        drop(open_unused(&temp.path().join("none"), None).expect("nobody's"));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let temp = tempfile::tempdir().expect("temp");
        let (key, none) = (temp.path().join("key"), temp.path().join("none.oxb.age"));
        let error = look(&to_verify(&none, None)).expect_err("no file");
        assert!(error.exit == EXIT_USAGE && error.text.contains("ollamax backup list"), "{error:?}");
        let error = make(&to_restore(&none, &key, temp.path(), None)).expect_err("no key");
        assert!(error.exit == EXIT_USAGE && error.text.contains("--key-file"), "{error:?}");
        let check = |error: BackupError, exit: u8, next: &str| {
            let told = refused(error);
            assert!(told.exit == exit && told.text.contains(next), "{told:?}");
        };
        let other = BackupError::OtherKey { wanted: "age1x".to_owned(), given: BackupKey::generate().recipient() };
        check(other, exit_of(ErrorCode::Forbidden), "try: use the key");
        check(BackupError::Newer { found: 2, known: 1 }, EXIT_CONFLICT, "try: use the release that made it");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        check(BackupError::Io { action: "read the backup", source: full }, EXIT_FAILED, DISK_NEXT);
    }
}
