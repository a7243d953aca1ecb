//! Pulls on other nodes, and what others ask of this one: transfer's `Others` port, and the receiving side of it and of
//! `Peers`.
//!
//! Whoever asks only watches: a stream that breaks ends nothing at the node that pulls. What that node says is passed
//! on with its code; a stream that broke, or a node that cannot be reached, is told as `peer_unreachable`, and whether
//! it is opened again is for the caller to decide.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, stream};
use tonic::{Request, Response, Status};

use ollamax_gateway::grpc::pulls::convert::{from_wire, to_wire};
use ollamax_gateway::grpc::pulls::verified;
use ollamax_net::{Caller, Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::transfer_client::TransferClient;
use ollamax_proto::v1::transfer_server::{Transfer, TransferServer};
use ollamax_transfer::ports::Others;
use ollamax_transfer::{KeptVersion, PullError, PullLimit, PullProgress, PullSpec, VerifyOrder, VerifyStream, Watch};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Rate, Timestamp, limits};

use crate::adapters::haves_over_net::bundled;
use crate::adapters::placements_over_metadata::PlacementsOverMetadata;
use crate::adapters::status::{code_of, refusal};
use crate::slot::{MemberEngines, Slot};

/// Shortest time between two words on one pull: people read them.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Most bytes of hashes in one message.
const HASHES_BYTES_MAX: usize = 1 << 20;
/// Most files that one question may name: all of a model.
const FILES_MAX: usize = limits::MANIFEST_LAYERS_MAX + 1;

type States = BoxStream<'static, Result<PullProgress, PullError>>;
type Messages = BoxStream<'static, Result<v1::PullProgress, Status>>;

/// The asking side.
#[derive(Debug, Clone)]
pub(crate) struct TransferOverNet {
    net: NetHandle,
}

// === impl TransferOverNet ===

impl TransferOverNet {
    /// Asks over these connections.
    #[must_use]
    pub(crate) const fn new(net: NetHandle) -> Self {
        Self { net }
    }
}

impl Others for TransferOverNet {
    fn pull(&self, to: NodeId, spec: PullSpec) -> BoxFuture<'static, Result<States, PullError>> {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        let PullSpec { name, insecure, asked_by } = spec;
        let order = v1::PullOrder { name: name.to_string(), insecure, asked_by };
        async move {
            let messages = client.pull(order).await.map_err(|status| elsewhere(to, &status))?.into_inner();
            let states = messages.map(move |message| match message {
                Ok(message) => from_wire(message).ok_or_else(|| garbled(to)),
                Err(status) => Err(elsewhere(to, &status)),
            });
            Ok(states.boxed())
        }
        .boxed()
    }

    fn cancel(&self, to: NodeId, name: ModelName) -> BoxFuture<'static, Result<bool, PullError>> {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        async move {
            let outcome = client.cancel(v1::CancelOrder { name: name.to_string() }).await;
            outcome.map(|outcome| outcome.into_inner().found).map_err(|status| elsewhere(to, &status))
        }
        .boxed()
    }

    fn verify(&self, to: NodeId, order: VerifyOrder) -> VerifyStream {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        let VerifyOrder { name, repair } = order;
        let order = v1::VerifyOrder { name: name.map(|name| name.to_string()).unwrap_or_default(), repair };
        let opened = async move { client.verify(order).await };
        let news = opened.into_stream().flat_map(move |opened| match opened {
            Ok(messages) => {
                let news = messages.into_inner().map(move |message| match message {
                    Ok(message) => verified::from_wire(message).ok_or_else(|| garbled(to)),
                    Err(status) => Err(elsewhere(to, &status)),
                });
                news.boxed()
            }
            Err(status) => stream::iter([Err(elsewhere(to, &status))]).boxed(),
        });
        news.boxed()
    }

    fn limit(&self, to: NodeId, limit: PullLimit) -> BoxFuture<'static, Result<bool, PullError>> {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        let PullLimit { name, rate, ahead } = limit;
        let order = v1::LimitOrder { name: name.to_string(), bytes_per_second: rate.map(Rate::bytes), ahead };
        async move {
            let outcome = client.limit(order).await;
            outcome.map(|outcome| outcome.into_inner().found).map_err(|status| elsewhere(to, &status))
        }
        .boxed()
    }

    fn kept(&self, to: NodeId, name: Option<ModelName>) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        let order = v1::KeptOrder { name: name.map(|name| name.to_string()).unwrap_or_default() };
        async move {
            let outcome = client.kept(order).await.map_err(|status| elsewhere(to, &status))?;
            kept_from_wire(outcome.into_inner()).ok_or_else(|| garbled(to))
        }
        .boxed()
    }

    fn sweep(&self, to: NodeId, dry_run: bool) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let mut client = TransferClient::new(self.net.channel(to, Class::Forward));
        async move {
            let outcome = client.sweep(v1::SweepOrder { dry_run }).await.map_err(|status| elsewhere(to, &status))?;
            kept_from_wire(outcome.into_inner()).ok_or_else(|| garbled(to))
        }
        .boxed()
    }
}

