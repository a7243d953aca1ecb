//! Transfer's `Peers` port: byte streams for chunks, and questions to one node about what it has.
//!
//! A question is asked once; whom to ask next is for transfer to decide. What a node says is checked for its form here;
//! whether it is true is proved by whoever uses it.

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tonic::Status;
use tonic::transport::Channel;

use ollamax_blobs::ChunkHash;
use ollamax_gateway::grpc::pulls::convert;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::transfer_client::TransferClient;
use ollamax_transfer::PullProgress;
use ollamax_transfer::ports::{ByteStream, Have, PeerError, Peers};
use ollamax_types::chunk::chunk_count;
use ollamax_types::{Digest, ModelName, NodeId, limits};

use crate::adapters::haves_over_net;
use crate::adapters::status::code_of;

/// The asking side.
#[derive(Debug, Clone)]
pub(crate) struct PeersOverNet {
    net: NetHandle,
}

/// The hashes of one file, as its parts come.
#[derive(Debug, Default)]
struct Hashes {
    size_bytes: Option<u64>,
    bytes: BytesMut,
}

// === impl PeersOverNet ===

impl PeersOverNet {
    /// Asks over these connections.
    #[must_use]
    pub(crate) const fn new(net: NetHandle) -> Self {
        Self { net }
    }

    fn client(&self, node: NodeId) -> TransferClient<Channel> {
        TransferClient::new(self.net.channel(node, Class::Forward))
    }
}

impl Peers for PeersOverNet {
    fn connect(&self, to: NodeId) -> BoxFuture<'static, Result<Box<dyn ByteStream>, PeerError>> {
        let net = self.net.clone();
        async move {
            let stream = net.connect(to, Class::Bulk).await;
            let stream = stream.map_err(|error| PeerError::Unreachable(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        }
        .boxed()
    }

    fn manifest(&self, from: NodeId, digest: Digest) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let mut client = self.client(from);
        async move {
            let answer = client.manifest(v1::ManifestQuery { digest: digest.0.to_vec() }).await;
            answer.map(|answer| answer.into_inner().manifest).map_err(|status| told(&status))
        }
        .boxed()
    }

    fn hashes(&self, from: NodeId, sha256: Digest) -> BoxFuture<'static, Result<(u64, Bytes), PeerError>> {
        let mut client = self.client(from);
        async move {
            let parts = client.hashes(v1::HashesQuery { sha256: sha256.0.to_vec() }).await;
            let mut parts = parts.map_err(|status| told(&status))?.into_inner();
            let mut hashes = Hashes::default();
            while let Some(part) = parts.message().await.map_err(|status| told(&status))? {
                hashes.add(&part)?;
            }
            hashes.finish()
        }
        .boxed()
    }

    fn haves(&self, from: NodeId, blobs: Vec<Digest>) -> BoxStream<'static, Result<Have, PeerError>> {
        let mut client = self.client(from);
        let query = v1::HavesQuery { sha256: blobs.iter().map(|sha256| sha256.0.to_vec()).collect() };
        let opened = async move { client.haves(query).await };
        let haves = opened.into_stream().flat_map(|opened| match opened {
            Ok(parts) => parts.into_inner().map(have).boxed(),
            Err(status) => failed(&status),
        });
        haves.boxed()
    }

    fn watch(&self, at: NodeId, name: ModelName) -> BoxStream<'static, Result<PullProgress, PeerError>> {
        let mut client = self.client(at);
        let query = v1::WatchQuery { name: name.to_string() };
        let opened = async move { client.watch(query).await };
        let states = opened.into_stream().flat_map(|opened| match opened {
            Ok(states) => states.into_inner().map(state).boxed(),
            Err(status) => failed(&status),
        });
        states.boxed()
    }

    fn doubt(&self, at: NodeId, sha256: Digest, index: u32) -> BoxFuture<'static, Result<(), PeerError>> {
        let mut client = self.client(at);
        let order = v1::DoubtOrder { sha256: sha256.0.to_vec(), index };
        async move { client.doubt(order).await.map(|_| ()).map_err(|status| told(&status)) }.boxed()
    }
}

