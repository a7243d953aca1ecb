//! The folder as others leave it: killed processes, other processes, other owners, full disks.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use ollamax_types::chunk::CHUNK_BYTES;

use crate::staging::samples::Sample;

use super::*;

struct World(TempDir);

// === impl World ===

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temp"))
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("staging")
    }

    fn open(&self) -> Staging {
        Staging::open(&self.root(), None).expect("ours")
    }
}

fn names(folder: &Path) -> Vec<String> {
    disk::names_in(folder).expect("readable")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o777
}

fn busy(error: &Fault) -> bool {
    error.source.kind() == ErrorKind::ResourceBusy
}

fn fault(error: PartError) -> Fault {
    match error {
        PartError::Fault(fault) => fault,
        other => panic!("{other} is no fault of the disk"),
    }
}

#[test]
fn a_part_is_open_once_however_many_ask_for_it() {
    let (world, sample) = (World::new(), Sample::new(1, 5_000));
    let staging = world.open();
    let first = staging.begin(sample.spec).expect("there is room");
    let second = staging.clone().begin(sample.spec).expect("it is the same");
    sample.write(&first, 0);
    assert!(second.have().is_full());
    let other = BlobSpec { size_bytes: 6_000, ..sample.spec };
    assert!(fault(staging.begin(other).expect_err("two sizes")).to_string().ends_with("it is open with another size"));
    drop(first);
    assert!(staging.begin(sample.spec).expect("it is the same").have().is_full());
    drop(second);
    assert!(staging.held.lock().is_empty(), "nobody holds it");
    assert!(staging.begin(sample.spec).expect("it lies there").have().is_full());
}

#[test]
fn a_part_that_is_let_go_and_taken_up_by_many_is_never_called_busy() {
    let (world, sample) = (World::new(), Sample::new(2, 100));
    let staging = world.open();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(staging.begin(sample.spec).expect("it is ours"))));
        }
    });
    assert_eq!(staging.parts().expect("readable"), [sample.spec]);
}

#[test]
fn of_two_processes_over_one_folder_the_second_is_refused() {
    let (world, sample) = (World::new(), Sample::new(3, 100));
    let (staging, other) = (world.open(), world.open());
    let part = staging.begin(sample.spec).expect("there is room");
    assert!(busy(&fault(other.begin(sample.spec).expect_err("it is held"))));
    let larger = BlobSpec { size_bytes: 200, ..sample.spec };
    assert!(busy(&fault(other.begin(larger).expect_err("it is held"))));
    assert!(busy(&other.forget(sample.spec.sha256).expect_err("it is held")));
    sample.write(&part, 0);
    drop(part);
    assert!(other.begin(sample.spec).expect("it is free").have().is_full());
}

#[test]
fn what_is_forgotten_is_begun_anew_beside_those_who_still_hold_it() {
    let (world, sample) = (World::new(), Sample::new(4, 100));
    let staging = world.open();
    staging.forget(sample.spec.sha256).expect("there is none");
    let old = sample.sealed(&staging);
    staging.forget(sample.spec.sha256).expect("ours");
    assert!(staging.parts().expect("readable").is_empty());
    let new = staging.begin(sample.spec).expect("there is room");
    assert_eq!((old.have().ones(), new.have().ones()), (1, 0));
    let mut buffer = Vec::new();
    assert!(old.check(0, &mut buffer).expect("its bytes have no name, and are there"));
    assert!(!disk::is_at(old.data(), old.data_path()) && disk::is_at(new.data(), new.data_path()));
    drop(old);
    assert!(busy(&fault(world.open().begin(sample.spec).expect_err("the new one is held"))));
    drop(staging.begin(sample.spec).expect("it is the new one"));
    assert!(staging.held.lock().contains_key(&sample.spec.sha256));
}

#[test]
fn a_full_disk_is_met_when_the_part_begins() {
    let (world, sample) = (World::new(), Sample::new(5, 100_000));
    let staging = world.open();
    let free = |free_bytes| Some(Space { free_bytes });
    let full = fault(staging.begin_within(sample.spec, free(99_999)).expect_err("one byte is missing"));
    assert!(full.is_full(), "{full}");
    assert!(full.to_string().starts_with("set room aside for "), "{full}");
    assert!(names(&world.root().join("parts")).is_empty(), "nothing holds room for nothing");
    let unknown = staging.begin_within(sample.spec, None).expect("nobody knows better");
    sample.write(&unknown, 0);
    drop(unknown);
    // What it holds already is not needed once more.
    let allocated = staging.allocated_bytes(sample.spec);
    assert!(staging.begin_within(sample.spec, free(100_000 - allocated)).expect("it fits").have().is_full());
    let endless = BlobSpec { size_bytes: u64::MAX, sha256: Digest([1; 32]) };
    assert!(fault(staging.begin(endless).expect_err("no file is so large")).to_string().starts_with("begin "));
}

