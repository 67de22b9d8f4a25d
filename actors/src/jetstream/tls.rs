//! TLS to the NATS servers, by rustls.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{JetStreamError, NatsSettings};

/// Trusts the authorities of the settings, or those of the system, and shows our certificate if there is one.
pub(super) fn client(settings: &NatsSettings) -> Result<ClientConfig, JetStreamError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| JetStreamError::Settings(format!("TLS can't be used: {error}")))?
        .with_root_certificates(roots);
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unusable(key, &error))?;
            let chain = certificates(certificate)?;
            config.with_client_auth_cert(chain, private).map_err(|error| unusable(certificate, &error))
        }
        _ => Err(JetStreamError::Settings("a NATS client certificate and its key are given together".into())),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, JetStreamError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found.map_err(|error| unusable(path, &error))? {
        none if none.is_empty() => Err(unusable(path, &"it holds no certificate in PEM")),
        some => Ok(some),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, JetStreamError> {
    fs::read(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> JetStreamError {
    JetStreamError::Settings(format!("{} can't be used for TLS to NATS: {why}", path.display()))
}
