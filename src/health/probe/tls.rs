//! TLS around another probe. Names and chains are not verified: a check asks whether the server serves, and its
//! certificate may well be for a name that only its clients know. When the certificate expires is noted.

use super::{Probe, Step};
use crate::certificate::not_after;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

pub struct Tls<P> {
    inner: P,
    session: ClientConnection,
    /// The handshake is done and the inner probe has spoken.
    started: bool,
    expires: Option<i64>,
}

impl<P: Probe> Tls<P> {
    /// `host` is what the server is asked for by name (SNI); without one no name is sent.
    pub fn new(
        inner: P,
        config: &Arc<ClientConfig>,
        host: Option<&str>,
        address: SocketAddr,
    ) -> Result<Tls<P>, String> {
        let name = host.and_then(server_name).unwrap_or(ServerName::IpAddress(address.ip().into()));
        let session =
            ClientConnection::new(config.clone(), name).map_err(|error| format!("can't begin TLS: {error}"))?;
        Ok(Tls { inner, session, started: false, expires: None })
    }

    fn receive_all(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Step {
        while !bytes.is_empty() {
            // A refusal here means that its own bounded buffer is full, which processing empties each time round.
            match self.session.read_tls(&mut bytes) {
                Ok(0) | Err(_) => return Step::Unhealthy("TLS: sent more than fits a record".to_string()),
                Ok(_) => {}
            }
            if let Err(error) = self.session.process_new_packets() {
                return Step::Unhealthy(format!("TLS: {error}"));
            }
            match self.after_progress(out) {
                Step::More => {}
                decided => return decided,
            }
        }
        Step::More
    }

    /// Hands on what the session has decrypted, and takes what the inner probe has to say.
    fn after_progress(&mut self, out: &mut Vec<u8>) -> Step {
        let mut plain = Vec::new();
        if !self.started && !self.session.is_handshaking() {
            self.started = true;
            self.expires = self.session.peer_certificates().and_then(|chain| not_after(chain.first()?));
            match self.inner.start(&mut plain) {
                Step::More => {}
                decided => return decided,
            }
        }
        let mut buffer = [0; 4096];
        let mut step = Step::More;
        // An error is WouldBlock (nothing more is decrypted), or a cut without close_notify, which the link sees too.
        while let Ok(length @ 1..) = self.session.reader().read(&mut buffer) {
            step = self.inner.receive(&buffer[..length], &mut plain);
            if step != Step::More {
                break;
            }
        }
        if self.session.writer().write_all(&plain).is_err() {
            return Step::Unhealthy("TLS: the session takes no more".to_string());
        }
        self.flush(out);
        step
    }

    /// Moves what the session wants to send to `out`.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while self.session.wants_write() {
            // Writing to a Vec does not fail.
            if !matches!(self.session.write_tls(out), Ok(1..)) {
                break;
            }
        }
    }
}

impl<P: Probe> Probe for Tls<P> {
    fn start(&mut self, out: &mut Vec<u8>) -> Step {
        self.flush(out);
        Step::More
    }

    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step {
        let step = self.receive_all(bytes, out);
        if step != Step::More {
            self.session.send_close_notify();
        }
        // Also what tells the server why: alerts.
        self.flush(out);
        step
    }

    fn awaits(&self) -> &'static str {
        if self.started { self.inner.awaits() } else { "end of the TLS handshake" }
    }

    fn server_closes(&self) -> bool {
        self.inner.server_closes()
    }

    fn certificate_expires(&self) -> Option<i64> {
        self.expires
    }
}

/// A host as it stands in a Host field: a name or an address, with or without a port.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if host.matches(':').count() == 1 => host.split(':').next()?,
        None => host,
    };
    ServerName::try_from(bare.to_string()).ok()
}

/// The settings of every probe's session. No resumption: each probe shows that a full handshake works.
pub fn config() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("ring has suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Takes every certificate, so that odd ones (expired, self-signed, X.509 v1) do not count as a dead server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
