//! What is offered to the runtime beside this node while it fetches.
//!
//! An offer is one version of a model, under a name that says where it is fetched:
//! `127.0.0.1:<port>/ollamax-<16 hex digits>/<model>:<tag>`. The digits are drawn anew each time, so nobody finds it
//! who was not told, and it lasts as long as its guard. What is not on the shelf does not exist. A file is read as the
//! disk gives it; the runtime compares it with its name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use ollamax_blobs::{Manifest, Part};
use ollamax_types::chunk::chunk_range;
use ollamax_types::{CHUNK_BYTES, Digest, ModelName};

/// Begins the namespace of every offer.
const NAMESPACE: &str = "ollamax-";
/// Hexadecimal digits behind it.
const ID_DIGITS: usize = 16;

/// Draws the number of an offer; `None` where the system gives no chance.
pub type Draw = fn() -> Option<[u8; 8]>;

/// The shelf. Clones are the same one.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    /// Where it is served.
    address: SocketAddr,
    draw: Draw,
    /// By their namespace.
    offers: Mutex<BTreeMap<String, Offer>>,
}

/// One version of a model, and the files of it that may be fetched.
struct Offer {
    name: ModelName,
    manifest: Manifest,
    parts: Vec<Part>,
}

/// Keeps an offer on the shelf.
pub(crate) struct Offered {
    shelf: Shelf,
    name: ModelName,
}

/// A file on the shelf. It can be read also when the offer is gone.
#[derive(Debug, Clone)]
pub struct Ware(Part);

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("address", &self.0.address).finish_non_exhaustive()
    }
}

// === impl Shelf ===

impl Shelf {
    /// An empty one, which is served at this address of the machine itself.
    #[must_use]
    pub fn new(address: SocketAddr, draw: Draw) -> Self {
        Self(Arc::new(Inner { address, draw, offers: Mutex::default() }))
    }

    /// Where it is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Offers a model until the guard is dropped.
    pub(crate) fn offer(&self, target: &ModelName, manifest: &Manifest, parts: &[Part]) -> Option<Offered> {
        let namespace = format!("{NAMESPACE}{}", hex::encode((self.0.draw)()?));
        let [_, _, model, tag] = target.parts();
        let name: ModelName = format!("{}/{namespace}/{model}:{tag}", self.0.address).parse().ok()?;
        let offer = Offer { name: name.clone(), manifest: manifest.clone(), parts: parts.to_vec() };
        self.lock().insert(namespace, offer);
        Some(Offered { shelf: self.clone(), name })
    }

    /// Whether this name is on the shelf just now.
    #[must_use]
    pub fn has(&self, name: &ModelName) -> bool {
        self.lock().get(name.namespace()).is_some_and(|offer| offer.name == *name)
    }

