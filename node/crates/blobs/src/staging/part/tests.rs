//! Parts over real files: what counts, what is lost, and that nothing is ever invented.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use ollamax_types::chunk::CHUNK_BYTES;

use crate::staging::Staging;
use crate::staging::samples::Sample;
use crate::staging::slots::{decode_slot, latest};

use super::*;

/// A folder over which one process after the other runs.
struct World(TempDir);

// === impl World ===

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temp"))
    }

    /// What a process that has just started finds.
    fn begin(&self, sample: &Sample) -> Part {
        let staging = Staging::open(&self.0.path().join("staging"), None).expect("ours");
        staging.begin(sample.spec).expect("there is room")
    }

    fn data(&self, sample: &Sample) -> PathBuf {
        self.0.path().join(format!("staging/parts/sha256-{}.part", sample.spec.sha256))
    }

    fn state(&self, sample: &Sample) -> PathBuf {
        self.data(sample).with_extension("state")
    }

    /// Changes bytes behind everybody's back.
    fn damage(&self, sample: &Sample, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(self.data(sample)).expect("ours");
        file.write_all_at(bytes, at).expect("there is room");
    }

    /// A part of other files than its own, of which nothing is there.
    fn odd(&self, sample: &Sample, data: &str, state: &str) -> Part {
        self.odd_with(sample, data, state, Known::nothing(sample.chunks()))
    }

    fn odd_with(&self, sample: &Sample, data: &str, state: &str, known: Known) -> Part {
        let path = |name: &str| self.0.path().join(name);
        let open = |name: &str| File::options().read(true).write(true).create(true).truncate(false).open(path(name));
        let files = Files {
            data: open(data).expect("it is there"),
            data_path: path(data),
            state: open(state).expect("it is there"),
            state_path: path(state),
        };
        Part::new(sample.spec, files, known, Arc::default())
    }
}

fn set(part: &Part) -> Vec<u32> {
    part.have().runs().flatten().collect()
}

fn check(part: &Part, index: u32) -> bool {
    part.check(index, &mut Vec::new()).expect("readable")
}

fn fault(error: PartError) -> Fault {
    match error {
        PartError::Fault(fault) => fault,
        other => panic!("{other} is no fault of the disk"),
    }
}

#[test]
fn what_was_written_is_there_after_the_process_died() {
    let (world, sample) = (World::new(), Sample::new(1, 2 * CHUNK_BYTES + 5));
    let part = world.begin(&sample);
    assert_eq!((part.spec(), set(&part)), (sample.spec, vec![]));
    sample.write(&part, 2);
    sample.write(&part, 0);
    drop(part);
    let part = world.begin(&sample);
    assert_eq!(set(&part), [0, 2]);
    assert_eq!([0, 1, 2, 3].map(|index| part.hash_of(index)), [Some(sample.hash(0)), None, Some(sample.hash(2)), None]);
    let mut buffer = Vec::new();
    for index in [2, 0] {
        assert!(part.check(index, &mut buffer).expect("readable"));
        assert_eq!(buffer, sample.chunk(index));
        part.read(index, &mut buffer).expect("it is there");
        assert_eq!(buffer, sample.chunk(index));
    }
    sample.write(&part, 1);
    part.seal(sample.spec.sha256).expect("it is whole");
    assert_eq!(part.tree().expect("it is whole").root().0, *blake3::hash(&sample.bytes).as_bytes());
    assert!(fs::read(world.data(&sample)).expect("readable") == sample.bytes);
}

