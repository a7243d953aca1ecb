//! Backups as files: what goes in comes out, and nothing that was changed is believed.

use std::io::{Cursor, Write};
use std::path::Path;

use proptest::prelude::*;

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::lineage::{Founder, Leads, Sweep, found};
use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{
    CLUSTER_VERSION, Cluster, Key, Member, MemberState, Mutation, Record, Setting, Token, Value, View as _, read,
};
use ollamax_security::BackupKey;
use ollamax_store::{Config, State, Store};
use ollamax_types::{Incarnation, PeerId, Role, TokenId};

use super::write::Writing;
use super::*;
use crate::REVISION_JUMP;
use crate::raft::{Membership, StoredMembership, log_id, term_of};
use crate::record::Applied;

const OLD: ClusterId = ClusterId([1; 16]);
const NEW: ClusterId = ClusterId([9; 16]);
const NOW: Timestamp = Timestamp(77_000);
const TERM: u64 = 6;

fn put(key: Key, record: Record) -> Mutation {
    Mutation::Put(key, record)
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("p{id}")),
        incarnation: Incarnation([1; 16]),
        role: Role::Voter,
        state: MemberState::Active,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
        joined_at: Timestamp(3),
        labels: Default::default(),
        own_labels: Default::default(),
        cordon: Default::default(),
    }
}

/// A cluster of two with these settings and values.
fn state(settings: &[(String, Vec<u8>)], version: u32) -> Vec<Mutation> {
    let cluster = Cluster {
        id: OLD,
        name: "lab".to_owned(),
        public_key: [2; 32],
        created_at: Timestamp(1),
        next_node_id: 3,
        version,
    };
    let token = Token {
        id: TokenId("t".to_owned()),
        secret_sha256: [3; 32],
        role: Role::Voter,
        uses_left: 1,
        created_at: Timestamp(1),
        expires_at: Timestamp(u64::MAX),
        revoked: false,
    };
    let mut all = vec![
        put(Key::Cluster, Record::Cluster(cluster)),
        put(Key::Token(token.id.clone()), Record::Token(token.clone())),
    ];
    for member in [member(1), member(2)] {
        all.push(put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)));
        all.push(put(Key::Member(member.id), Record::Member(member)));
    }
    for (name, bytes) in settings {
        let setting = Setting { value: bytes.clone(), revision: 4 };
        all.push(put(Key::Setting(name.clone()), Record::Setting(setting)));
        let value = Value { bytes: bytes.clone(), created: 4, modified: 5, version: 2, lease: None };
        all.push(put(Key::Value(String::new(), format!("user/{name}")), Record::Value(value)));
    }
    all
}

fn commit(state: &State, index: u64, mutations: Vec<Mutation>) {
    let voters = vec![[1, 2].into()];
    let applied = Applied {
        last: Some(log_id(TERM, index)),
        membership: StoredMembership::new(Some(log_id(1, 1)), Membership::new_with_defaults(voters, [1, 2])),
        log_time: NOW,
    };
    let mut batch = state.begin();
    batch.stage(mutations).expect("records fit their keys");
    state.commit(batch, applied.to_store().expect("something is applied")).expect("commit");
}

fn store(dir: &Path, mutations: Vec<Mutation>, index: u64) -> Store {
    let store = Store::open(dir, None, Config::default()).expect("opens");
    commit(&store.state(), index, mutations);
    store
}

fn order(key: &BackupKey) -> Order {
    Order { taken_at: Timestamp(88_000), release: "0.1.0".to_owned(), recipient: key.recipient() }
}

fn backup(key: &BackupKey, mutations: Vec<Mutation>) -> (Written, Vec<u8>) {
    let dir = tempfile::tempdir().expect("folder");
    let store = store(dir.path(), mutations, 40);
    let order = order(key);
    let writing = Writing { node: NodeId(2), order: &order };
    let export = store.state().export().expect("export");
    writing.run(export, Vec::new(), &mut |_| Ok(())).expect("a Vec takes everything")
}

fn target(dir: &Path) -> Target {
    let member = NewMember {
        name: "fresh".to_owned(),
        peer_id: PeerId("p9".to_owned()),
        incarnation: Incarnation([9; 16]),
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
    };
    let founder = Founder { cluster: NEW, public_key: [8; 32], leads: Leads::Newcomer(member) };
    Target { dir: dir.to_owned(), store: Config::default(), incarnation: Incarnation([9; 16]), founder }
}

