//! Uploads in parts, as a store keeps them: parts by number until they become one object, or are taken back.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;

use super::tag;

/// All that were begun.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    begun: u64,
    taken: usize,
    /// By key and id: the parts by number.
    open: BTreeMap<(String, String), BTreeMap<u16, Bytes>>,
}

// === impl Uploads ===

impl Uploads {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// How many parts were ever put.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Begins one and tells its id, which needs care in addresses.
    pub(super) fn begin(&mut self, key: &str) -> String {
        self.begun += 1;
        let id = format!("up+load/{}", self.begun);
        self.open.insert((key.to_owned(), id.clone()), BTreeMap::new());
        id
    }

    /// Takes a part; whether there is such an upload.
    pub(super) fn put(&mut self, key: &str, id: &str, number: u16, bytes: Bytes) -> bool {
        let parts = self.open.get_mut(&(key.to_owned(), id.to_owned()));
        let is_open = parts.map(|parts| parts.insert(number, bytes)).is_some();
        self.taken += usize::from(is_open);
        is_open
    }

    /// Makes one object of the parts that are listed, which must be all of them, in order and with their tags.
    pub(super) fn complete(&mut self, key: &str, id: &str, list: &str) -> Option<Result<Bytes, &'static str>> {
        let name = (key.to_owned(), id.to_owned());
        let parts = self.open.get(&name)?;
        let listed: Vec<(Option<u16>, String)> = list
            .split("<Part>")
            .skip(1)
            .map(|part| (between(part, "PartNumber").parse().ok(), between(part, "ETag").replace("&quot;", "\"")))
            .collect();
        let kept: Vec<(Option<u16>, String)> =
            parts.iter().map(|(number, bytes)| (Some(*number), tag(bytes))).collect();
        if listed != kept {
            return Some(Err("the list is not that of the parts"));
        }
        let mut whole = BytesMut::new();
        parts.values().for_each(|part| whole.extend_from_slice(part));
        self.open.remove(&name);
        Some(Ok(whole.freeze()))
    }

    /// Takes one back; whether there was one.
    pub(super) fn abort(&mut self, key: &str, id: &str) -> bool {
        self.open.remove(&(key.to_owned(), id.to_owned())).is_some()
    }
}

/// What stands between the ends of an element.
fn between<'a>(text: &'a str, name: &str) -> &'a str {
    let inner = text.split_once(&format!("<{name}>")).map_or("", |(_, after)| after);
    inner.split_once('<').map_or("", |(inner, _)| inner)
}

/// The answer to a beginning.
pub(super) fn begun(id: &str) -> Response {
    result("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
}

/// The answer to an end.
pub(super) fn completed() -> Response {
    result("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>")
}

fn result(name: &str, inner: &str) -> Response {
    let space = "http://s3.amazonaws.com/doc/2006-03-01/";
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{name} xmlns=\"{space}\">{inner}</{name}>").into_response()
}