/// What another node said, or that it said nothing.
fn elsewhere(node: NodeId, status: &Status) -> PullError {
    let code = code_of(status).unwrap_or(ErrorCode::PeerUnreachable);
    PullError::Elsewhere { node, code, text: status.message().to_owned() }
}

/// Of another release, or defective: what it says of its work cannot be read.
fn garbled(node: NodeId) -> PullError {
    let text = "what it says of its work cannot be understood".to_owned();
    PullError::Elsewhere { node, code: ErrorCode::Internal, text }
}

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct TransferService {
    slot: Slot,
}

// === impl TransferService ===

impl TransferService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot) -> TransferServer<Self> {
        TransferServer::new(Self { slot })
    }

    /// A member without engines starts or stops: to be asked again, as one that cannot be reached.
    fn engines(&self) -> Result<MemberEngines, Status> {
        self.slot.get().ok_or_else(|| refusal(ErrorCode::PeerUnreachable, "this node is not ready"))
    }
}

#[tonic::async_trait]
impl Transfer for TransferService {
    type PullStream = Messages;
    type HashesStream = BoxStream<'static, Result<v1::HashesPart, Status>>;
    type HavesStream = BoxStream<'static, Result<v1::HavesPart, Status>>;
    type VerifyStream = BoxStream<'static, Result<v1::VerifyNews, Status>>;
    type WatchStream = Messages;

    async fn pull(&self, request: Request<v1::PullOrder>) -> Result<Response<Self::PullStream>, Status> {
        let MemberEngines { transfer, placements, .. } = self.engines()?;
        let v1::PullOrder { name, insecure, asked_by } = request.into_inner();
        let spec = PullSpec { name: parsed(&name)?, insecure, asked_by };
        let watch = transfer.pull(spec).await.map_err(|error| refusal(error.code(), &error.to_string()))?;
        Ok(Response::new(messages(watch, placements)))
    }

    async fn cancel(&self, request: Request<v1::CancelOrder>) -> Result<Response<v1::CancelOutcome>, Status> {
        let transfer = self.engines()?.transfer;
        let found = transfer.cancel(&parsed(&request.into_inner().name)?).await;
        Ok(Response::new(v1::CancelOutcome { found }))
    }

    async fn limit(&self, request: Request<v1::LimitOrder>) -> Result<Response<v1::LimitOutcome>, Status> {
        let transfer = self.engines()?.transfer;
        let v1::LimitOrder { name, bytes_per_second, ahead } = request.into_inner();
        let found = transfer.limit_pull(&parsed(&name)?, rate(bytes_per_second)?, ahead);
        Ok(Response::new(v1::LimitOutcome { found }))
    }

    async fn manifest(&self, request: Request<v1::ManifestQuery>) -> Result<Response<v1::ManifestBytes>, Status> {
        let (transfer, digest) = (self.engines()?.transfer, digest(request.into_inner().digest)?);
        let manifest = transfer.manifest(digest).await.ok_or_else(absent)?;
        Ok(Response::new(v1::ManifestBytes { manifest }))
    }

    async fn hashes(&self, request: Request<v1::HashesQuery>) -> Result<Response<Self::HashesStream>, Status> {
        let (transfer, sha256) = (self.engines()?.transfer, digest(request.into_inner().sha256)?);
        let (size_bytes, hashes) = transfer.hashes(sha256).await.ok_or_else(absent)?;
        Ok(Response::new(stream::iter(parts(size_bytes, &hashes)).map(Ok).boxed()))
    }