#[test]
fn only_the_chunks_of_the_known_tree_are_kept() {
    let (world, sample) = (World::new(), Sample::new(3, 3 * CHUNK_BYTES + 5));
    let hashes: Vec<ChunkHash> = (0..sample.chunks()).map(|index| sample.hash(index)).collect();
    let tree = Tree::of(sample.spec.size_bytes, hashes).expect("a hash for each chunk");
    let part = world.begin(&sample);
    sample.write(&part, 0);
    let mut other = sample.chunk(1).to_vec();
    other[0] ^= 1;
    part.write(1, &other, chunk_hash(sample.spec.size_bytes, 1, &other)).expect("there is room");
    sample.write(&part, 3);
    assert_eq!(part.agree_with(&tree).expect("ours"), 1);
    assert_eq!(set(&part), [0, 3]);
    assert_eq!(part.agree_with(&tree).expect("ours"), 0, "once");
    drop(part);
    let part = world.begin(&sample);
    assert_eq!(set(&part), [0, 3], "nor after the process died");
    sample.write(&part, 1);
    assert_eq!(part.agree_with(&tree).expect("ours"), 0);
    let smaller = Tree::of(5, vec![ChunkHash::default()]).expect("one hash");
    fault(part.agree_with(&smaller).expect_err("another size"));
}

#[test]
fn a_chunk_of_which_nothing_is_told_stays_and_one_that_is_told_otherwise_goes() {
    let (world, sample) = (World::new(), Sample::new(4, 3 * CHUNK_BYTES + 5));
    let part = world.begin(&sample);
    for index in 0..3 {
        sample.write(&part, index);
    }
    let told = |index: u32| match index {
        0 => Some(sample.hash(0)),
        1 | 3 => Some([7; 32]),
        _ => None,
    };
    let gone = |chunks| part.agree_with_told(chunks, &told).expect("ours");
    assert_eq!(gone(2..4), Vec::<u32>::new(), "it was not asked for the first ones");
    assert_eq!(gone(0..4), [1]);
    assert_eq!(set(&part), [0, 2]);
    assert_eq!(gone(0..4), Vec::<u32>::new(), "once");
}

#[test]
fn an_empty_file_is_whole_at_once() {
    let (world, sample) = (World::new(), Sample::of(vec![]));
    let part = world.begin(&sample);
    assert!(part.have().is_full());
    part.seal(sample.spec.sha256).expect("it is whole");
    assert_eq!(part.tree().expect("it is whole").root().0, *blake3::hash(&[]).as_bytes());
    drop(part);
    assert!(world.begin(&sample).have().is_full());
}

/// What of chunks 1 and 2 is left when this byte of the state file is not what it was; 2 was there before 1.
fn left_of(at: usize) -> Vec<u32> {
    match at {
        0..56 => vec![],
        8_192..8_209 | 12_320..12_352 => vec![2],
        12_352..12_384 => vec![1],
        _ => vec![1, 2],
    }
}

/// What is left when the state file ends here.
fn left_before(end: usize) -> Vec<u32> {
    match end {
        0..12_352 => vec![],
        12_352..12_384 => vec![1],
        _ => vec![1, 2],
    }
}

#[test]
fn each_cut_of_the_state_file_loses_chunks_and_never_invents_one() {
    let (world, sample) = (World::new(), Sample::new(2, 2 * CHUNK_BYTES + 1_000));
    let (data, state) = (world.data(&sample), world.state(&sample));
    let part = world.begin(&sample);
    sample.write(&part, 2);
    sample.write(&part, 1);
    drop(part);
    let (whole, bytes) = (fs::read(&state).expect("readable"), fs::read(&data).expect("readable"));
    assert_eq!(whole.len(), 12_384);
    let check_left = |state_bytes: &[u8], expected: &[u32], what: &str| {
        fs::write(&state, state_bytes).expect("ours");
        let part = world.begin(&sample);
        let left: Vec<u32> = set(&part).into_iter().filter(|index| check(&part, *index)).collect();
        assert_eq!(left, expected, "{what}");
        assert_eq!(set(&part), expected, "{what}");
        drop(part);
        if left.is_empty() {
            // It may have begun anew.
            fs::write(&data, &bytes).expect("ours");
        }
    };
    check_left(&whole, &[1, 2], "nothing");
    let flipped = (0..64).step_by(5).chain(4_090..4_116).chain(8_190..8_212).chain((12_280..12_384).step_by(3));
    for at in flipped {
        let mut state_bytes = whole.clone();
        state_bytes[at] ^= 0x10;
        check_left(&state_bytes, &left_of(at), &format!("byte {at} is another"));
    }
    let ends = [0, 1, 55, 56, 4_096, 4_112, 4_113, 8_208, 8_209, 12_288, 12_319, 12_320, 12_351, 12_352, 12_383];
    for end in ends {
        check_left(&whole[..end], &left_before(end), &format!("it ends at {end}"));
    }
    check_left(&[&whole[..], &[7; 100]].concat(), &[1, 2], "there is more behind it");
}

