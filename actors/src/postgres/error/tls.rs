//! What a secure connection failed of: the server's certificate, ours, or TLS itself.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, OtherError};

use super::{
    Verdict::Target,
    kinds::{Kind, kind},
};
use crate::postgres::reach::tls::{Refusal, Why};

const UNTRUSTED: Kind = kind(
    Target,
    "tls_untrusted",
    "nobody whom the target trusts vouches for the server's certificate: its ca_pem is missing or old, the server does not \
     send the certificates in between, or something else answers in its place",
    "give the server's certificate authority as tls.ca_pem (managed services offer it for download), or a certificate \
     that signed itself, once you know that it is the server's",
);
const EXPIRED: Kind = kind(
    Target,
    "tls_expired",
    "a certificate of the server is not valid at this time, or the clock of this node is wrong",
    "renew the server's certificate; if it was renewed, make the server load it (select pg_reload_conf())",
);
const WRONG_NAME: Kind = kind(
    Target,
    "tls_wrong_name",
    "the server's certificate was made for another name than the one that is connected to, as behind a tunnel or a proxy",
    "connect to a name that the certificate is for, set tls.server_name to one if the way there has another, have a \
     certificate made with the host as its subjectAltName, or set tls.mode to verify-ca",
);
const NOT_OFFERED: Kind = kind(
    Target,
    "tls_not_offered",
    "the server is not set up for TLS (ssl is off), or a pooler or proxy before it is not",
    "set ssl to on at the server, or at what stands before it; only within a network that you trust, set tls.mode to disable",
);
const CLIENT_CERTIFICATE: Kind = kind(
    Target,
    "client_certificate_refused",
    "the server lets in who shows a certificate that it trusts, made for this user (pg_hba.conf has cert or clientcert)",
    "give a certificate whose CN is the username, signed by an authority in the server's ssl_ca_file, as \
     tls.client_cert_pem and tls.client_key_pem",
);
const NOT_BOUND: Kind = kind(
    Target,
    "authentication_failed",
    "the target demands channel binding, which takes TLS, and a password that the server keeps as scram-sha-256",
    "have the server use scram-sha-256 over TLS, or set tls.channel_binding to prefer",
);
const ONLY_TLS: Kind = kind(
    Target,
    "authentication_failed",
    "the server's pg_hba.conf does not let this user in over a connection that is not encrypted",
    "set tls.mode to require, or to verify-full with the server's authority; and see that the server's ssl is on",
);
const FAILED: Kind = kind(
    Target,
    "tls_failed",
    "the server and we did not agree on an encrypted connection",
    "see that the server, and what stands before it, speaks TLS 1.2 or 1.3; its log may say more",
);

/// Whether it failed of that, and of what.
pub(super) fn of_connection(error: &tokio_postgres::Error, words: &str) -> Option<(Kind, String)> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let wrapped = wrapped.and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>());
        if let Some(error) = error.downcast_ref::<rustls::Error>().or(wrapped) {
            return Some(of_rustls(error));
        }
        cause = error.source();
    }
    // The driver names these in words alone.
    match words {
        words if words.ends_with("server does not support TLS") => {
            Some((NOT_OFFERED, "the server offers no TLS, which tls.mode demands".into()))
        }
        words if words.ends_with("server did not use channel binding") => {
            Some((NOT_BOUND, "the server did not use channel binding, which tls.channel_binding demands".into()))
        }
        words if words.starts_with("error performing TLS handshake") => Some((FAILED, words.into())),
        _ => None,
    }
}

fn of_rustls(error: &rustls::Error) -> (Kind, String) {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal))) => {
            match refusal.downcast_ref::<Refusal>() {
                Some(Refusal { why, summary }) => (of_refusal(*why), summary.clone()),
                None => (UNTRUSTED, error.to_string()),
            }
        }
        rustls::Error::InvalidCertificate(_) => (UNTRUSTED, error.to_string()),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidMessage(_) => (FAILED, "what answers offers TLS, and then speaks something else".into()),
        error => (FAILED, error.to_string()),
    }
}

fn of_refusal(why: Why) -> Kind {
    match why {
        Why::Untrusted => UNTRUSTED,
        Why::Expired => EXPIRED,
        Why::WrongName => WRONG_NAME,
    }
}

/// What the server says of us (<https://www.rfc-editor.org/rfc/rfc8446#section-6.2>).
fn of_alert(alert: AlertDescription) -> (Kind, String) {
    let because = match alert {
        AlertDescription::UnknownCA => "it does not trust the authority that signed it",
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::CertificateRequired => "none was shown",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError => "it can't use it",
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            return (FAILED, "the server offers neither TLS 1.2 nor TLS 1.3".into());
        }
        alert => return (FAILED, format!("the server ended the handshake: {alert:?}")),
    };
    (CLIENT_CERTIFICATE, format!("the server refused our certificate: {because}"))
}

/// What a server means that lets a user in by certificate, or only by TLS, where its SQLSTATE says no more than that the
/// user is not let in. In another language than English it stays at that.
pub(super) fn of_refused_user(message: &str) -> Option<Kind> {
    let says = |words: &str| message.contains(words);
    match () {
        () if says("valid client certificate") || says("certificate authentication failed") => Some(CLIENT_CERTIFICATE),
        () if says("pg_hba.conf") && says("no encryption") => Some(ONLY_TLS),
        () => None,
    }
}
