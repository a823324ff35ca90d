//! Who is spoken to: the certificates that are known, each to the last byte, and TLS 1.3 around it.
//!
//! There is no chain and no authority. A certificate is taken if it is one of the configured files' and holds just now; the handshake shows
//! that the other side has its key. So a site is let in by one file and shut out by taking that away, and a name in a certificate
//! means nothing: the configuration says whose it is.

use crate::certificate::validity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, ServerConnection, SignatureScheme,
};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What this site shows, and what it knows the others by.
#[derive(PartialEq)]
pub struct Identity {
    own: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// In the order of the peers.
    peers: Vec<CertificateDer<'static>>,
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { own: self.own.clone(), key: self.key.clone_key(), peers: self.peers.clone() }
    }
}

impl Identity {
    /// Reads all files. The error is a sentence.
    pub fn read<'p>(certificate: &Path, key: &Path, peers: impl Iterator<Item = &'p Path>) -> Result<Identity, String> {
        let mode = std::fs::metadata(key).map_err(|why| format!("{}: {why}", key.display()))?.mode();
        if mode & 0o007 != 0 {
            let path = key.display();
            return Err(format!("{path} is open to everybody on this machine: `chmod 600 {path}`, or make a new key"));
        }
        let identity = Identity {
            own: read_certificate(certificate)?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|why| format!("{}: no key in PEM: {why}", key.display()))?,
            peers: peers.map(read_certificate).collect::<Result<_, _>>()?,
        };
        for (at, peer) in identity.peers.iter().enumerate() {
            if *peer == identity.own || identity.peers[..at].contains(peer) {
                return Err("two sites have the same certificate: each needs one of its own".into());
            }
        }
        identity.server().map_err(|why| {
            format!("{} and {} are no pair that can be used: {why}", certificate.display(), key.display())
        })?;
        Ok(identity)
    }

    /// When this site's certificate ends, in seconds since 1970.
    pub fn ends(&self) -> Option<i64> {
        validity(&self.own).map(|(_, end)| end)
    }

    /// Until when peer number `peer`'s does, likewise.
    pub fn peer_ends(&self, peer: usize) -> Option<i64> {
        validity(self.peers.get(peer)?).map(|(_, end)| end)
    }

    /// Whose certificate it is: the peer's number.
    pub fn whose(&self, certificate: &CertificateDer) -> Option<usize> {
        self.peers.iter().position(|peer| peer == certificate)
    }

    /// For those who dial here.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Known { provider, certificates: self.peers.clone() }))
            .with_single_cert(vec![self.own.clone()], self.key.clone_key())?;
        // A resumed session would not look at the certificate's end.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// To dial peer number `peer`.
    pub fn client(&self, peer: usize) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = self.peers.get(peer).cloned().into_iter().collect();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Known { provider, certificates }))
            .with_client_auth_cert(vec![self.own.clone()], self.key.clone_key())?;
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, String> {
    let told = |why: String| format!("{}: {why}", path.display());
    let certificate =
        CertificateDer::from_pem_file(path).map_err(|why| told(format!("no certificate in PEM: {why}")))?;
    match validity(&certificate) {
        Some(_) => Ok(certificate),
        None => Err(told("this is no X.509 certificate".into())),
    }
}

/// A TLS session at either end.
pub fn dial(config: Arc<ClientConfig>) -> Result<rustls::Connection, Error> {
    let name = ServerName::try_from(super::keys::SUBJECT).map_err(|_| Error::General("no name".into()))?;
    ClientConnection::new(config, name).map(Into::into)
}

pub fn answer(config: Arc<ServerConfig>) -> Result<rustls::Connection, Error> {
    ServerConnection::new(config).map(Into::into)
}

/// What went wrong, for people, of `the other site`.
pub fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".into()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "its certificate does not hold yet: one of the two clocks may be wrong".into()
        }
        Error::InvalidCertificate(_) => "its certificate is not the one that the configuration names".into(),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it refuses this site's certificate, which has expired by its clock".into()
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => "it refuses this site's certificate: its configuration names another, or none".into(),
        Error::AlertReceived(alert) => format!("it ended the handshake: {alert:?}"),
        other => format!("TLS: {other}"),
    }
}

/// Takes the certificates that it has, while they hold.
#[derive(Debug)]
struct Known {
    provider: Arc<CryptoProvider>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Known {
    fn check(&self, certificate: &CertificateDer, now: UnixTime) -> Result<(), Error> {
        if !self.certificates.iter().any(|known| known == certificate) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let (begin, end) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
        let now = now.as_secs() as i64;
        match (now < begin, now > end) {
            (true, _) => Err(CertificateError::NotValidYet.into()),
            (_, true) => Err(CertificateError::Expired.into()),
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, now).map(|()| ServerCertVerified::assertion())
    }

    /// Only TLS 1.3 is spoken.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, now).map(|()| ClientCertVerified::assertion())
    }

    /// Only TLS 1.3 is spoken.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
