//! Makes the replicated state of a node that is off another than it was, as a fault of the program would: consistent in
//! itself, so that nothing on this node alone can tell, and different from that of all others.
//!
//! Written through the store's own interface. The state is taken into a scratch store as if it ended one entry earlier,
//! changed there by the last entry, and taken back: index, membership and all other records stay as they were.

use std::path::Path;

use anyhow::{Context, Result, bail};
use prost::Message;

use ollamax_core::catalog::{Key, Mutation, Record, View};
use ollamax_proto::disk;
use ollamax_proto::disk::snapshot_part::Part;
use ollamax_store::{AppliedMeta, Config, State, Store};

/// Turns one bit of the last byte of a configuration key's value in the data directory of a node that does not run.
///
/// # Errors
/// When the directory is in use or has no such key.
pub fn flip_setting(data_dir: &Path, name: &str) -> Result<()> {
    let store = Store::open(data_dir, None, Config::default()).context("open the state")?;
    let state = store.state();
    let meta = state.applied().context("nothing is applied")?;
    let key = Key::Setting(name.to_owned());
    let Some(Record::Setting(mut setting)) = state.view().get(&key).context("read the setting")? else {
        bail!("{} has no setting {name}", data_dir.display());
    };
    *setting.value.last_mut().context("its value is empty")? ^= 1;

    let folder = tempfile::tempdir().context("make a scratch directory")?;
    let scratch = Store::open(folder.path(), None, Config::default()).context("open a scratch store")?;
    let earlier = AppliedMeta { index: meta.index - 1, ..meta.clone() };
    hand_over(&state, &scratch.state(), &earlier)?;
    let mut batch = scratch.state().begin();
    batch.stage(vec![Mutation::Put(key, Record::Setting(setting))]).context("change the setting")?;
    scratch.state().commit(batch, meta.clone()).context("write the change")?;
    hand_over(&scratch.state(), &state, &meta)?;
    store.close().context("close the state")
}

/// Makes the state of one store that of another, which then says that it ends where `meta` does.
fn hand_over(from: &State, to: &State, meta: &AppliedMeta) -> Result<()> {
    let mut export = from.export().context("export the state")?;
    let mut import = to.import().context("import the state")?;
    while let Some(chunk) = export.next_chunk().context("export the state")? {
        import.add(&ending_at(&chunk, meta.index)?).context("import the state")?;
    }
    import.finish(meta).context("import the state")
}

/// The message with this index in its header, when it is the one that has one.
fn ending_at(chunk: &[u8], index: u64) -> Result<Vec<u8>> {
    let mut message = disk::SnapshotPart::decode(chunk).context("read a message of the export")?;
    if let Some(Part::Header(disk::SnapshotHeader { applied: Some(mark), .. })) = &mut message.part {
        mark.index = index;
    }
    Ok(message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::Setting;

    use super::*;

    #[test]
    fn one_record_is_another_and_nothing_else_has_changed() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::open(folder.path(), None, Config::default()).expect("opens");
        let put = |name: &str, value: &[u8]| {
            let setting = Setting { value: value.to_vec(), revision: 1 };
            Mutation::Put(Key::Setting(name.to_owned()), Record::Setting(setting))
        };
        let mut batch = store.state().begin();
        batch.stage(vec![put("a", b"10"), put("b", b"20")]).expect("staged");
        let meta = AppliedMeta { index: 7, last_applied: vec![1], membership: vec![2] };
        store.state().commit(batch, meta.clone()).expect("written");
        let before = store.state().state_hash();
        store.close().expect("closed");
        drop(store);

        flip_setting(folder.path(), "a").expect("changed");
        let found = ollamax_store::verify(folder.path()).expect("can be looked at");
        assert!(found.is_sound(), "{found:?}");
        assert_ne!(found.state.hash, before);
        let store = Store::open(folder.path(), None, Config::default()).expect("opens");
        assert_eq!(store.state().applied(), Some(meta));
        let value = |name: &str| match store.state().view().get(&Key::Setting(name.to_owned())) {
            Ok(Some(Record::Setting(setting))) => setting.value,
            other => unreachable!("{other:?}"),
        };
        assert_eq!((value("a"), value("b")), (b"11".to_vec(), b"20".to_vec()));
    }
}
