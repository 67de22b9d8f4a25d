//! Whether the server is who it says it is.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::ParsedCertificate,
};

use super::{Seen, certificate::Certificate, refusal::Refusal};

/// Whom to believe.
#[derive(Debug)]
pub(super) enum Trust {
    /// Whoever answers: the line is encrypted, and that is all.
    Anybody,
    /// Whom an authority vouches for, under whatever name.
    Vouched(Authorities),
    /// Whom an authority vouches for under the name that was asked for.
    VouchedByName(Authorities),
}

/// Those who are trusted.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: RootCertStore,
    /// Those of them that the target names; none if they are the system's.
    pub(super) given: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn subjects(&self) -> impl Iterator<Item = String> {
        self.given.iter().filter_map(|der| Certificate::of(der).map(|certificate| certificate.subject()))
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, subject: &str) -> bool {
        self.subjects().any(|known| known == subject)
    }

    pub(super) fn in_words(&self) -> String {
        let subjects: Vec<_> = self.subjects().take(3).collect();
        match self.given.len().saturating_sub(subjects.len()) {
            _ if self.given.is_empty() => "those of this system, since the target has no ca_pem".into(),
            0 => subjects.join("; "),
            more => format!("{} and {more} more", subjects.join("; ")),
        }
    }

    fn vouch(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        // As in libpq, a server's own certificate can be what is trusted, whether it may sign others or not.
        if let (true, Some(own)) = (self.given.contains(own), Certificate::of(own)) {
            return Ok(Refusal::unless_valid(&own, now)?);
        }
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, others, now, algorithms.all)
    }
}

/// Verifies servers, and writes down what they show.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Verifier {
    pub(super) fn new(trust: Trust, algorithms: WebPkiSupportedAlgorithms, seen: Arc<Mutex<Option<Seen>>>) -> Self {
        Self { trust, algorithms, seen }
    }

    fn sees(&self, certificate: &CertificateDer<'_>, version: Option<&'static str>) {
        let is_verified = !matches!(self.trust, Trust::Anybody);
        let seen = Seen { version, certificate: certificate.clone().into_owned(), is_verified };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.sees(own, None);
        let (authorities, is_by_name) = match &self.trust {
            Trust::Anybody => return Ok(ServerCertVerified::assertion()),
            Trust::Vouched(authorities) => (authorities, false),
            Trust::VouchedByName(authorities) => (authorities, true),
        };
        let verify = || {
            authorities.vouch(own, others, now, self.algorithms)?;
            if is_by_name { verify_server_name(&ParsedCertificate::try_from(own)?, name) } else { Ok(()) }
        };
        let shown: Vec<_> = std::iter::once(own).chain(others).collect();
        match verify() {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(Refusal::of(&error, &shown, name, authorities, now).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.sees(certificate, Some("TLS 1.2"));
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    /// Certificates of X.509's version 1, which old servers have, are not read by rustls; their keys are.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.sees(certificate, Some("TLS 1.3"));
        match Certificate::of(certificate).filter(Certificate::is_of_version_1).and_then(|old| old.public_key()) {
            Some(key) => {
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
            }
            None => verify_tls13_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
