//! TLS, with libpq's modes and meanings, by rustls: TLS 1.2 and 1.3.
//!
//! Where it differs from libpq:
//! - `prefer` goes on without TLS where the server offers none. It does not where TLS fails: that is said, and who wants to go
//!   on without sets `disable`.
//! - A name counts where a certificate has it as a `subjectAltName`, and never as its `CN`.
//! - Every session verifies the server anew: none is resumed.

mod certificate;
mod identity;
mod refusal;
mod verifier;

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

pub(in crate::postgres) use self::refusal::{Refusal, Why};
use self::{
    certificate::Certificate,
    identity::Identity,
    verifier::{Authorities, Trust, Verifier},
};
use crate::{
    model::{ChannelBinding, Tls, TlsMode},
    postgres::error::Fault,
};

/// TLS settings that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(in crate::postgres) struct TlsError {
    field: &'static str,
    message: String,
}

impl TlsError {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }

    /// The field that it is about.
    pub(in crate::postgres) fn field(&self) -> &'static str {
        self.field
    }
}

/// Secures connections, and remembers what became of the last one.
#[derive(Clone)]
pub(in crate::postgres) struct Connector {
    tls: MakeRustlsConnect,
    /// The name to ask for, if it is not the host's.
    server_name: Option<String>,
    /// Our certificate, in words.
    ours: Option<Arc<str>>,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// What was agreed on with a server.
#[derive(Clone, Debug)]
pub(in crate::postgres) struct Seen {
    /// `None` before the server has proved to have the certificate's key.
    version: Option<&'static str>,
    certificate: CertificateDer<'static>,
    is_verified: bool,
}

impl Seen {
    /// In words: the version, the server's certificate, and whether it was verified.
    pub(in crate::postgres) fn describe(&self) -> String {
        let version = self.version.unwrap_or("TLS");
        let verified = if self.is_verified { "verified" } else { "not verified, as tls.mode has it" };
        format!(
            "{version}; the server's certificate is {}; it was {verified}",
            Certificate::describe(&self.certificate)
        )
    }
}

impl Connector {
    pub(in crate::postgres) fn new(tls: &Tls) -> Result<Self, TlsError> {
        if tls.mode == TlsMode::Disable && tls.channel_binding == ChannelBinding::Require {
            return Err(TlsError::new("connection.tls.channel_binding", "takes TLS, which tls.mode disables"));
        }
        if let Some(name) = &tls.server_name {
            ServerName::try_from(name.as_str())
                .map_err(|_| TlsError::new("connection.tls.server_name", "takes the name of a host, or an address"))?;
        }
        let provider = Arc::new(ring::default_provider());
        let trust = match tls.mode {
            // libpq: with an authority given, `require` means `verify-ca`.
            TlsMode::Require if tls.ca_pem.is_some() => Trust::Vouched(authorities(tls)?),
            TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => {
                check_unused(tls)?;
                Trust::Anybody
            }
            TlsMode::VerifyCa => Trust::Vouched(authorities(tls)?),
            TlsMode::VerifyFull => Trust::VouchedByName(authorities(tls)?),
        };
        let seen = Arc::default();
        let identity = Identity::of(tls, &provider)?;
        let ours = identity.as_ref().map(|identity| identity.describe().into());
        let verifier = Verifier::new(trust, provider.signature_verification_algorithms, Arc::clone(&seen));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("connection.tls.mode", format!("can't be used: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some(identity) => config.with_client_cert_resolver(identity.resolver()),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(Self { tls: MakeRustlsConnect::new(config), server_name: tls.server_name.clone(), ours, seen })
    }

    /// What was agreed on with the server that was connected to last; `None` where that was without TLS.
    pub(in crate::postgres) fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why there is no connection. Where it is because of our certificate, says which that was.
    pub(in crate::postgres) fn explain(&self, error: tokio_postgres::Error) -> Fault {
        Fault::from(error).about_client_certificate(self.ours.as_deref())
    }
}

/// What isn't needed has to make sense all the same: it will be, once the mode is another.
fn check_unused(tls: &Tls) -> Result<(), TlsError> {
    if tls.ca_pem.is_some() { authorities(tls).map(drop) } else { Ok(()) }
}

fn authorities(tls: &Tls) -> Result<Authorities, TlsError> {
    const FIELD: &str = "connection.tls.ca_pem";
    let mut roots = RootCertStore::empty();
    let mut given = Vec::new();
    if let Some(pem) = &tls.ca_pem {
        let no_certificate = || TlsError::new(FIELD, "takes one or more certificates in PEM");
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| no_certificate())?;
            roots.add(certificate.clone()).map_err(|error| TlsError::new(FIELD, format!("can't be used: {error}")))?;
            given.push(certificate);
        }
        if given.is_empty() {
            return Err(no_certificate());
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let problem = "this system has no certificate authorities to verify with: give ca_pem";
            return Err(TlsError::new("connection.tls.mode", problem));
        }
    }
    Ok(Authorities { roots, given })
}

/// rustls, with another name where one was given.
impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<S>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let name = self.server_name.as_deref().unwrap_or(host);
        <MakeRustlsConnect as MakeTlsConnect<S>>::make_tls_connect(&mut self.tls, name)
    }
}