#[test]
fn a_part_takes_its_room_at_once() {
    let (world, sample) = (World::new(), Sample::new(6, 3 << 20));
    let staging = world.open();
    assert_eq!(
        (staging.allocated_bytes(sample.spec), staging.written_at(sample.spec.sha256).expect("asked")),
        (0, None)
    );
    let part = staging.begin(sample.spec).expect("there is room");
    let found = part.data().metadata().expect("ours");
    assert_eq!(found.len(), sample.spec.size_bytes);
    // Where the file system sets no room aside, the file has its length and little else.
    let allocated = staging.allocated_bytes(sample.spec);
    assert!(allocated == sample.spec.size_bytes || allocated < 64 << 10, "{allocated}");
    assert_eq!(staging.allocated_bytes(BlobSpec { size_bytes: 5, ..sample.spec }), 0, "another file");
    assert!(staging.written_at(sample.spec.sha256).expect("asked").is_some_and(|written| written > Timestamp(0)));
}

#[test]
fn the_room_of_what_did_not_come_is_given_back_and_set_aside_again() {
    let (world, sample) = (World::new(), Sample::new(14, 3 * CHUNK_BYTES + 5_000));
    let staging = world.open();
    staging.give_back_room(sample.spec).expect("there is none");
    let begun = staging.begin(sample.spec).expect("there is room");
    let whole = staging.allocated_bytes(sample.spec);
    sample.write(&begun, 1);
    // Whether somebody holds it or nobody does.
    for part in [Some(begun), None] {
        staging.give_back_room(sample.spec).expect("ours");
        let left = staging.allocated_bytes(sample.spec);
        assert!(left < 2 * CHUNK_BYTES, "{left} of {whole}");
        drop(part);
        let part = staging.begin(sample.spec).expect("there is room");
        assert!(part.have().get(1) && part.check(1, &mut Vec::new()).expect("readable"));
        assert_eq!(part.have().ones(), 1);
        // Where the file system sets no room aside, there is only what was written.
        let again = staging.allocated_bytes(sample.spec);
        assert!(whole < sample.spec.size_bytes || again == sample.spec.size_bytes, "{again}");
    }
    let part = sample.sealed(&staging);
    let before = staging.allocated_bytes(sample.spec);
    staging.give_back_room(sample.spec).expect("ours");
    assert_eq!(staging.allocated_bytes(sample.spec), before, "all of it came");
    drop(part);
    assert!(staging.begin(sample.spec).expect("it lies there").have().is_full());
}

#[test]
fn a_part_of_which_nothing_came_goes_with_its_room() {
    let (world, sample) = (World::new(), Sample::new(15, 5_000));
    let staging = world.open();
    drop(staging.begin(sample.spec).expect("there is room"));
    let other = BlobSpec { size_bytes: 6_000, ..sample.spec };
    staging.give_back_room(other).expect("it is another file");
    assert_eq!(staging.parts().expect("readable"), [sample.spec]);
    staging.give_back_room(sample.spec).expect("ours");
    assert!(names(&world.root().join("parts")).is_empty());
    let part = staging.begin(sample.spec).expect("there is room");
    assert!(busy(&world.open().give_back_room(sample.spec).expect_err("another process is at work")));
    drop(part);
}