/// The hash of a state that was never backed up, but went on under the new identity in the same way.
fn expected_hash(mutations: &[Mutation]) -> [u8; 16] {
    let mut view = MemView::default();
    view.write(mutations);
    let founder = target(Path::new("unused")).founder;
    let mut sweep = Sweep::of(&founder);
    while let Some(step) = sweep.step(&view).expect("readable") {
        view.write(&step);
    }
    let founded = found(&view, &founder, NOW).expect("readable");
    view.write(&founded.mutations);
    let dir = tempfile::tempdir().expect("folder");
    let all = view.records().map(|(key, record)| put(key.clone(), record.clone())).collect();
    store(dir.path(), all, 1).state().state_hash()
}

/// Checks and restores, as an administrator does.
fn restored(bytes: &[u8], key: &BackupKey, dir: &Path) -> Result<Restored, BackupError> {
    let mut file = Cursor::new(bytes);
    let checked = check(&mut file, key)?;
    restore(&mut file, key, checked, &target(dir))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_is_restored_is_what_was_backed_up(
        settings in prop::collection::vec(("[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..40_000)), 0..60)
    ) {
        let key = BackupKey::generate();
        let mutations = state(&settings, CLUSTER_VERSION);
        let (written, bytes) = backup(&key, mutations.clone());
        prop_assert_eq!(written.bytes, bytes.len() as u64);
        let verified = verify(&mut Cursor::new(&bytes), Some(&key)).expect("it is good");
        prop_assert_eq!(&verified.page, &written.page);
        prop_assert_eq!(verified.facts.as_ref(), Some(&written.facts));
        prop_assert_eq!((written.page.revision, written.facts.term, written.facts.node), (40, TERM, NodeId(2)));

        let dir = tempfile::tempdir().expect("folder");
        let restored = restored(&bytes, &key, dir.path()).expect("restored");
        prop_assert_eq!((restored.member.id, restored.revision), (NodeId(515), 40 + REVISION_JUMP));
        let store = Store::open(dir.path(), None, Config::default()).expect("opens");
        let identity = store.identity().expect("bound");
        prop_assert_eq!((identity.cluster, identity.node), (NEW, NodeId(515)));
        let meta = store.state().applied().expect("there");
        let applied = Applied::from_store(&meta).expect("readable");
        prop_assert_eq!(applied.last.as_ref().map(|id| (term_of(id), id.index)), Some((TERM + 1, restored.revision)));
        prop_assert_eq!(applied.log_time, NOW);
        prop_assert!(applied.membership.membership().voter_ids().eq([515]));
        let log = store.log().state();
        prop_assert_eq!((log.first, log.last), (None, None));
        prop_assert_eq!(log.purged.map(|(index, _)| index), Some(restored.revision));
        prop_assert!(store.log().vote().is_some());
        prop_assert_eq!(store.state().state_hash(), expected_hash(&mutations));
    }
}

#[test]
fn a_flipped_bit_or_a_cut_anywhere_is_refused_with_its_place() {
    let key = BackupKey::generate();
    let settings: Vec<_> = (0..50u8).map(|number| (format!("k{number:02}"), vec![number; 9_000])).collect();
    let (_, good) = backup(&key, state(&settings, CLUSTER_VERSION));
    // The borders of each part, and places spread over all of it.
    let end = good.len() - END_BYTES;
    let borders = [0, 8, 12, 60, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 30, end - 1, end, end + 20, good.len() - 1];
    let places = borders.into_iter().chain((0..good.len()).step_by(good.len() / 60));
    for at in places {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", &good[..at])] {
            let without = verify(&mut Cursor::new(bytes), None).expect_err("without the key");
            let with = verify(&mut Cursor::new(bytes), Some(&key)).expect_err("with the key");
            for error in [without, with] {
                let told = match &error {
                    BackupError::Damaged { place, reason } => !place.is_empty() && !reason.is_empty(),
                    BackupError::NotABackup(_) => at < PAGE_BYTES,
                    // A changed stanza looks as one for somebody else.
                    BackupError::OtherKey { .. } => (PAGE_BYTES..PAGE_BYTES + 300).contains(&at),
                    _ => false,
                };
                assert!(told, "{what} at {at}: {error:?}");
            }
        }
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(verify(&mut Cursor::new(&longer), None), Err(BackupError::Damaged { .. })));
    assert_eq!(verify(&mut Cursor::new(&good), None).expect("good").facts, None);
}

#[test]
fn a_page_from_another_backup_is_not_believed() {
    let key = BackupKey::generate();
    let (written, mut bytes) = backup(&key, state(&[], CLUSTER_VERSION));
    let page = Page { revision: 41, ..written.page };
    bytes[..PAGE_BYTES].copy_from_slice(&frame::encode_page(&page));
    let length = bytes.len() - END_BYTES;
    let mut hashed = frame::Hashed::new(io::sink());
    hashed.write_all(&bytes[..length]).expect("a sink takes everything");
    let end = frame::End { payload_bytes: (length - PAGE_BYTES) as u64, blake3: hashed.blake3() };
    bytes[length..].copy_from_slice(&frame::encode_end(&end));
    verify(&mut Cursor::new(&bytes), None).expect("nobody can tell without the key");
    let error = verify(&mut Cursor::new(&bytes), Some(&key)).expect_err("the key tells");
    assert!(matches!(&error, BackupError::Damaged { place, .. } if place == "in its first page"), "{error:?}");
}

#[test]
fn another_key_another_file_and_a_later_release_are_told_apart() {
    let (key, other) = (BackupKey::generate(), BackupKey::generate());
    let (written, bytes) = backup(&key, state(&[], CLUSTER_VERSION));
    let error = verify(&mut Cursor::new(&bytes), Some(&other)).expect_err("another key");
    assert_eq!(error.code(), ErrorCode::Forbidden);
    assert!(error.to_string().contains(&key.recipient().to_string()), "{error}");

    let error = verify(&mut Cursor::new(vec![b'x'; 9_000]), Some(&key)).expect_err("another file");
    assert!(matches!(error, BackupError::NotABackup(_)), "{error:?}");

    let (_, bytes) = backup(&key, state(&[], CLUSTER_VERSION + 1));
    let dir = tempfile::tempdir().expect("folder");
    let error = restored(&bytes, &key, dir.path()).expect_err("a later release");
    assert!(matches!(error, BackupError::ClusterTooNew { .. }), "{error:?}");
    assert!(!dir.path().join("raft").exists(), "nothing was written");

    let mut later = written.page.to_disk();
    later.format = 2;
    assert!(matches!(Page::from_disk(later), Err(BackupError::Newer { found: 2, known: 1 })));
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_written() {
    let key = BackupKey::generate();
    let (_, mut bytes) = backup(&key, state(&[("a".to_owned(), vec![1; 100])], CLUSTER_VERSION));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let dir = tempfile::tempdir().expect("folder");
    restored(&bytes, &key, dir.path()).expect_err("it is damaged");
    assert!(!dir.path().join("raft").exists());
}

/// A disk that is full after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_a_caller_who_leaves_end_it() {
    let (key, dir) = (BackupKey::generate(), tempfile::tempdir().expect("folder"));
    let settings: Vec<_> = (0..50u8).map(|number| (format!("k{number:02}"), vec![number; 9_000])).collect();
    let store = store(dir.path(), state(&settings, CLUSTER_VERSION), 40);
    let order = order(&key);
    let writing = Writing { node: NodeId(2), order: &order };
    for room in [100, 5_000, 300_000] {
        let export = store.state().export().expect("export");
        let error = writing.run(export, Full(room), &mut |_| Ok(())).map(drop).expect_err("no room");
        assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    }
    let export = store.state().export().expect("export");
    let error = writing.run(export, Vec::new(), &mut |_| Err(BackupError::BrokenOff)).map(drop).expect_err("left");
    assert!(matches!(error, BackupError::BrokenOff));

    let dir = tempfile::tempdir().expect("folder");
    let store = self::store(dir.path(), vec![], 1);
    let export = store.state().export().expect("export");
    let error = writing.run(export, Vec::new(), &mut |_| Ok(())).map(drop).expect_err("no cluster");
    assert!(matches!(error, BackupError::NoCluster));
}

#[test]
fn the_state_that_is_restored_can_be_read() {
    let key = BackupKey::generate();
    let (_, bytes) = backup(&key, state(&[("a".to_owned(), b"1".to_vec())], CLUSTER_VERSION));
    let dir = tempfile::tempdir().expect("folder");
    restored(&bytes, &key, dir.path()).expect("restored");
    let store = Store::open(dir.path(), None, Config::default()).expect("opens");
    let view = store.state().view();
    let value = read::value(&view, "", "user/a").expect("readable").expect("there");
    assert_eq!((value.bytes.as_slice(), value.modified), (b"1".as_slice(), 5));
    assert!(view.get(&Key::Token(TokenId("t".to_owned()))).expect("readable").is_none());
}

#[test]
fn the_golden_page_has_not_changed() {
    let page = Page {
        cluster: OLD,
        cluster_name: "lab".to_owned(),
        revision: 300,
        taken_at: Timestamp(1),
        release: "0.1.0".to_owned(),
        recipient: "age1x".to_owned(),
    };
    let bytes = frame::encode_page(&page);
    let hex: String = bytes[..62].iter().map(|byte| format!("{byte:02x}")).collect();
    let message = format!("08011210{}1a036c616220ac0228013205302e312e303a056167653178", "01".repeat(16));
    let length = message.len() / 2;
    assert_eq!(length, 44);
    assert_eq!(hex[..(12 + length) * 2], format!("4f4c4c414d415842{length:02x}000000{message}"));
    assert_eq!(frame::decode_page(&bytes).expect("readable"), page);
}
