//! TLS, with libpq's modes and meanings, by rustls.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::model::{Tls, TlsMode};

/// TLS settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// `ca_pem` holds no certificate.
    #[error("takes one or more certificates in PEM")]
    NoAuthority,
    /// The system has no authorities to trust.
    #[error("this system has no certificate authorities to verify with: give ca_pem")]
    NoSystemAuthorities,
    /// rustls refused.
    #[error("can't be used: {0}")]
    Refused(#[from] Error),
}

impl TlsError {
    /// The field that it is about.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoAuthority | Self::Refused(_) => "connection.tls.ca_pem",
            Self::NoSystemAuthorities => "connection.tls.mode",
        }
    }
}

/// Whether these settings can be used.
pub fn check(tls: &Tls) -> Result<(), TlsError> {
    connector(tls).map(drop)
}

/// Whom to believe.
#[derive(Debug)]
enum Trust {
    /// Whoever answers: the line is encrypted, and that is all.
    Anybody,
    /// Whom an authority vouches for, under whatever name.
    Vouched(Arc<WebPkiServerVerifier>),
    /// Whom an authority vouches for under the name that was asked for.
    VouchedByName(Arc<WebPkiServerVerifier>),
}

/// The connector for these settings.
pub(in crate::postgres) fn connector(tls: &Tls) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let trust = match tls.mode {
        // libpq: with an authority given, `require` means `verify-ca`.
        TlsMode::Require if tls.ca_pem.is_some() => Trust::Vouched(by_authority(tls, &provider)?),
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => Trust::Anybody,
        TlsMode::VerifyCa => Trust::Vouched(by_authority(tls, &provider)?),
        TlsMode::VerifyFull => Trust::VouchedByName(by_authority(tls, &provider)?),
    };
    let verifier = Verifier { trust, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn by_authority(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &tls.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|_| TlsError::NoAuthority)?)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthority);
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TlsError::NoSystemAuthorities);
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    verifier.map_err(|error| TlsError::Refused(Error::General(error.to_string())))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify =
            |by: &WebPkiServerVerifier| by.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        match &self.trust {
            Trust::Anybody => Ok(ServerCertVerified::assertion()),
            Trust::VouchedByName(authority) => verify(authority),
            Trust::Vouched(authority) => match verify(authority) {
                // The name is the last thing that is looked at.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                verdict => verdict,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