/// A beginning that was cut off: which files are there, and what they hold.
#[test]
fn whatever_a_killed_beginning_left_the_part_begins() {
    let sample = Sample::new(7, 5_000);
    let header = slots::encode_header(sample.spec);
    let other = slots::encode_header(BlobSpec { size_bytes: 5_001, ..sample.spec });
    let (some, short) = (vec![7_u8; 5_000], vec![7_u8; 4_999]);
    type Row<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);
    let rows: [Row<'_>; 9] = [
        (None, Some(&[])),
        (Some(&[]), Some(&[])),
        (Some(&some), None),
        (None, Some(&header)),
        (Some(&some), Some(&[0; 12_320])),
        (Some(&some), Some(&header[..55])),
        (Some(&some), Some(&other)),
        (Some(&short), Some(&header)),
        (Some(&some), Some(&header)),
    ];
    let world = World::new();
    let staging = world.open();
    let (data, state) = staging.paths(sample.spec.sha256);
    for (number, (data_bytes, state_bytes)) in rows.into_iter().enumerate() {
        staging.forget(sample.spec.sha256).expect("ours");
        for (path, bytes) in [(&data, data_bytes), (&state, state_bytes)] {
            if let Some(bytes) = bytes {
                fs::write(path, bytes).expect("there is room");
            }
        }
        let part = staging.begin(sample.spec).expect("there is room");
        assert_eq!(part.have().ones(), 0, "{number}");
        assert_eq!(fs::metadata(&state).expect("it is there").len(), 4_096 + 8_192 + 32, "{number}");
        sample.write(&part, 0);
        part.seal(sample.spec.sha256).expect("it is whole");
        drop(part);
        assert!(world.open().begin(sample.spec).expect("it lies there").have().is_full(), "{number}");
    }
}

#[test]
fn bytes_that_are_published_are_never_written_to() {
    let (world, sample) = (World::new(), Sample::new(8, 100));
    let staging = world.open();
    let part = sample.sealed(&staging);
    let published = world.0.path().join("published");
    fs::hard_link(part.data_path(), &published).expect("one disk");
    drop(part);
    let part = staging.begin(sample.spec).expect("there is room");
    assert_eq!(part.have().ones(), 0, "it began anew");
    part.write(0, &[0; 100], [0; 32]).expect("there is room");
    assert_eq!(fs::read(&published).expect("readable"), sample.bytes);
}

#[test]
fn what_others_put_in_the_place_of_a_part_leads_nowhere() {
    let (world, sample) = (World::new(), Sample::new(9, 100));
    let staging = world.open();
    let (data, state) = staging.paths(sample.spec.sha256);
    let outside = world.0.path().join("outside");
    fs::write(&outside, b"of somebody else").expect("there is room");
    for path in [&data, &state] {
        staging.forget(sample.spec.sha256).expect("ours");
        symlink(&outside, path).expect("there is room");
        sample.sealed(&staging);
        assert!(fs::symlink_metadata(path).expect("it is there").is_file());
        staging.forget(sample.spec.sha256).expect("ours");
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("there is room");
        sample.sealed(&staging);
        assert!(fs::symlink_metadata(path).expect("it is there").is_file());
    }
    assert_eq!(fs::read(&outside).expect("readable"), b"of somebody else");
    staging.forget(sample.spec.sha256).expect("ours");
    fs::create_dir(&data).expect("there is room");
    let refused = fault(staging.begin(sample.spec).expect_err("a folder is in the way"));
    assert!(refused.to_string().starts_with("remove "), "{refused}");
}

#[test]
fn nobody_else_looks_into_the_folder() {
    let world = World::new();
    fs::create_dir(world.root()).expect("there is room");
    fs::set_permissions(world.root(), Permissions::from_mode(0o777)).expect("ours");
    let staging = world.open();
    for folder in ["", "parts", "manifests"] {
        assert_eq!(mode(&world.root().join(folder)), 0o700, "{folder}");
    }
    let part = staging.begin(Sample::new(10, 10).spec).expect("there is room");
    assert_eq!(mode(part.data_path()), 0o600);
    assert_eq!(mode(&part.data_path().with_extension("state")), 0o600);
}

#[test]
fn a_folder_that_is_none_of_ours_is_refused() {
    let world = World::new();
    let elsewhere = world.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("there is room");
    symlink(&elsewhere, world.root()).expect("there is room");
    let refused = Staging::open(&world.root(), None).expect_err("a link");
    assert_eq!(refused.source.kind(), ErrorKind::NotADirectory);
    fs::remove_file(world.root()).expect("ours");
    fs::write(world.root(), b"").expect("there is room");
    assert_eq!(Staging::open(&world.root(), None).expect_err("a file").source.kind(), ErrorKind::NotADirectory);
    assert!(names(&elsewhere).is_empty());
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let world = World::new();
    let place = world.0.path().join("absent/.ollamax");
    let owner = Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let refused = Staging::open(&place, Some(owner)).expect_err("there is no store");
    assert_eq!(refused.source.kind(), ErrorKind::NotFound);
    assert!(Staging::open(&place, None).is_ok(), "our own data directory is made");
}

