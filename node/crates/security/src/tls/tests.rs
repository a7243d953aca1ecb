//! Handshakes in memory: who is proved, what is agreed, what is refused.

use std::io;

use rustls::{ClientConnection, ServerConnection};

use super::*;

/// Carries bytes back and forth until neither side has anything to say.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut bytes: &[u8] = &wire;
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut bytes: &[u8] = &wire;
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn pair(client: &NodeKey, spoken: Alpn, server: &NodeKey, offered: &[Alpn]) -> (ClientConnection, ServerConnection) {
    (
        ClientConnection::new(client_config(client, spoken).unwrap(), no_server_name()).unwrap(),
        ServerConnection::new(server_config(server, offered).unwrap()).unwrap(),
    )
}

#[test]
fn both_sides_prove_their_keys_and_agree_on_a_protocol() {
    let (one, two) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
    for spoken in [Alpn::Grpc, Alpn::Bulk] {
        let (mut client, mut server) = pair(&one, spoken, &two, &[Alpn::Grpc, Alpn::Bulk]);
        shake(&mut client, &mut server).unwrap();
        assert_eq!(proved_peer(client.peer_certificates()).as_ref(), Ok(two.peer_id()));
        assert_eq!(proved_peer(server.peer_certificates()).as_ref(), Ok(one.peer_id()));
        assert_eq!(server.alpn_protocol().and_then(Alpn::from_bytes), Some(spoken));
        assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let cipher = server.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(cipher, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384, "the one with instructions of its own");
    }
}

#[test]
fn a_protocol_that_is_not_offered_ends_the_handshake() {
    let (one, two) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
    let (mut client, mut server) = pair(&one, Alpn::Bulk, &two, &[Alpn::Grpc]);
    assert!(matches!(shake(&mut client, &mut server), Err(rustls::Error::NoApplicationProtocol)));
}

/// A client that has no certificate to show.
#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_client_without_a_key_is_refused() {
    let server_key = NodeKey::ephemeral().unwrap();
    let with_key = client_config(&server_key, Alpn::Grpc).unwrap();
    let mut config = (*with_key).clone();
    config.client_auth_cert_resolver = Arc::new(Nobody);
    let mut client = ClientConnection::new(Arc::new(config), no_server_name()).unwrap();
    let mut server = ServerConnection::new(server_config(&server_key, &[Alpn::Grpc]).unwrap()).unwrap();
    assert!(shake(&mut client, &mut server).is_err());
}

/// Shows these certificates, and signs with this key.
#[derive(Debug)]
struct Showing(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Showing {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[test]
fn a_certificate_that_proves_no_key_or_is_not_alone_is_refused() {
    let (one, two) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
    let (certificate, private_key) = libp2p_tls::certificate::generate(two.keypair()).unwrap();
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private_key).unwrap();
    let mut forged = certificate.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let (other, _) = libp2p_tls::certificate::generate(two.keypair()).unwrap();
    let rows = [
        (vec![certificate.clone()], true),
        (vec![CertificateDer::from(forged)], false),
        (vec![certificate.clone(), certificate], false),
        // Its signature of the handshake is by the key of another certificate.
        (vec![other], false),
    ];
    for (shown, is_taken) in rows {
        let count = shown.len();
        let mut config = (*server_config(&two, &[Alpn::Grpc]).unwrap()).clone();
        config.cert_resolver = Arc::new(Showing(Arc::new(rustls::sign::CertifiedKey::new(shown, signing.clone()))));
        let mut client = ClientConnection::new(client_config(&one, Alpn::Grpc).unwrap(), no_server_name()).unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let ended = shake(&mut client, &mut server);
        assert_eq!(ended.is_ok(), is_taken, "{count}: {ended:?}");
    }
}

#[test]
fn no_key_log_file_is_written() {
    let key = NodeKey::ephemeral().unwrap();
    let client = client_config(&key, Alpn::Grpc).unwrap();
    let server = server_config(&key, &[Alpn::Grpc]).unwrap();
    assert!(!client.key_log.will_log("CLIENT_TRAFFIC_SECRET_0"));
    assert!(!server.key_log.will_log("CLIENT_TRAFFIC_SECRET_0"));
    assert!(format!("{:?}", client.key_log).contains("NoKeyLog"));
    assert!(format!("{:?}", server.key_log).contains("NoKeyLog"));
}

#[test]
fn no_certificate_and_garbage_prove_nothing() {
    assert_eq!(proved_peer(None), Err(ProofError::Absent));
    let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert!(matches!(proved_peer(Some(std::slice::from_ref(&garbage))), Err(ProofError::Invalid(_))));
}

#[test]
fn a_wrong_key_is_named() {
    let (one, two) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
    assert_eq!(check_proved_peer(one.peer_id(), one.peer_id()), Ok(()));
    let error = check_proved_peer(one.peer_id(), two.peer_id()).unwrap_err();
    let text = io::Error::other(error).to_string();
    assert!(text.contains(&one.peer_id().0) && text.contains(&two.peer_id().0), "{text}");
}
