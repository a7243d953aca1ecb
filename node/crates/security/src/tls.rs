//! TLS between nodes: 1.3 only, both sides prove their node key, by libp2p's certificate form.
//!
//! Owns the two configurations and the reading of the proved PeerId. The certificate is made at start, is
//! self-signed, and carries the node key's signature; its dates span millennia, so nothing expires. Names, authorities
//! and revocation lists play no part: who may do what is decided by the member table alone. Session tickets are off,
//! so that every connection proves the key itself, and no secret is ever written to a key log file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, NoKeyLog, ServerConfig};

use ollamax_types::PeerId;

use crate::node_key::NodeKey;
use crate::peer_id;

mod proof;

/// What is spoken on a connection, agreed within the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// gRPC over HTTP/2.
    Grpc,
    /// The bulk byte protocol of the transfer engine.
    Bulk,
}

impl Alpn {
    /// The name on the wire.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"omx-grpc/1",
            Self::Bulk => b"omx-bulk/1",
        }
    }

    /// Finds a protocol by its name on the wire.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::Grpc, Self::Bulk].into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

/// The node's TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate for the key.
    #[error("make the node's TLS certificate: {0}")]
    Certificate(#[from] libp2p_tls::certificate::GenError),
    /// The library takes no such configuration.
    #[error("set up TLS between nodes: {0}")]
    Setup(#[from] rustls::Error),
}

/// A finished handshake proves no node key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The peer sent no certificate.
    #[error("the peer proved no key")]
    Absent,
    /// Its certificate is not of libp2p's form.
    #[error("the peer's certificate proves no node key ({0})")]
    Invalid(String),
}

/// The key that answers is not the one that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongPeer {
    /// Who should have answered.
    pub expected: PeerId,
    /// Who did.
    pub proved: PeerId,
}

impl std::error::Error for WrongPeer {}

impl fmt::Display for WrongPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another node answers there: expected key {}, found {}", self.expected, self.proved)
    }
}

/// Makes aws-lc-rs the process's cryptography for every library that asks for a default. Further calls do nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, which is what is wanted.
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The listening side, offering these protocols in order of preference.
///
/// # Errors
/// When the certificate cannot be made.
pub fn server_config(key: &NodeKey, offered: &[Alpn]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = proof::server(key)?;
    config.alpn_protocols = offered.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config.key_log = Arc::new(NoKeyLog);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The dialling side. Whoever answers proves a key; the caller compares it with [`check_proved_peer`].
///
/// # Errors
/// When the certificate cannot be made.
pub fn client_config(key: &NodeKey, spoken: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = proof::client(key)?;
    config.alpn_protocols = vec![spoken.as_bytes().to_vec()];
    config.key_log = Arc::new(NoKeyLog);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that a dialling node gives: none. An unspecified address makes TLS send no name at all.
#[must_use]
pub fn no_server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}

/// Who is at the other end, from the certificates of a finished handshake.
///
/// # Errors
/// When they prove no node key.
pub fn proved_peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<PeerId, ProofError> {
    let [certificate] = certificates.unwrap_or_default() else { return Err(ProofError::Absent) };
    let invalid = |reason: &dyn fmt::Display| ProofError::Invalid(reason.to_string());
    let parsed = libp2p_tls::certificate::parse(certificate).map_err(|error| invalid(&error))?;
    peer_id::check_peer_id(&parsed.peer_id().to_base58()).map_err(|error| invalid(&error))
}

/// Compares who answered with who should have.
///
/// # Errors
/// When they differ.
pub fn check_proved_peer(proved: &PeerId, expected: &PeerId) -> Result<(), WrongPeer> {
    if proved == expected { Ok(()) } else { Err(WrongPeer { expected: expected.clone(), proved: proved.clone() }) }
}

#[cfg(test)]
mod tests;
