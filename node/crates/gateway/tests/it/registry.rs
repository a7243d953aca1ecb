//! The registry for the runtime beside a node, as Ollama's client asks it: by call and over a real socket.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_gateway::registry::{Door, router};
use ollamax_transfer::Shelf;
use ollamax_transfer::mem::MemOffer;

use crate::world::{call, header};

const PLACE: &str = "/v2/ollamax-0909090909090909/demo";
/// More than one piece of a file.
const FILE_BYTES: usize = (4 << 20) + 10;

/// A model of two files on a shelf.
struct Offering {
    router: Router,
    offer: MemOffer,
    file: Vec<u8>,
    _folder: TempDir,
}

// === impl Offering ===

impl Offering {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        let file: Vec<u8> = (0..FILE_BYTES).map(|at| u8::try_from(at % 253).expect("small")).collect();
        let shelf = Shelf::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)), || Some([9; 8]));
        let target = "lab/demo:1b".parse().expect("a name");
        let offer = MemOffer::new(&shelf, folder.path(), &target, &[file.clone(), b"little".to_vec()]);
        Self { router: router(shelf), offer, file, _folder: folder }
    }

    fn blob(&self, number: usize) -> String {
        format!("{PLACE}/blobs/sha256:{}", self.offer.digests()[number])
    }

    async fn ask(&self, method: Method, path: &str, range: Option<&str>) -> Response<Body> {
        let request = Request::builder().method(method).uri(path);
        let request = range.into_iter().fold(request, |request, range| request.header("range", range));
        call(&self.router, request.body(Body::empty()).expect("a request")).await
    }
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.expect("whole").to_bytes().to_vec()
}

#[tokio::test]
async fn a_manifest_and_its_files_are_given_as_ollamas_client_wants_them() {
    let offering = Offering::new();
    let response = offering.ask(Method::GET, &format!("{PLACE}/manifests/1b"), None).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(header(&response, "content-type"), Some("application/vnd.docker.distribution.manifest.v2+json"));
    let manifest = String::from_utf8(bytes(response).await).expect("text");
    assert!(manifest.contains(&offering.offer.digests()[1].to_string()), "{manifest}");

    let path = offering.blob(0);
    let response = offering.ask(Method::HEAD, &path, None).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, Some("4194314")));
    assert!(bytes(response).await.is_empty());
    let response = offering.ask(Method::GET, &path, Some("bytes=0-9")).await;
    assert_eq!(response.status().as_u16(), 307, "another name of this machine first");
    let direct = format!("{path}?direct=1");
    let location = format!("http://localhost:4711{direct}");
    assert_eq!(header(&response, "location"), Some(location.as_str()));
    assert!(bytes(response).await.is_empty());

    let check = async |range: Option<&str>, status: u16, told: Option<&str>, expected: &[u8]| {
        let response = offering.ask(Method::GET, &direct, range).await;
        let found = (response.status().as_u16(), header(&response, "content-range").map(str::to_owned));
        assert_eq!(found, (status, told.map(str::to_owned)), "{range:?}");
        let length = header(&response, "content-length").map(str::to_owned);
        assert!(bytes(response).await == expected, "{range:?}: other bytes");
        assert_eq!(length, Some(expected.len().to_string()), "{range:?}");
    };
    let file = &offering.file;
    check(None, 200, None, file).await;
    check(Some("bytes=0-4194313"), 206, Some("bytes 0-4194313/4194314"), file).await;
    check(Some("bytes=4194300-4194309"), 206, Some("bytes 4194300-4194309/4194314"), &file[4_194_300..4_194_310]).await;
    check(Some("bytes=4194304-"), 206, Some("bytes 4194304-4194313/4194314"), &file[4_194_304..]).await;
    check(Some("bytes=4194314-"), 416, Some("bytes */4194314"), b"").await;
}

#[tokio::test]
async fn what_is_not_offered_does_not_exist_and_nothing_can_be_changed() {
    let offering = Offering::new();
    let (known, manifest) = (offering.blob(1), format!("{PLACE}/manifests/1b"));
    for path in [
        "/",
        "/v2/_catalog",
        "/v2/lab/demo/manifests/1b",
        &manifest.replace("0909", "0908"),
        &manifest.replace("1b", "2b"),
        &manifest.replace("demo", "other"),
        &known.replace("0909", "0908"),
        &known.replace("demo", "other"),
        &format!("{PLACE}/blobs/sha256:{}", "00".repeat(32)),
        &format!("{PLACE}/blobs/../../../etc/passwd"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = offering.ask(method.clone(), path, None).await;
            assert_eq!(response.status().as_u16(), 404, "{method} {path}");
        }
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        for path in [&known, &manifest] {
            let response = offering.ask(method.clone(), path, None).await;
            assert_eq!(response.status().as_u16(), 405, "{method} {path}");
        }
    }
    assert_eq!(offering.ask(Method::GET, "/v2/", None).await.status().as_u16(), 200);
    let Offering { router, offer, .. } = offering;
    drop(offer);
    let gone = Request::builder().uri(&manifest).body(Body::empty()).expect("a request");
    assert_eq!(call(&router, gone).await.status().as_u16(), 404, "it is not offered any more");
}

#[tokio::test]
async fn it_listens_on_loopback_alone_and_ends_with_its_node() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let door = Door::bind().expect("a free port");
    let address = door.address();
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    let folder = tempfile::tempdir().expect("temp");
    let shelf = Shelf::new(address, || Some([9; 8]));
    let target = "demo:1b".parse().expect("a name");
    let offer = MemOffer::new(&shelf, folder.path(), &target, &[b"little".to_vec()]);
    door.spawn(&shelf, &tasks, &stop);
    let path = format!("{PLACE}/blobs/sha256:{}?direct=1", offer.digests()[0]);
    for (method, end) in [("GET", "\r\n\r\nlittle"), ("HEAD", "\r\n\r\n")] {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let asked = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let told = answer.to_lowercase();
        assert!(told.starts_with("http/1.1 200 ") && told.contains("content-length: 6\r\n"), "{answer}");
        assert!(answer.ends_with(end), "{answer}");
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert!(TcpStream::connect(address).await.is_err());
}
