//! Why a server is not believed to be the one that was asked for.

use rustls::{
    CertificateError, Error, OtherError,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    certificate::{Certificate, moment},
    verifier::Authorities,
};

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Why {
    /// It leads to nobody who is trusted, or can't be verified.
    Untrusted,
    /// It, or one that it depends on, is not valid any more, or not yet.
    Expired,
    /// It is that of another host.
    WrongName,
}

/// What is wrong with whose certificate, in words. It goes through rustls, and comes out in the driver's error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{summary}")]
pub(in crate::postgres) struct Refusal {
    pub(in crate::postgres) why: Why,
    pub(in crate::postgres) summary: String,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(refusal))))
    }
}

impl Refusal {
    /// Of a server that showed these certificates, its own first, and that rustls does not believe.
    pub(super) fn of(
        error: &Error,
        shown: &[&CertificateDer<'_>],
        name: &ServerName<'_>,
        authorities: &Authorities,
        now: UnixTime,
    ) -> Self {
        let certificates: Vec<_> = shown.iter().filter_map(|der| Certificate::of(der)).collect();
        let Some(own) = certificates.first() else {
            return Self::untrusted("the server's certificate can't be read".into());
        };
        let Error::InvalidCertificate(error) = error else {
            return Self::untrusted(format!(
                "the server's certificate ({}) can't be verified: {error}",
                own.in_words()
            ));
        };
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::out_of_date(&certificates, own, now),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::of_another(own, name)
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::of_strangers(&certificates, own, authorities)
            }
            // Of an authority's own rustls says only that it is no server's.
            _ if own.is_self_signed() && !shown.iter().any(|shown| authorities.given.contains(shown)) => {
                Self::of_strangers(&certificates, own, authorities)
            }
            _ if own.is_of_version_1() => Self::untrusted(format!(
                "the server's certificate ({}) is of X.509's version 1, which can't be verified",
                own.in_words()
            )),
            error => {
                Self::untrusted(format!("the server's certificate ({}) can't be verified: {error}", own.in_words()))
            }
        }
    }

    fn untrusted(summary: String) -> Self {
        Self { why: Why::Untrusted, summary }
    }

    fn out_of_date(certificates: &[Certificate], own: &Certificate, now: UnixTime) -> Self {
        let place = certificates.iter().position(|certificate| !certificate.is_valid_at(now)).unwrap_or(0);
        let certificate = certificates.get(place).unwrap_or(own);
        let whose = if place == 0 { "the server's certificate" } else { "a certificate that the server's depends on" };
        let when = if certificate.not_after().as_secs() < now.as_secs() {
            format!("expired at {}", moment(certificate.not_after()))
        } else {
            format!("is valid only from {}", moment(certificate.not_before()))
        };
        let (subject, issuer) = (certificate.subject(), certificate.issuer());
        Self { why: Why::Expired, summary: format!("{whose} ({subject}, signed by {issuer}) {when}") }
    }

    fn of_another(own: &Certificate, name: &ServerName<'_>) -> Self {
        let (certificate, wanted) = (own.in_words(), name.to_str());
        let summary = match own.names_in_words() {
            Some(names) => format!("the server's certificate ({certificate}) is for {names}, and not for {wanted}"),
            None => format!(
                "the server's certificate ({certificate}) is for no host, and so not for {wanted}: it has no subjectAltName, \
                 and its CN is not looked at"
            ),
        };
        Self { why: Why::WrongName, summary }
    }

    fn of_strangers(certificates: &[Certificate], own: &Certificate, authorities: &Authorities) -> Self {
        let trusted = authorities.in_words();
        if own.is_self_signed() {
            let certificate = own.in_words();
            return Self::untrusted(format!(
                "the server's certificate ({certificate}) is signed by nobody else, and is not among those that are trusted: \
                 {trusted}"
            ));
        }
        let last = certificates.last().unwrap_or(own);
        let missing = if last.is_self_signed() { last.subject() } else { last.issuer() };
        let certificate = own.in_words();
        Self::untrusted(if authorities.has(&missing) {
            format!(
                "the server's certificate ({certificate}) leads to {missing}; one of that name, but with another key, is trusted"
            )
        } else {
            format!(
                "the server's certificate ({certificate}) leads to {missing}, which is not among those that are trusted: \
                 {trusted}"
            )
        })
    }

    /// The one that was given to be trusted is the server's own, and out of date.
    pub(super) fn unless_valid(own: &Certificate, now: UnixTime) -> Result<(), Self> {
        if own.is_valid_at(now) { Ok(()) } else { Err(Self::out_of_date(&[], own, now)) }
    }
}