    async fn haves(&self, request: Request<v1::HavesQuery>) -> Result<Response<Self::HavesStream>, Status> {
        let transfer = self.engines()?.transfer;
        let asked = request.into_inner().sha256;
        if asked.len() > FILES_MAX {
            return Err(refusal(ErrorCode::BadRequest, &format!("more than {FILES_MAX} files are asked for")));
        }
        let files = asked.into_iter().map(digest).collect::<Result<Vec<Digest>, Status>>()?;
        Ok(Response::new(bundled(transfer.haves(files)).map(Ok).boxed()))
    }

    async fn watch(&self, request: Request<v1::WatchQuery>) -> Result<Response<Self::WatchStream>, Status> {
        let MemberEngines { transfer, placements, .. } = self.engines()?;
        let name = parsed(&request.into_inner().name)?;
        let watch = transfer.watch(&name).ok_or_else(absent)?;
        Ok(Response::new(messages(watch, placements)))
    }

    async fn doubt(&self, request: Request<v1::DoubtOrder>) -> Result<Response<v1::DoubtOutcome>, Status> {
        let transfer = self.engines()?.transfer;
        let from = request.extensions().get::<Caller>().and_then(|caller| caller.node);
        let from = from.ok_or_else(|| refusal(ErrorCode::Forbidden, "only members may doubt a file"))?;
        let v1::DoubtOrder { sha256, index } = request.into_inner();
        transfer.doubt(from, digest(sha256)?, index);
        Ok(Response::new(v1::DoubtOutcome {}))
    }

    async fn verify(&self, request: Request<v1::VerifyOrder>) -> Result<Response<Self::VerifyStream>, Status> {
        let transfer = self.engines()?.transfer;
        let v1::VerifyOrder { name, repair } = request.into_inner();
        let name = if name.is_empty() { None } else { Some(parsed(&name)?) };
        let news = transfer.verify(VerifyOrder { name, repair }).map(|news| match news {
            // Whoever asked knows which node it asked, and what that is called.
            Ok(news) => Ok(verified::to_wire(&news, (NodeId(0), ""))),
            Err(error) => Err(refusal(error.code(), &error.to_string())),
        });
        Ok(Response::new(news.boxed()))
    }

    async fn kept(&self, request: Request<v1::KeptOrder>) -> Result<Response<v1::KeptOutcome>, Status> {
        let transfer = self.engines()?.transfer;
        let v1::KeptOrder { name } = request.into_inner();
        let name = if name.is_empty() { None } else { Some(parsed(&name)?) };
        Ok(Response::new(kept_to_wire(&transfer.kept_of(name.as_ref()))))
    }

    async fn sweep(&self, request: Request<v1::SweepOrder>) -> Result<Response<v1::KeptOutcome>, Status> {
        let transfer = self.engines()?.transfer;
        let swept = transfer.sweep(request.into_inner().dry_run).await;
        let swept = swept.map_err(|error| refusal(error.code(), &error.to_string()))?;
        Ok(Response::new(kept_to_wire(&swept)))
    }
}

fn kept_to_wire(kept: &[KeptVersion]) -> v1::KeptOutcome {
    let version = |kept: &KeptVersion| v1::KeptVersion {
        name: kept.name.to_string(),
        digest: kept.digest.0.to_vec(),
        size_bytes: kept.size_bytes,
        kept_at_ms: kept.kept_at.0,
        until_ms: kept.until.map(|until| until.0),
    };
    v1::KeptOutcome { versions: kept.iter().map(version).collect() }
}

/// `None` where it cannot be understood.
fn kept_from_wire(outcome: v1::KeptOutcome) -> Option<Vec<KeptVersion>> {
    let version = |kept: v1::KeptVersion| {
        Some(KeptVersion {
            name: kept.name.parse().ok()?,
            digest: kept.digest.try_into().map(Digest).ok()?,
            size_bytes: kept.size_bytes,
            kept_at: Timestamp(kept.kept_at_ms),
            until: kept.until_ms.map(Timestamp),
        })
    };
    outcome.versions.into_iter().map(version).collect()
}

fn digest(bytes: Vec<u8>) -> Result<Digest, Status> {
    bytes.try_into().map(Digest).map_err(|_| refusal(ErrorCode::BadRequest, "invalid digest"))
}

/// Whoever asks knows other nodes, or asks again later.
fn absent() -> Status {
    refusal(ErrorCode::ModelNotFound, "this node does not have it")
}

/// The hashes of a file as messages; one at least.
fn parts(size_bytes: u64, hashes: &Bytes) -> Vec<v1::HashesPart> {
    let starts = (0..hashes.len().max(1)).step_by(HASHES_BYTES_MAX);
    let part = |start: usize| hashes.slice(start..hashes.len().min(start + HASHES_BYTES_MAX));
    starts.map(|start| v1::HashesPart { size_bytes, hashes: part(start) }).collect()
}

