//! nginx as the yardstick: a plain reverse proxy with `proxy_buffering off` before the same fake Ollama.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use ollamax_testkit::{port, wait};

use crate::machine;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx. Ends with this value.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    pub(crate) version: String,
    child: Child,
    _directory: TempDir,
}

impl Nginx {
    /// Starts it before `upstream`; `None` when it is not installed.
    pub(crate) async fn start(upstream: SocketAddr) -> Result<Option<Self>> {
        let Some(binary) = machine::program("nginx") else { return Ok(None) };
        let version = Command::new(&binary).arg("-v").output().await.context("ask nginx for its version")?;
        let version = String::from_utf8_lossy(&version.stderr).trim().replace("nginx version: ", "");
        let directory = tempfile::Builder::new().prefix("ollamax-nginx-").tempdir().context("make a directory")?;
        let address = SocketAddr::from(([127, 0, 0, 1], port::free()?));
        let configuration = directory.path().join("nginx.conf");
        std::fs::write(&configuration, text(address, upstream, directory.path())).context("write nginx.conf")?;
        let child = Command::new(binary)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start nginx")?;
        wait::until("nginx to listen", PATIENCE, || TcpStream::connect(address)).await?;
        Ok(Some(Self { address, version, child, _directory: directory }))
    }

    /// CPU time of its processes so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let pid = self.child.id().context("nginx has ended")?;
        ollamax_testkit::cluster::cpu_time(pid)
    }
}

/// One worker, in the foreground and without a master, so that one process id is all of it.
fn text(address: SocketAddr, upstream: SocketAddr, directory: &std::path::Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
  upstream fake {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    tcp_nodelay on;
    location / {{
      proxy_pass http://fake;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host {upstream};
      proxy_buffering off;
    }}
  }}
}}
"
    )
}
