//! Our own certificate, which a server may ask for.

use std::sync::Arc;

use rustls::{
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{TlsError, certificate::Certificate};
use crate::model::Tls;

const CERTIFICATE: &str = "connection.tls.client_cert_pem";
const KEY: &str = "connection.tls.client_key_pem";

/// A certificate, those that lead to an authority, and the key.
pub(super) struct Identity(Arc<CertifiedKey>);

impl Identity {
    pub(super) fn of(tls: &Tls, provider: &CryptoProvider) -> Result<Option<Self>, TlsError> {
        let (certificate, key) = match (&tls.client_cert_pem, &tls.client_key_pem) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(TlsError::new(CERTIFICATE, "is needed with client_key_pem")),
            (Some(_), None) => return Err(TlsError::new(KEY, "is needed with client_cert_pem")),
            (Some(certificate), Some(key)) => (certificate, key.reveal()),
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| TlsError::new(CERTIFICATE, "takes one or more certificates in PEM"))?;
        let ours = Certificate::of(&chain[0])
            .ok_or_else(|| TlsError::new(CERTIFICATE, "begins with a certificate that can't be read"))?;
        // Of all forms, PEM says so in its head.
        if key.contains("ENCRYPTED") {
            let problem = "is encrypted: give it without a passphrase (openssl pkey -in KEY takes it away)";
            return Err(TlsError::new(KEY, problem));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| TlsError::new(KEY, "takes a private key in PEM: PKCS#8, PKCS#1 or SEC1"))?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            TlsError::new(KEY, "can't be used: takes RSA of 2048 bits and more, ECDSA with P-256 or P-384, or Ed25519")
        })?;
        if key.public_key().is_some_and(|public| ours.public_key().is_some_and(|theirs| theirs != public.as_ref())) {
            let problem = format!("is not the key of client_cert_pem, {}", ours.in_words());
            return Err(TlsError::new(KEY, problem));
        }
        Ok(Some(Self(Arc::new(CertifiedKey::new(chain, key)))))
    }

    pub(super) fn describe(&self) -> String {
        self.0.cert.first().map(|certificate| Certificate::describe(certificate)).unwrap_or_default()
    }

    pub(super) fn resolver(self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(SingleCertAndKey::from(self.0))
    }
}

#[cfg(test)]
mod tests;