    /// Whether some shelf of some process offered a model under this name: nobody else gives such names.
    #[must_use]
    pub fn gave(name: &ModelName) -> bool {
        let [host, namespace, _, _] = name.parts();
        let is_here = host.parse::<SocketAddr>().is_ok_and(|host| host.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST));
        let is_id =
            |id: &str| id.len() == ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_here && namespace.strip_prefix(NAMESPACE).is_some_and(is_id)
    }

    /// The bytes of a manifest that is offered.
    #[must_use]
    pub fn manifest(&self, namespace: &str, model: &str, tag: &str) -> Option<Bytes> {
        let offers = self.lock();
        let offer = offers.get(namespace).filter(|offer| offer.is_of(model))?;
        let [_, _, _, offered] = offer.name.parts();
        offered.eq_ignore_ascii_case(tag).then(|| Bytes::copy_from_slice(offer.manifest.bytes()))
    }

    /// A file of a model that is offered.
    #[must_use]
    pub fn file(&self, namespace: &str, model: &str, sha256: Digest) -> Option<Ware> {
        let offers = self.lock();
        let offer = offers.get(namespace).filter(|offer| offer.is_of(model))?;
        offer.parts.iter().find(|part| part.spec().sha256 == sha256).cloned().map(Ware)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Offer>> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Offer ===

impl Offer {
    fn is_of(&self, model: &str) -> bool {
        let [_, _, offered, _] = self.name.parts();
        offered.eq_ignore_ascii_case(model)
    }
}

// === impl Offered ===

impl Offered {
    /// The name under which the model is fetched.
    pub(crate) const fn name(&self) -> &ModelName {
        &self.name
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.shelf.lock().remove(self.name.namespace());
    }
}

// === impl Ware ===

impl Ware {
    /// Its length.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.spec().size_bytes
    }

    /// Bytes from `from` on, at least one and none from `until` on; both lie within the file. Waits for the disk.
    ///
    /// # Errors
    /// What the disk says, and when there is nothing to read there.
    pub fn read(&self, from: u64, until: u64) -> Result<Bytes, String> {
        let size_bytes = self.size_bytes();
        let index = u32::try_from(from / CHUNK_BYTES).map_err(|_| "no file is so long".to_owned())?;
        let chunk = chunk_range(size_bytes, index);
        let end = until.min(chunk.end);
        if from >= end || until > size_bytes {
            return Err(format!("there is nothing between {from} and {until} of {size_bytes} bytes"));
        }
        let mut bytes = Vec::new();
        self.0.read(index, &mut bytes).map_err(|error| error.to_string())?;
        let place = |at: u64| usize::try_from(at - chunk.start).expect("a chunk fits into memory");
        Ok(Bytes::from(bytes).slice(place(from)..place(end)))
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use ollamax_blobs::{BlobSpec, Staging, chunk_hash};

    use super::*;

    const ID: &str = "ollamax-0102030405060708";

    fn shelf() -> Shelf {
        Shelf::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 7)), || Some([1, 2, 3, 4, 5, 6, 7, 8]))
    }

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    /// A file of so many bytes that is there.
    fn part(staging: &Staging, size_bytes: u64) -> (Part, Vec<u8>) {
        let bytes: Vec<u8> = (0..size_bytes).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let part = staging.begin(BlobSpec { sha256: Digest(Sha256::digest(&bytes).into()), size_bytes }).expect("room");
        for (at, chunk) in bytes.chunks(usize::try_from(CHUNK_BYTES).expect("small")).enumerate() {
            let index = u32::try_from(at).expect("few");
            part.write(index, chunk, chunk_hash(size_bytes, index, chunk)).expect("room");
        }
        (part, bytes)
    }

    fn manifest(part: &Part) -> Manifest {
        let BlobSpec { sha256, size_bytes } = part.spec();
        let layer = format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#);
        Manifest::read(format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#).as_bytes()).expect("a manifest")
    }

    #[test]
    fn what_is_offered_is_there_until_the_guard_goes_and_nothing_else_ever() {
        let folder = tempfile::tempdir().expect("temp");
        let staging = Staging::open(&folder.path().join("staging"), None).expect("room");
        let (part, _) = part(&staging, 10);
        let (manifest, sha256, shelf) = (manifest(&part), part.spec().sha256, shelf());
        let offered = shelf.offer(&name("lab/demo:1b"), &manifest, std::slice::from_ref(&part)).expect("a number");
        assert_eq!(offered.name().to_string(), format!("127.0.0.1:7/{ID}/demo:1b"));
        assert!(shelf.has(offered.name()) && Shelf::gave(offered.name()));
        assert!(!shelf.has(&name("lab/demo:1b")) && !shelf.has(&name(&format!("127.0.0.1:7/{ID}/demo:2b"))));
        let text = |namespace: &str, model: &str, tag: &str| shelf.manifest(namespace, model, tag);
        assert_eq!(text(ID, "demo", "1b").as_deref(), Some(manifest.bytes()));
        let other = "ollamax-0102030405060709";
        for (namespace, model, tag) in [(other, "demo", "1b"), (ID, "other", "1b"), (ID, "demo", "2b"), ("", "", "")] {
            assert_eq!(text(namespace, model, tag), None, "{namespace} {model} {tag}");
        }
        assert_eq!(shelf.file(ID, "demo", sha256).expect("it is there").size_bytes(), 10);
        assert!(shelf.file(ID, "demo", Digest([0; 32])).is_none() && shelf.file(other, "demo", sha256).is_none());
        let kept = offered.name().clone();
        drop(offered);
        assert!(!shelf.has(&kept) && text(ID, "demo", "1b").is_none() && shelf.file(ID, "demo", sha256).is_none());
        let mute = Shelf::new(shelf.address(), || None);
        assert!(mute.offer(&name("demo"), &manifest, &[part]).is_none());
    }

    #[test]
    fn a_file_is_read_piece_by_piece_and_never_behind_its_end() {
        let folder = tempfile::tempdir().expect("temp");
        let staging = Staging::open(&folder.path().join("staging"), None).expect("room");
        let (part, bytes) = part(&staging, CHUNK_BYTES + 10);
        let ware = Ware(part);
        let check = |from: u64, until: u64, expected: Option<std::ops::Range<u64>>| {
            let found = ware.read(from, until).ok();
            let place = |at: u64| usize::try_from(at).expect("small");
            let expected = expected.map(|range| &bytes[place(range.start)..place(range.end)]);
            assert_eq!(found.as_deref(), expected, "{from} {until}");
        };
        let all = CHUNK_BYTES + 10;
        check(0, all, Some(0..CHUNK_BYTES));
        check(CHUNK_BYTES, all, Some(CHUNK_BYTES..all));
        check(3, 7, Some(3..7));
        check(CHUNK_BYTES - 1, all, Some(CHUNK_BYTES - 1..CHUNK_BYTES));
        check(all - 1, all, Some(all - 1..all));
        check(7, 7, None);
        check(all, all, None);
        check(0, all + 1, None);
        check(u64::MAX, u64::MAX, None);
    }

    #[test]
    fn names_that_somebody_chose_were_not_given_by_a_shelf() {
        let check = |text: &str, expected: bool| assert_eq!(Shelf::gave(&name(text)), expected, "{text}");
        check("127.0.0.1:11600/ollamax-00112233445566ff/demo:1b", true);
        check("127.0.0.1:1/ollamax-00112233445566ff/demo", true);
        for other in [
            "demo",
            "ollamax-00112233445566ff/demo",
            "127.0.0.1/ollamax-00112233445566ff/demo",
            "10.0.0.1:7/ollamax-00112233445566ff/demo",
            "127.0.0.1:7/ollamax-00112233445566FF/demo",
            "127.0.0.1:7/ollamax-00112233445566f/demo",
            "127.0.0.1:7/ollamax-00112233445566ffa/demo",
            "127.0.0.1:7/lab/demo",
            "localhost:7/ollamax-00112233445566ff/demo",
        ] {
            check(other, false);
        }
    }
}
