//! Bundles as they are written, and as they should never be.

use std::io::{Read, Write as _};

use proptest::prelude::*;

use ollamax_types::chunk::CHUNK_BYTES;

use crate::staging::samples::Sample;
use crate::tree::Tree;

use super::tar::BLOCK_BYTES;
use super::*;

/// Length of the bundle that another program made.
const GOLDEN_BYTES: usize = 7_168;
/// Its SHA-256.
const GOLDEN_SHA256: &str = "25a5e29d7d5f20ff1e316ffefcffd00d9e1e8f33295384d78fd4e88c7ccb984d";

/// What a model of these sizes has.
struct Model {
    contents: Contents,
    samples: Vec<Sample>,
}

/// A bundle by its entries, to be put together in other ways.
#[derive(Clone)]
struct Pieces(Vec<(String, Vec<u8>)>);

/// What a reader made of a bundle.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    digest: Digest,
    name: String,
    files: BTreeMap<Digest, Vec<u8>>,
}

// === impl Model ===

impl Model {
    fn new(name: &str, sizes: &[u64]) -> Self {
        let samples: Vec<Sample> = (1..).zip(sizes).map(|(seed, size)| Sample::new(seed, *size)).collect();
        Self::of(name, samples)
    }

    fn of(name: &str, samples: Vec<Sample>) -> Self {
        let layer = |sample: &Sample| {
            let BlobSpec { sha256, size_bytes } = sample.spec;
            format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
        };
        let layers: Vec<String> = samples.iter().map(layer).collect();
        let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        let manifest = Manifest::read(text.as_bytes()).expect("a manifest");
        let roots = samples.iter().map(|sample| (sample.spec.sha256, tree(sample).root())).collect();
        let name = name.parse().expect("a name");
        Self { contents: Contents::new(name, manifest, &roots).expect("a root for each"), samples }
    }

    fn sample(&self, spec: BlobSpec) -> &Sample {
        self.samples.iter().find(|sample| sample.spec == spec).expect("a file of the model")
    }

    fn written(&self) -> Vec<u8> {
        let mut writer = BundleWriter::begin(Vec::new(), &self.contents).expect("memory");
        for spec in self.contents.files() {
            let sample = self.sample(spec);
            writer.file(spec, &tree(sample), &file(&sample.bytes)).expect("memory");
        }
        writer.finish().expect("memory")
    }

    fn found(&self) -> Found {
        let files = self.samples.iter().map(|sample| (sample.spec.sha256, sample.bytes.clone())).collect();
        Found { digest: self.contents.manifest.digest(), name: self.contents.name.key(), files }
    }
}

// === impl Pieces ===

impl Pieces {
    fn of(bundle: &[u8]) -> Self {
        let mut pieces = Vec::new();
        let mut at = 0;
        loop {
            let block = bundle[at..at + BLOCK_BYTES].try_into().expect("a block");
            let Some(head) = tar::read(&block).expect("a head") else { return Self(pieces) };
            let start = at + BLOCK_BYTES;
            let end = start + small(head.size_bytes);
            pieces.push((head.name, bundle[start..end].to_vec()));
            at = end + small(tar::padding(head.size_bytes));
        }
    }

    /// Where the entry stands whose name begins so.
    fn find(&self, front: &str) -> usize {
        self.0.iter().position(|(name, _)| name.starts_with(front)).expect("such an entry")
    }

    fn bytes_of(&mut self, front: &str) -> &mut Vec<u8> {
        let at = self.find(front);
        &mut self.0[at].1
    }

    fn packed(&self) -> Vec<u8> {
        let mut bundle = Vec::new();
        for (name, bytes) in &self.0 {
            bundle.extend(tar::head(name, bytes.len() as u64).expect("it fits"));
            bundle.extend(bytes);
            bundle.resize(bundle.len() + small(tar::padding(bytes.len() as u64)), 0);
        }
        bundle.resize(bundle.len() + 2 * BLOCK_BYTES, 0);
        bundle
    }