#[test]
fn bytes_that_no_slot_knows_of_are_fetched_again() {
    let (world, sample) = (World::new(), Sample::new(3, CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    sample.write(&part, 1);
    let older = fs::read(world.state(&sample)).expect("readable");
    sample.write(&part, 0);
    drop(part);
    fs::write(world.state(&sample), older).expect("ours");
    let part = world.begin(&sample);
    assert_eq!(set(&part), [1]);
    sample.write(&part, 0);
    assert!(check(&part, 0) && check(&part, 1));
}

#[test]
fn a_chunk_that_a_power_cut_lost_is_cleared_by_the_check() {
    let (world, sample) = (World::new(), Sample::new(4, 2 * CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    (0..3).for_each(|index| sample.write(&part, index));
    part.seal(sample.spec.sha256).expect("it is whole");
    world.damage(&sample, CHUNK_BYTES + 8_192, &[0; 4_096]);
    let mut buffer = vec![1];
    assert!(!part.check(1, &mut buffer).expect("readable"));
    assert!(buffer.is_empty(), "nobody hashes damaged bytes");
    assert_eq!(set(&part), [0, 2]);
    assert!(!part.is_sealed() && part.seal(sample.spec.sha256).is_err());
    drop(part);
    // The file ends in the middle of its last chunk, too.
    let part = world.begin(&sample);
    assert_eq!(set(&part), [0, 2], "it stays cleared");
    let file = File::options().write(true).open(world.data(&sample)).expect("ours");
    file.set_len(2 * CHUNK_BYTES + 1).expect("ours");
    assert!(check(&part, 0) && !check(&part, 2) && !check(&part, 1) && !check(&part, 77));
    sample.write(&part, 1);
    sample.write(&part, 2);
    part.seal(sample.spec.sha256).expect("it is whole again");
    assert!((0..3).all(|index| check(&part, index)));
}

#[test]
fn what_is_no_chunk_is_refused() {
    let (world, sample) = (World::new(), Sample::new(5, CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    let error = |index: u32, bytes: &[u8]| part.write(index, bytes, [0; 32]).expect_err("no chunk").to_string();
    let sha256 = sample.spec.sha256;
    assert_eq!(error(0, &[1; 9]), format!("chunk 0 of {sha256} has 9 bytes, not 4194304"));
    assert_eq!(error(1, &[1; 10]), format!("chunk 1 of {sha256} has 10 bytes, not 9"));
    assert_eq!(error(2, &[]), format!("chunk 2 of {sha256} is not there"));
    let read = part.read(1, &mut Vec::new()).expect_err("it has not arrived");
    assert_eq!(read.to_string(), format!("chunk 1 of {sha256} is not there"));
    assert!(part.tree().is_err_and(|error| error.to_string() == format!("{sha256} is not complete")));
    assert!(set(&part).is_empty());
}

#[test]
fn a_chunk_that_is_there_stays_as_it_is() {
    let (world, sample) = (World::new(), Sample::new(6, CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    sample.write(&part, 1);
    part.write(1, &[0; 9], [0; 32]).expect("nothing is to be done");
    assert!(check(&part, 1));
    assert_eq!(part.hash_of(1), Some(sample.hash(1)));
}

#[test]
fn writers_of_one_chunk_write_it_once() {
    let (world, sample) = (World::new(), Sample::new(7, 2 * CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..3).for_each(|index| sample.write(&part, index)));
        }
    });
    part.seal(sample.spec.sha256).expect("it is whole");
    assert!((0..3).all(|index| check(&part, index)));
    // One slot for each chunk, and one for the seal.
    assert_eq!(part.0.known().epoch, 4);
}

#[test]
fn a_part_is_sealed_by_its_digest_alone_and_for_this_process_alone() {
    let (world, sample) = (World::new(), Sample::new(8, 1_000));
    let part = world.begin(&sample);
    let mode = || fs::metadata(world.data(&sample)).expect("it is there").mode() & 0o7777;
    assert!(
        matches!(part.seal(sample.spec.sha256), Err(PartError::Incomplete(sha256)) if sha256 == sample.spec.sha256)
    );
    sample.write(&part, 0);
    let (wanted, found) = (sample.spec.sha256, Digest([9; 32]));
    let error = part.seal(found).expect_err("other bytes").to_string();
    assert_eq!(error, format!("{wanted} was promised, and the bytes make {found}"));
    assert_eq!((part.is_sealed(), mode()), (false, 0o600));
    part.seal(wanted).expect("it is whole");
    part.seal(wanted).expect("it is sealed");
    assert_eq!((part.is_sealed(), mode()), (true, 0o644));
    drop(part);
    let part = world.begin(&sample);
    assert!(part.have().is_full() && !part.is_sealed(), "what another process believed is a claim");
    assert!(check(&part, 0));
    part.seal(wanted).expect("it is whole");
    assert!(part.is_sealed());
}

#[test]
fn a_disk_that_fills_takes_nothing_that_counts() {
    let (world, sample) = (World::new(), Sample::new(9, 1_000));
    for (data, state, at) in [("/dev/full", "state", "/dev/full"), ("data", "/dev/full", "/dev/full")] {
        let part = world.odd(&sample, data, state);
        let fault = fault(part.write(0, sample.chunk(0), sample.hash(0)).expect_err("the disk is full"));
        assert!(fault.is_full(), "{fault}");
        assert_eq!((fault.action, &*fault.path), ("write", at));
        assert_eq!((set(&part), part.hash_of(0)), (vec![], None));
    }
}

#[test]
fn chunks_that_a_disk_took_and_lost_do_not_count() {
    let (world, sample) = (World::new(), Sample::new(10, CHUNK_BYTES + 9));
    // This takes everything and cannot be asked to keep it.
    let part = world.odd(&sample, "/dev/null", "state");
    sample.write(&part, 1);
    assert_eq!(set(&part), [1]);
    let lost = fault(part.sync().expect_err("it cannot"));
    assert_eq!((lost.action, &*lost.path), ("sync", "/dev/null"));
    assert!(set(&part).is_empty());
    let later = fault(part.write(1, sample.chunk(1), sample.hash(1)).expect_err("no others are taken"));
    assert_eq!(later.to_string(), lost.to_string());
    assert!(part.sync().is_err(), "it does not get better by asking again");
    assert!(set(&part).is_empty());
    let state = fs::read(world.0.path().join("state")).expect("readable");
    let slot = |at: usize| decode_slot(2, state.get(at..at + 17)?);
    let (_, slot) = latest([slot(4_096), slot(8_192)]).expect("one was written");
    assert_eq!(slot.bits, Bits::new(2), "the next start knows it too");
}

#[test]
fn what_an_earlier_process_wrote_counts_as_lost_too() {
    let (world, sample) = (World::new(), Sample::new(13, CHUNK_BYTES + 9));
    let hashes = vec![sample.hash(0), sample.hash(1)];
    let part = world.odd_with(&sample, "/dev/null", "state", Known::new(Bits::full(2), hashes, 4, 1));
    assert!(part.have().is_full());
    let lost = fault(part.seal(sample.spec.sha256).expect_err("it cannot be made durable"));
    assert_eq!(lost.action, "sync");
    assert!(set(&part).is_empty() && !part.is_sealed());
}

#[test]
fn a_part_is_made_durable_from_time_to_time() {
    let (world, sample) = (World::new(), Sample::new(11, CHUNK_BYTES + 9));
    let part = world.begin(&sample);
    let unsynced = || {
        let known = part.0.known();
        (known.unsynced.clone(), known.unsynced_bytes)
    };
    sample.write(&part, 1);
    assert_eq!(unsynced(), (vec![1], 9));
    part.0.known().unsynced_bytes = SYNC_BYTES - CHUNK_BYTES;
    sample.write(&part, 0);
    assert_eq!(unsynced(), (vec![], 0));
}

#[test]
fn the_files_of_a_part_have_the_bytes_of_version_one() {
    let golden = include_str!("../../../tests/golden/part-v1.hex").lines().map(|line| {
        let (at, bytes) = line.split_once(' ').expect("a place and bytes");
        (at.parse::<usize>().expect("a place"), hex::decode(bytes).expect("hexadecimal digits"))
    });
    let golden: Vec<(usize, Vec<u8>)> = golden.collect();
    let world = World::new();
    let spec = BlobSpec { sha256: Digest([0xab; 32]), size_bytes: 9 * (1 << 20) + 5 };
    let sample = Sample { bytes: vec![7; 9 * (1 << 20) + 5], spec };
    let part = world.begin(&sample);
    for index in [0, 2] {
        let hash = [0x11 * (index as u8 + 1); 32];
        part.write(index, sample.chunk(index), hash).expect("there is room");
    }
    drop(part);
    let mut state = fs::read(world.state(&sample)).expect("readable");
    let piece = |(at, bytes): &(usize, Vec<u8>)| -> Range<usize> { *at..*at + bytes.len() };
    // Header and hashes are those of the sample; the slots have other epochs, of which the second says 0 and 2.
    for number in [0, 3, 5] {
        assert_eq!(state[piece(&golden[number])], golden[number].1, "{number}");
    }
    assert_eq!(state[8_192..8_209], encode_slot(2, false, &part_bits(&[0, 2])));
    assert!(state[56..4_096].iter().chain(&state[8_209..12_288]).all(|byte| *byte == 0));
    for number in [1, 2, 4] {
        state[piece(&golden[number])].copy_from_slice(&golden[number].1);
    }
    fs::write(world.state(&sample), state).expect("ours");
    let part = world.begin(&sample);
    assert!(part.have().is_full());
    assert_eq!([0, 1, 2].map(|index| part.hash_of(index)), [Some([0x11; 32]), Some([0x22; 32]), Some([0x33; 32])]);
    assert!(!check(&part, 0), "the sample's hashes are no hashes");
    let known = part.0.known();
    assert_eq!((known.epoch, known.slot), (8, 1), "the older slot was written over");
}

fn part_bits(set: &[u32]) -> Bits {
    let mut bits = Bits::new(3);
    for index in set {
        bits.set(*index);
    }
    bits
}

/// What can happen to a part.
#[derive(Debug, Clone)]
enum Event {
    Write(u32),
    Damage(u32),
    Check(u32),
    Sync,
    Kill,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let index = 0..2_u32;
    let event = prop_oneof![
        3 => index.clone().prop_map(Event::Write),
        1 => index.clone().prop_map(Event::Damage),
        2 => index.prop_map(Event::Check),
        1 => Just(Event::Sync),
        2 => Just(Event::Kill),
    ];
    prop::collection::vec(event, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_passes_the_check_is_what_was_written_whatever_happens(events in events()) {
        let (world, sample) = (World::new(), Sample::new(12, CHUNK_BYTES + 777));
        let mut part = world.begin(&sample);
        let (mut there, mut damaged) = (BTreeSet::new(), BTreeSet::new());
        for event in events {
            match event {
                Event::Write(index) => {
                    sample.write(&part, index);
                    if there.insert(index) {
                        damaged.remove(&index);
                    }
                }
                Event::Damage(index) => {
                    let at = u64::from(index) * CHUNK_BYTES + 700;
                    let place = usize::try_from(at).expect("small");
                    world.damage(&sample, at, &[!sample.bytes[place]]);
                    damaged.insert(index);
                }
                Event::Check(index) => {
                    let sound = there.contains(&index) && !damaged.contains(&index);
                    prop_assert_eq!(check(&part, index), sound);
                    if !sound {
                        there.remove(&index);
                    }
                }
                Event::Sync => part.sync().expect("there is room"),
                Event::Kill => {
                    drop(part);
                    part = world.begin(&sample);
                }
            }
            prop_assert_eq!(set(&part), there.iter().copied().collect::<Vec<u32>>());
        }
    }
}
