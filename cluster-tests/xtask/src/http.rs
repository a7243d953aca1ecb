//! A small HTTP/1.1 client over the standard library: one request per connection, the answer's body read as it comes.
//!
//! Enough for talking to nodes on this machine: plain `http`, bodies with a length, in chunks, or up to the end of the
//! connection. A body that ends too early is an error, never a shorter body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest silence of the other side.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Reply<R> {
    /// Status code.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub(crate) body: Body<R>,
}

/// A body; reading ends where the framing says.
#[derive(Debug)]
pub(crate) struct Body<R> {
    from: R,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length { left: u64 },
    Chunk { left: u64 },
    BetweenChunks { first: bool },
    UntilClosed,
    Ended,
}

/// Sends `GET url`.
pub(crate) fn get(url: &str) -> Result<Reply<BufReader<TcpStream>>> {
    send("GET", url, None)
}

/// Sends `POST url` with a JSON body.
pub(crate) fn post(url: &str, body: &serde_json::Value) -> Result<Reply<BufReader<TcpStream>>> {
    send("POST", url, Some(&body.to_string()))
}

fn send(method: &str, url: &str, body: Option<&str>) -> Result<Reply<BufReader<TcpStream>>> {
    let (host, path) = split(url)?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
    stream.set_read_timeout(Some(SILENCE_MAX)).context("set the read timeout")?;
    stream.set_write_timeout(Some(SILENCE_MAX)).context("set the write timeout")?;
    let body = body.unwrap_or_default();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).with_context(|| format!("send {method} {url}"))?;
    Reply::read(BufReader::new(stream)).with_context(|| format!("read the answer to {method} {url}"))
}

/// `http://host:port/path` as `host:port` and `/path`.
fn split(url: &str) -> Result<(&str, &str)> {
    let Some(rest) = url.strip_prefix("http://") else { bail!("`{url}` is no http address") };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !host.contains(':') {
        bail!("`{url}` names no port");
    }
    Ok((host, if path.is_empty() { "/" } else { path }))
}

// === impl Reply ===

impl<R: BufRead> Reply<R> {
    fn read(mut from: R) -> Result<Self> {
        let mut head = (&mut from).take(HEAD_BYTES_MAX);
        let first = line(&mut head)?;
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let Some(status) = status else { bail!("`{first}` is no HTTP status line") };
        let mut headers = Vec::new();
        loop {
            let header = line(&mut head)?;
            if header.is_empty() {
                break;
            }
            let Some((name, value)) = header.split_once(':') else { bail!("`{header}` is no header") };
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let framing = framing(&headers)?;
        Ok(Self { status, headers, body: Body { from, framing } })
    }

    /// A header's value; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The whole body as text.
    pub(crate) fn text(mut self) -> Result<String> {
        let mut text = String::new();
        self.body.read_to_string(&mut text).context("read the body")?;
        Ok(text)
    }
}

fn framing(headers: &[(String, String)]) -> Result<Framing> {
    let value = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(Framing::BetweenChunks { first: true });
    }
    match value("content-length") {
        Some(length) => Ok(Framing::Length { left: length.parse().context("read the content length")? }),
        None => Ok(Framing::UntilClosed),
    }
}

/// One line without its end; the end of the stream inside a line is an error.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    from.read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.trim_end_matches('\r').to_owned()),
        None => Err(cut()),
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off")
}

// === impl Body ===

impl<R: BufRead> Body<R> {
    /// Takes up to `left` bytes; the end of the stream before that is an error.
    fn some(&mut self, buffer: &mut [u8], left: u64) -> io::Result<u64> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let taken = self.from.read(&mut buffer[..most])?;
        if taken == 0 && most > 0 {
            return Err(cut());
        }
        Ok(taken as u64)
    }

    fn next_chunk(&mut self, first: bool) -> io::Result<Framing> {
        if !first && !line(&mut self.from)?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than it said"));
        }
        let size = line(&mut self.from)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let left = u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("`{size}` is no chunk size")))?;
        if left > 0 {
            return Ok(Framing::Chunk { left });
        }
        while !line(&mut self.from)?.is_empty() {}
        Ok(Framing::Ended)
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.framing {
                Framing::Ended | Framing::Length { left: 0 } => return Ok(0),
                Framing::UntilClosed => return self.from.read(buffer),
                Framing::Chunk { left: 0 } => self.framing = Framing::BetweenChunks { first: false },
                Framing::BetweenChunks { first } => self.framing = self.next_chunk(first)?,
                Framing::Length { left } => {
                    let taken = self.some(buffer, left)?;
                    self.framing = Framing::Length { left: left - taken };
                    return Ok(taken as usize);
                }
                Framing::Chunk { left } => {
                    let taken = self.some(buffer, left)?;
                    self.framing = Framing::Chunk { left: left - taken };
                    return Ok(taken as usize);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(reply: &str) -> Result<String> {
        Reply::read(reply.as_bytes())?.text()
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let check = |reply: &str, expected: &str| assert_eq!(body(reply).expect("whole"), expected, "{reply:?}");
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc");
        check("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "");
        check("HTTP/1.1 200 OK\r\n\r\nup to the end", "up to the end");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            "abc0123456789",
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n", "");
    }

    #[test]
    fn an_answer_that_is_cut_or_garbled_is_an_error() {
        let check = |reply: &str| assert!(body(reply).is_err(), "{reply:?}");
        check("");
        check("SSH-2.0-OpenSSH\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n");
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab");
        check("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nab");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let reply = Reply::read("HTTP/1.1 503 Busy\r\nX-OllamaMax-Node:  n2 \r\n\r\n".as_bytes()).expect("a head");
        assert_eq!((reply.status, reply.header("x-ollamamax-node")), (503, Some("n2")));
        assert_eq!(reply.header("absent"), None);
    }

    #[test]
    fn addresses_are_split_or_refused() {
        let check = |url: &str, expected: Option<(&str, &str)>| assert_eq!(split(url).ok(), expected, "{url}");
        check("http://127.0.0.1:80/api/tags", Some(("127.0.0.1:80", "/api/tags")));
        check("http://[::1]:80", Some(("[::1]:80", "/")));
        check("https://127.0.0.1:80/", None);
        check("http://localhost/", None);
    }
}