/// Root gives what it makes to the owner of the store; everybody else keeps it and is not refused for that.
#[test]
fn what_is_staged_belongs_to_the_owner_of_the_store_where_we_may() {
    let (world, sample) = (World::new(), Sample::new(11, 10));
    let foreign = Owner { uid: 65_534, gid: 65_534 };
    let staging = Staging::open(&world.root(), Some(foreign)).expect("ours");
    let part = sample.sealed(&staging);
    let expected = if samples::may_give(world.0.path()) { (foreign.uid, foreign.gid) } else { ids(world.0.path()) };
    for path in [world.root(), world.root().join("parts"), part.data_path().to_owned()] {
        assert_eq!(ids(&path), expected, "{}", path.display());
    }
}

fn ids(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).expect("it is there");
    (found.uid(), found.gid())
}

/// Rights are asked of the system: root is refused nothing, everybody else is told what was refused.
#[test]
fn a_folder_without_rights_is_told_of() {
    let world = World::new();
    let staging = world.open();
    let parts = world.root().join("parts");
    fs::set_permissions(&parts, Permissions::from_mode(0o500)).expect("ours");
    let begun = staging.begin(Sample::new(12, 10).spec);
    fs::set_permissions(&parts, Permissions::from_mode(0o700)).expect("ours");
    if geteuid().is_root() {
        assert!(begun.is_ok());
    } else {
        let refused = fault(begun.expect_err("it may not be written"));
        assert!(refused.is_denied(), "{refused}");
    }
}

/// What another user left in our folder, as far as the system keeps us from it: root it keeps from nothing.
#[test]
fn a_part_that_may_not_be_opened_begins_anew() {
    let (world, sample) = (World::new(), Sample::new(13, 10));
    let staging = world.open();
    for number in [0, 1] {
        drop(sample.sealed(&staging));
        let (data, state) = staging.paths(sample.spec.sha256);
        fs::set_permissions(if number == 0 { data } else { state }, Permissions::from_mode(0o000)).expect("ours");
        assert_eq!(staging.parts().expect("readable"), [sample.spec], "{number}");
        let part = staging.begin(sample.spec).expect("there is room");
        assert_eq!(part.have().is_full(), geteuid().is_root(), "{number}");
    }
}

#[test]
fn parts_are_listed_whatever_their_state() {
    let world = World::new();
    let staging = world.open();
    let samples: Vec<Sample> = (0..4).map(|seed| Sample::new(seed, 100 + seed)).collect();
    for sample in &samples {
        drop(sample.sealed(&staging));
    }
    let paths = |number: usize| staging.paths(samples[number].spec.sha256);
    fs::remove_file(paths(1).0).expect("ours");
    fs::remove_file(paths(2).1).expect("ours");
    OpenOptions::new().write(true).open(paths(3).1).and_then(|state| state.set_len(7)).expect("ours");
    for odd in ["sha256-12.part", "notes", &format!("sha256-{}.part", "A".repeat(64)), "sha256-.state"] {
        File::create(world.root().join("parts").join(odd)).expect("there is room");
    }
    let mut expected: Vec<BlobSpec> = samples.iter().map(|sample| sample.spec).collect();
    expected.sort_unstable();
    assert_eq!(staging.parts().expect("readable"), expected);
    for spec in expected {
        staging.forget(spec.sha256).expect("ours");
    }
    assert!(staging.parts().expect("readable").is_empty());
}

#[test]
fn drafts_that_were_left_behind_go_after_an_hour() {
    let world = World::new();
    let staging = world.open();
    let folder = world.root().join("manifests");
    let name: ModelName = "llama3.2".parse().expect("a name");
    let draft = staging.draft_path(&name);
    fs::write(&draft, b"{}").expect("there is room");
    fs::create_dir(folder.join("folder.1")).expect("there is room");
    let made = fs::metadata(&draft).and_then(|found| found.modified()).map(disk::moment).expect("it is there");
    staging.clear_drafts(made).expect("ours");
    assert_eq!(names(&folder).len(), 2);
    staging.clear_drafts(made.plus_ms(2 * DRAFT_KEPT_MS)).expect("ours");
    assert!(names(&folder).is_empty());
}