fn parsed(name: &str) -> Result<ModelName, Status> {
    name.parse().map_err(|_| refusal(ErrorCode::BadRequest, "invalid model name"))
}

fn rate(bytes_per_second: Option<u64>) -> Result<Option<Rate>, Status> {
    let rate = bytes_per_second.map(Rate::of);
    if rate == Some(None) { Err(refusal(ErrorCode::BadRequest, "invalid rate")) } else { Ok(rate.flatten()) }
}

/// How a pull stands, at once and then whenever that has changed; the last message says how it ended.
fn messages(watch: Watch, placements: PlacementsOverMetadata) -> Messages {
    let first = Some((watch, Duration::ZERO));
    stream::unfold(first, move |left| {
        let placements = placements.clone();
        async move {
            let (mut watch, pause) = left?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                if !watch.changed().await {
                    return None;
                }
            }
            let now = watch.now();
            let name_of =
                |node: NodeId| placements.member(node).map_or_else(|| node.to_string(), |member| member.name.clone());
            let message = to_wire(&now, &name_of);
            let left = (!now.is_over()).then_some((watch, PROGRESS_INTERVAL));
            Some((Ok(message), left))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_says_keeps_its_code_and_silence_is_a_node_that_cannot_be_reached() {
        let check = |status: &Status, code: ErrorCode| {
            let error = elsewhere(NodeId(2), status);
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(status.message()), "{error}");
        };
        check(&refusal(ErrorCode::DiskFull, "no room"), ErrorCode::DiskFull);
        check(&refusal(ErrorCode::ModelNotFound, "file does not exist"), ErrorCode::ModelNotFound);
        check(&Status::unavailable("connection refused"), ErrorCode::PeerUnreachable);
        assert_eq!(garbled(NodeId(2)).code(), ErrorCode::Internal);
    }

    #[test]
    fn hashes_go_in_messages_that_can_be_sent_and_an_empty_file_has_one_too() {
        let check = |bytes: usize, expected: &[usize]| {
            let hashes: Bytes = (0..bytes).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
            let parts = parts(7, &hashes);
            assert_eq!(parts.iter().map(|part| part.hashes.len()).collect::<Vec<_>>(), expected);
            assert!(parts.iter().all(|part| part.size_bytes == 7));
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.hashes.to_vec()).collect();
            assert_eq!(joined, hashes, "{bytes} bytes");
        };
        check(0, &[0]);
        check(32, &[32]);
        check(HASHES_BYTES_MAX, &[HASHES_BYTES_MAX]);
        check(2 * HASHES_BYTES_MAX + 32, &[HASHES_BYTES_MAX, HASHES_BYTES_MAX, 32]);
    }

    #[test]
    fn a_rate_is_one_that_can_be_set_or_none() {
        let check = |bytes: Option<u64>, expected: Option<Option<u64>>| {
            assert_eq!(rate(bytes).ok().map(|rate| rate.map(Rate::bytes)), expected, "{bytes:?}");
        };
        check(None, Some(None));
        check(Some(1 << 20), Some(Some(1 << 20)));
        check(Some(0), None);
        check(Some(u64::MAX), None);
    }

    #[test]
    fn what_is_kept_is_understood_as_it_was_told_and_not_in_part() {
        let kept = |until: Option<u64>| KeptVersion {
            name: "llama3.2".parse().expect("a name"),
            digest: Digest([7; 32]),
            size_bytes: 9,
            kept_at: Timestamp(5),
            until: until.map(Timestamp),
        };
        let all = vec![kept(None), kept(Some(8))];
        assert_eq!(kept_from_wire(kept_to_wire(&all)), Some(all.clone()));
        let mut short = kept_to_wire(&all);
        short.versions[1].digest = vec![7; 31];
        assert_eq!(kept_from_wire(short), None);
    }

    #[test]
    fn a_digest_has_32_bytes() {
        assert_eq!(digest(vec![1; 32]).ok(), Some(Digest([1; 32])));
        for length in [0, 31, 33] {
            let refused = digest(vec![1; length]).map_err(|status| code_of(&status));
            assert_eq!(refused, Err(Some(ErrorCode::BadRequest)), "{length} bytes");
        }
    }
}