    /// Makes the sums those of the changed page, so that what else is wrong is looked at.
    fn summed(mut self) -> Self {
        let page = self.bytes_of(PAGE).clone();
        let sha256 = Digest(Sha256::digest(&page).into());
        let sums = String::from_utf8(self.bytes_of(SUMS).clone()).expect("text");
        let (_, rest) = sums.split_once('\n').expect("several lines");
        *self.bytes_of(SUMS) = format!("{sha256}  {PAGE}\n{rest}").into_bytes();
        self
    }

    /// Another text in the page.
    fn paged(mut self, old: &str, new: &str) -> Self {
        let page = String::from_utf8(self.bytes_of(PAGE).clone()).expect("text");
        assert!(page.contains(old), "{page}");
        *self.bytes_of(PAGE) = page.replacen(old, new, 1).into_bytes();
        self.summed()
    }
}

fn small(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

/// Where the bytes of the entry begin whose name begins so.
fn before(bundle: &[u8], front: &str) -> u64 {
    let pieces = Pieces::of(bundle);
    let entries = pieces.0[..pieces.find(front)].iter().map(|(_, bytes)| entry_bytes(bytes.len() as u64));
    entries.sum::<u64>() + BLOCK_BYTES as u64
}

fn tree(sample: &Sample) -> Tree {
    let hashes = (0..sample.chunks()).map(|index| sample.hash(index)).collect();
    Tree::of(sample.spec.size_bytes, hashes).expect("a hash for each chunk")
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("temp");
    file.write_all(bytes).expect("room");
    file
}

fn read(bundle: impl Read) -> Result<Found, BundleError> {
    let mut reader = BundleReader::begin(bundle)?;
    let (mut files, mut buffer) = (BTreeMap::new(), Vec::new());
    while let Some(spec) = reader.next_file()? {
        let mut bytes = Vec::new();
        while let Some((index, hash)) = reader.next_chunk(&mut buffer)? {
            assert_eq!(hash, crate::tree::chunk_hash(spec.size_bytes, index, &buffer));
            bytes.extend_from_slice(&buffer);
        }
        files.insert(spec.sha256, bytes);
    }
    let contents = reader.finish()?;
    Ok(Found { digest: contents.manifest.digest(), name: contents.name.key(), files })
}

fn refusal(bundle: &[u8]) -> String {
    read(bundle).expect_err("it is refused").to_string()
}

#[test]
fn a_model_comes_back_from_its_bundle() {
    let model = Model::new("llama3.2", &[2 * CHUNK_BYTES + 5, 0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 700]);
    let bundle = model.written();
    assert_eq!(bundle.len() as u64, model.contents.bundle_bytes());
    assert_eq!(read(bundle.as_slice()).expect("a bundle"), model.found());
    assert_eq!(model.written(), bundle, "the same model, the same bytes");
    let names: Vec<String> = Pieces::of(&bundle).0.into_iter().map(|(name, _)| name).collect();
    let blob = |at: usize| format!("{BLOBS}{}", model.samples[at].spec.sha256);
    let of_tree = |at: usize| format!("{TREES}{}", model.samples[at].spec.sha256);
    let mut wanted = [PAGE, SUMS, MANIFEST].map(str::to_owned).to_vec();
    wanted.extend([blob(1), blob(2), blob(5), blob(3), of_tree(4), blob(4), of_tree(0), blob(0)]);
    wanted.push("manifests/registry.ollama.ai/library/llama3.2/latest".to_owned());
    assert_eq!(names, wanted);
}

#[test]
fn the_form_is_the_one_that_other_programs_wrote_down() {
    // Made by another program, from the published forms of tar, SHA-256 and BLAKE3.
    let samples = vec![Sample::of(vec![0]), Sample::of(Vec::new())];
    let model = Model::of("registry.ollama.ai/library/Golden:1b", samples);
    let bundle = model.written();
    let sha256 = Digest(Sha256::digest(&bundle).into());
    assert_eq!((bundle.len(), sha256.to_string().as_str()), (GOLDEN_BYTES, GOLDEN_SHA256));
}

#[test]
fn a_reader_may_pass_over_files_and_still_checks_them() {
    let model = Model::new("m", &[10, CHUNK_BYTES + 9]);
    let mut bundle = model.written();
    let passed = |bundle: &[u8]| BundleReader::begin(bundle).and_then(BundleReader::finish);
    assert_eq!(passed(&bundle).expect("sound").files(), model.contents.files());
    let spec = model.samples[1].spec;
    let at = bundle.len() - small(CHUNK_BYTES);
    bundle[at] ^= 4;
    let wanted = format!("piece 0 of {} is damaged", spec.sha256);
    assert_eq!(passed(&bundle).expect_err("damaged").to_string(), wanted);
}

#[test]
fn one_changed_bit_anywhere_is_found_or_changes_nothing() {
    let model = Model::new("m", &[0, 1, 700]);
    let bundle = model.written();
    for at in 0..bundle.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bundle.clone();
            changed[at] ^= bit;
            match read(changed.as_slice()) {
                Ok(found) => {
                    assert_eq!(found, model.found(), "byte {at}");
                    assert_eq!(bundle[at], 0, "only what fills a block up tells nothing: byte {at}");
                }
                Err(error) => {
                    let is_told =
                        error.is_damage() || matches!(error, BundleError::NotABundle(_) | BundleError::Version { .. });
                    assert!(is_told, "byte {at}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_piece_is_named() {
    let model = Model::new("m", &[3 * CHUNK_BYTES + 9]);
    let bundle = model.written();
    let sha256 = model.samples[0].spec.sha256;
    let start = small(before(&bundle, BLOBS));
    for (index, inside) in [(0, 0), (0, CHUNK_BYTES - 1), (2, 2 * CHUNK_BYTES + 77), (3, 3 * CHUNK_BYTES + 8)] {
        let mut changed = bundle.clone();
        changed[start + small(inside)] ^= 0x10;
        assert_eq!(refusal(&changed), format!("piece {index} of {sha256} is damaged"));
    }
    // Without the tree the end of the file tells.
    let mut pieces = Pieces::of(&bundle);
    let at = pieces.find(TREES);
    pieces.0.remove(at);
    assert_eq!(read(pieces.packed().as_slice()).expect("a tree may be missing"), model.found());
    pieces.bytes_of(BLOBS)[5] ^= 1;
    let told = refusal(&pieces.packed());
    assert!(told.starts_with(&format!("{sha256} is not what its name says: its bytes make ")), "{told}");
}

#[test]
fn what_is_cut_at_any_block_is_no_bundle() {
    let model = Model::new("m", &[0, 1, 700, CHUNK_BYTES + 1]);
    let bundle = model.written();
    let check = |length: usize| {
        let error = read(&bundle[..length]).expect_err("cut");
        let wanted = if length < BLOCK_BYTES { "this is no bundle" } else { "the bundle ends too early" };
        assert!(error.to_string().starts_with(wanted), "{length}: {error}");
    };
    let blocks = bundle.len() / BLOCK_BYTES;
    // Of the long file some blocks are as good as all.
    for block in (0..40).chain(blocks - 20..blocks) {
        check(block * BLOCK_BYTES);
        check(block * BLOCK_BYTES + 100);
    }
    assert!(read(bundle.as_slice()).is_ok());
    let told = refusal(&bundle[..small(before(&bundle, MANIFEST))]);
    let at = before(&bundle, MANIFEST);
    assert_eq!(told, format!("the bundle ends too early: at byte {at}, in ollamamax/manifest.json"));
}

#[test]
fn other_files_are_no_bundles() {
    let check = |bytes: &[u8], wanted: &str| assert_eq!(refusal(bytes), format!("this is no bundle: {wanted}"));
    let no_tar = "it is no file of tar, or its front is damaged";
    check(b"", no_tar);
    check(b"GGUF", no_tar);
    check(&[b'x'; 5_000], no_tar);
    check(&[0; 1_024], "it has no files of ollamamax/ at its front");
    let one = |name: &str| Pieces(vec![(name.to_owned(), b"hello".to_vec())]).packed();
    check(&one("hello.txt"), "the files of ollamamax/ are not at its front");
    check(&one("ollamamax/hello.txt"), "it has no files of ollamamax/ at its front");
    let later = |page: &str| refusal(&Pieces(vec![(PAGE.to_owned(), page.as_bytes().to_vec())]).packed());
    let wanted = "the bundle is of version 2; this release reads 1";
    assert_eq!(later(r#"{"version":2,"what":["nobody","knows"]}"#), wanted);
    assert!(later("[]").starts_with("the bundle says of itself what cannot be: ollamamax/bundle.json: "));
}

#[test]
fn what_was_packed_anew_is_read_in_any_order() {
    let model = Model::new("localhost:5000/me/m:x", &[9, CHUNK_BYTES + 9, 2 * CHUNK_BYTES]);
    let pieces = Pieces::of(&model.written());
    let check = |pieces: &Pieces| assert_eq!(read(pieces.packed().as_slice()).expect("a bundle"), model.found());
    let mut sorted = pieces.clone();
    sorted.0.sort_by_key(|(name, _)| (!name.starts_with(OWN), name.clone()));
    check(&sorted);
    sorted.0.reverse();
    let (own, others): (Vec<_>, Vec<_>) = sorted.0.into_iter().partition(|(name, _)| name.starts_with(OWN));
    check(&Pieces([own, others].concat()));
    let mut dotted = pieces.clone();
    for (name, _) in &mut dotted.0 {
        *name = format!("./{name}");
    }
    dotted.0.insert(4, ("./blobs/sha256-not-ours".to_owned(), vec![7; 100_000]));
    dotted.0.insert(4, (format!("./{BLOBS}{}", Digest([9; 32])), b"another model's".to_vec()));
    dotted.0.push(("./manifests/../../etc/passwd".to_owned(), b"x".to_vec()));
    dotted.0.push(("/etc/passwd".to_owned(), b"x".to_vec()));
    check(&dotted);
    let mut late = pieces;
    let at = late.find(TREES);
    let of_tree = late.0.remove(at);
    late.0.push(of_tree);
    check(&late);
}

#[test]
fn folders_and_notes_are_passed_over_and_links_are_refused() {
    let model = Model::new("m", &[9]);
    let bundle = model.written();
    let with = |kind: u8, size: u64, bytes: usize| {
        let mut block = tar::head("blobs", size).expect("it fits");
        block[156] = kind;
        let rest = [&block[..148], b"        ", &block[156..]].concat();
        let sum: u64 = rest.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let at = small(before(&bundle, BLOBS)) - BLOCK_BYTES;
        [&bundle[..at], &block, &vec![0; bytes], &bundle[at..]].concat()
    };
    for (kind, size, bytes) in [(b'5', 0, 0), (b'5', 700, 0), (b'x', 30, 512), (b'g', 600, 1_024), (b'L', 512, 512)] {
        assert_eq!(read(with(kind, size, bytes).as_slice()).expect("passed over"), model.found(), "{kind}");
    }
    for kind in [b'1', b'2', b'3', b'4', b'6'] {
        let wanted = "the bundle says of itself what cannot be: \"blobs\" is no plain file";
        assert_eq!(refusal(&with(kind, 0, 0)), wanted);
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let model = Model::new("m", &[9, CHUNK_BYTES + 9]);
    let pieces = || Pieces::of(&model.written());
    let [short, long] = [0, 1].map(|at| model.samples[at].spec.sha256);
    let manifest = model.contents.manifest.digest();
    let check = |pieces: &Pieces, wanted: &str| {
        let told = refusal(&pieces.packed());
        let told = told.strip_prefix("the bundle says of itself what cannot be: ").unwrap_or(&told);
        assert!(told.starts_with(wanted), "{told}, not {wanted}");
    };
    check(&pieces().paged("\"size_bytes\":9,", "\"size_bytes\":8,"), "its list of files is not that of its manifest");
    check(&pieces().paged("\"size_bytes\":9,", "\"size_bytes\":9223372036854775808,"), "its list of files is not");
    check(&pieces().paged("\"size_bytes\":9,", "\"size_bytes\":-1,"), "ollamamax/bundle.json: ");
    let one_more = format!("{{\"sha256\":\"{short}\",\"size_bytes\":9,\"blake3\":\"{long}\"}},");
    check(&pieces().paged("{\"sha256\"", &format!("{one_more}{{\"sha256\"")), "its list of files is not");
    check(&pieces().paged(&format!("sha256:{manifest}"), "sha256:1"), &format!("its manifest is {manifest}, and"));
    check(&pieces().paged("library/m:latest", "../m:latest"), "\"registry.ollama.ai/../m:latest\" is no name");
    check(&pieces().paged(&short.to_string(), &short.to_string().to_uppercase()), "\"");
    check(&pieces().paged("\"version\":1,", "\"version\":1,\"more\":0,"), "ollamamax/bundle.json: unknown field");
    let root = model.contents.root(long).expect("listed").to_string();
    check(&pieces().paged(&root, &short.to_string()), &format!("the tree of {long}: the hashes make {root}, not"));
    let root = model.contents.root(short).expect("listed").to_string();
    check(&pieces().paged(&root, &long.to_string()), &format!("piece 0 of {short} is damaged"));
    let mut changed = pieces();
    changed.bytes_of(SUMS)[0] ^= 1;
    check(&changed, "ollamamax/SHA256SUMS is not of these files");
    let mut changed = pieces();
    changed.bytes_of(MANIFEST).push(b' ');
    check(&changed, "its manifest is ");
    let mut changed = pieces();
    changed.bytes_of("manifests/").push(b' ');
    check(&changed, "manifests/registry.ollama.ai/library/m/latest is not ollamamax/manifest.json");
    let mut changed = pieces();
    changed.bytes_of(TREES).push(0);
    check(&changed, &format!("the tree of {long} has 65 bytes, not 64"));
    let mut changed = pieces();
    changed.bytes_of(BLOBS).push(0);
    check(&changed, &format!("{short} has 10 bytes, not 9"));
    let mut changed = pieces();
    let twice = changed.0[changed.find(BLOBS)].clone();
    changed.0.push(twice);
    check(&changed, &format!("{short} comes twice"));
    let mut changed = pieces();
    let at = changed.find(BLOBS);
    changed.0.remove(at);
    check(&changed, &format!("{short} is missing in the bundle"));
    let mut changed = pieces();
    *changed.bytes_of(PAGE) = vec![b' '; small(PAGE_BYTES_MAX) + 1];
    check(&changed, "ollamamax/bundle.json has 2097153 bytes; the limit is 2097152");
}

/// What a bundle said of itself once went to terminals as it was, and was too long to be told at all.
#[test]
fn what_a_bundle_says_is_repeated_in_part_and_obeyed_by_no_terminal() {
    let pieces = || Pieces::of(&Model::new("m", &[9]).written());
    let check = |bundle: &[u8], wanted: &str| {
        let told = refusal(bundle);
        assert!(told.starts_with(wanted) && told.len() < 500 && !told.contains('\u{1b}'), "{told}");
    };
    let long = format!("\\u001b[2J{}", "x".repeat(100_000));
    for (old, new) in [
        ("\"version\":1,", format!("\"version\":1,\"{long}\":0,")),
        ("\"version\":1,", format!("\"version\":\"{long}\",")),
        ("library/m:latest", long.clone()),
        ("\"manifest\":\"", format!("\"manifest\":\"{long}")),
        ("\"sha256\":\"", format!("\"sha256\":\"{long}")),
        ("\"blake3\":\"", format!("\"blake3\":\"{long}")),
    ] {
        check(&pieces().paged(old, &new).packed(), "the bundle says of itself what cannot be: ");
    }
    let mut stray = pieces();
    stray.0.insert(3, ("\u{1b}[2J".to_owned(), vec![0; 9]));
    let bundle = stray.packed();
    let cut = small(before(&bundle, "\u{1b}")) + 5;
    check(&bundle[..cut], "the bundle ends too early: ");
}

#[test]
fn another_blake3_is_found_where_there_is_no_tree() {
    let model = Model::new("m", &[CHUNK_BYTES + 9]);
    let sha256 = model.samples[0].spec.sha256;
    let root = model.contents.root(sha256).expect("listed");
    let mut pieces = Pieces::of(&model.written()).paged(&root.to_string(), &sha256.to_string());
    let at = pieces.find(TREES);
    pieces.0.remove(at);
    let wanted = format!("the bundle says of itself what cannot be: it gives {sha256} another BLAKE3 than {root}");
    assert_eq!(refusal(&pieces.packed()), wanted);
}

#[test]
fn a_damaged_file_does_not_leave() {
    let model = Model::new("m", &[CHUNK_BYTES + 9]);
    let sample = &model.samples[0];
    let begun = || BundleWriter::begin(Vec::new(), &model.contents).expect("memory");
    let mut changed = sample.bytes.clone();
    changed[small(CHUNK_BYTES) + 3] ^= 1;
    let error = begun().file(sample.spec, &tree(sample), &file(&changed)).expect_err("damaged");
    assert!(matches!(error, BundleError::Damaged { sha256, index: 1 } if sha256 == sample.spec.sha256), "{error}");
    let short = &sample.bytes[..sample.bytes.len() - 1];
    let error = begun().file(sample.spec, &tree(sample), &file(short)).expect_err("a byte is missing");
    assert!(!error.is_damage() && error.to_string().starts_with("read the file sha256-"), "{error}");
}

#[test]
fn each_file_has_its_blake3_and_nothing_else_has_one() {
    let model = Model::new("m", &[9]);
    let (sha256, root) = (model.samples[0].spec.sha256, Root([1; 32]));
    let made = |roots: &[(Digest, Root)]| {
        let roots = roots.iter().copied().collect();
        let made = Contents::new(model.contents.name.clone(), model.contents.manifest.clone(), &roots);
        made.map(|contents| contents.root(sha256)).map_err(|error| error.to_string())
    };
    assert_eq!(made(&[(sha256, root)]), Ok(Some(root)));
    assert!(made(&[]).expect_err("none").ends_with(&format!("its list is without {sha256}")));
    let stray = Digest([3; 32]);
    assert!(made(&[(sha256, root), (stray, root)]).expect_err("one more").contains(&stray.to_string()));
}

#[test]
fn a_name_that_tar_has_no_room_for_is_left_out_at_the_end() {
    let long = format!("{}/{}/m:x", "h".repeat(200), "n".repeat(20));
    let model = Model::new(&long, &[9]);
    let bundle = model.written();
    assert_eq!(bundle.len() as u64, model.contents.bundle_bytes());
    assert!(Pieces::of(&bundle).0.iter().all(|(name, _)| !name.starts_with("manifests/")));
    assert_eq!(read(bundle.as_slice()).expect("a bundle"), model.found());
}

/// Gives what it has in pieces of any length, with interruptions.
struct Dribble<'a> {
    bytes: &'a [u8],
    step: usize,
    turn: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = self.step.min(into.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(length);
        into[..length].copy_from_slice(now);
        self.bytes = later;
        Ok(length)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_bundle_that_comes_in_small_pieces_is_the_same(
        sizes in proptest::collection::vec(0_u64..3_000, 1..5),
        step in 1_usize..2_000,
    ) {
        let model = Model::new("m", &sizes);
        let bundle = model.written();
        prop_assert_eq!(bundle.len() as u64, model.contents.bundle_bytes());
        let found = read(Dribble { bytes: &bundle, step, turn: 0 });
        prop_assert_eq!(found.expect("a bundle"), model.found());
    }
}