fn have(part: Result<v1::HavesPart, Status>) -> Result<Have, PeerError> {
    let part = part.map_err(|status| told(&status))?;
    haves_over_net::from_wire(part).ok_or_else(|| garbled("what it has of a file"))
}

fn state(message: Result<v1::PullProgress, Status>) -> Result<PullProgress, PeerError> {
    let message = message.map_err(|status| told(&status))?;
    convert::from_wire(message).ok_or_else(|| garbled("what it says of its pull"))
}

/// A stream that did not open.
fn failed<T: Send + 'static>(status: &Status) -> BoxStream<'static, Result<T, PeerError>> {
    stream::iter([Err(told(status))]).boxed()
}

/// What another node said, or that it said nothing.
fn told(status: &Status) -> PeerError {
    let text = status.message().to_owned();
    match code_of(status) {
        Some(code) => PeerError::Refused { code, text },
        None => PeerError::Unreachable(text),
    }
}

fn garbled(what: &str) -> PeerError {
    PeerError::Garbled(format!("{what} cannot be understood"))
}

// === impl Hashes ===

impl Hashes {
    fn add(&mut self, part: &v1::HashesPart) -> Result<(), PeerError> {
        let size_bytes = *self.size_bytes.get_or_insert(part.size_bytes);
        self.bytes.extend_from_slice(&part.hashes);
        let most = u64::from(chunk_count(size_bytes)) * size_of::<ChunkHash>() as u64;
        let fits = size_bytes <= limits::BLOB_BYTES_MAX && self.bytes.len() as u64 <= most;
        if fits && part.size_bytes == size_bytes { Ok(()) } else { Err(garbled("the hashes of a file")) }
    }

    fn finish(self) -> Result<(u64, Bytes), PeerError> {
        match self.size_bytes {
            Some(size_bytes) => Ok((size_bytes, self.bytes.freeze())),
            None => Err(garbled("an answer without the hashes that were asked for")),
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::ErrorCode;
    use ollamax_types::chunk::CHUNK_BYTES;

    use super::*;
    use crate::adapters::status::refusal;

    #[test]
    fn the_hashes_of_a_file_are_those_of_all_parts_and_not_more_than_it_has_chunks() {
        let part = |size_bytes, hashes: &[u8]| v1::HashesPart { size_bytes, hashes: Bytes::copy_from_slice(hashes) };
        let gathered = |parts: &[v1::HashesPart]| {
            let mut hashes = Hashes::default();
            let added = parts.iter().try_for_each(|part| hashes.add(part));
            added.and_then(|()| hashes.finish()).ok()
        };
        let size_bytes = 2 * CHUNK_BYTES;
        let (one, two) = (part(size_bytes, &[1; 32]), part(size_bytes, &[2; 32]));
        let both = Bytes::from([[1_u8; 32], [2; 32]].concat());
        assert_eq!(gathered(&[one.clone(), two.clone()]), Some((size_bytes, both)));
        assert_eq!(gathered(&[part(0, &[])]), Some((0, Bytes::new())), "an empty file has none");
        assert_eq!(gathered(&[]), None);
        assert_eq!(gathered(&[one.clone(), two.clone(), two]), None, "too many");
        assert_eq!(gathered(&[one, part(size_bytes + 1, &[2; 32])]), None, "of two files");
        assert_eq!(gathered(&[part(limits::BLOB_BYTES_MAX + 1, &[1; 32])]), None, "of none that there can be");
    }

    #[test]
    fn what_a_node_refuses_keeps_its_code_and_silence_is_a_node_that_cannot_be_reached() {
        let (code, text) = (ErrorCode::ModelNotFound, "not here".to_owned());
        assert_eq!(told(&refusal(code, &text)), PeerError::Refused { code, text });
        let silent = told(&Status::unavailable("connection refused"));
        assert_eq!(silent, PeerError::Unreachable("connection refused".to_owned()));
    }
}
