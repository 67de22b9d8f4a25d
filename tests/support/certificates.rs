//! Certificates, right and wrong, and a PostgreSQL server that shows and demands them.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::{
    database::{Database, connect},
    eventually, holds,
};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Those between it and the one that signed itself.
    above: String,
}

/// A certificate with those that its holder shows beside it, and its key, all in PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Valid {
    Now,
    /// In 2020.
    Before,
    /// In 3000.
    Later,
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn of(common_name: &str, names: &[&str], valid: Valid) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let (from, until) = match valid {
        Valid::Now => (2020, 3000),
        Valid::Before => (2020, 2021),
        Valid::Later => (3000, 3001),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    params
}

fn of_authority(common_name: &str) -> CertificateParams {
    let mut params = of(common_name, &[], Valid::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    /// One that signed itself.
    pub(crate) fn new(common_name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(of_authority(common_name), key()).expect("an authority");
        Self { issuer, above: String::new() }
    }

    /// One that this one vouches for.
    pub(crate) fn below(&self, common_name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(of_authority(common_name), key(), &self.issuer).expect("an authority");
        Self { above: issuer.pem(), issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these hosts.
    pub(crate) fn signs(&self, common_name: &str, names: &[&str], valid: Valid) -> Identity {
        let key = key();
        let mut params = of(common_name, names, valid);
        params.serial_number = Some(serial_number(common_name));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate: certificate.pem() + &self.above, key: key.serialize_pem() }
    }

    /// The list by which it revokes the certificates of this common name.
    pub(crate) fn revokes(&self, common_name: &str) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(3000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: serial_number(common_name),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

fn serial_number(common_name: &str) -> SerialNumber {
    SerialNumber::from_slice(&[b"\x01", common_name.as_bytes()].concat())
}

/// A certificate that signed itself, as one for a host or as one of an authority.
pub(crate) fn self_signed(common_name: &str, names: &[&str], is_authority: bool) -> Identity {
    let mut params = of(common_name, names, Valid::Now);
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = key();
    Identity { certificate: params.self_signed(&key).expect("a certificate").pem(), key: key.serialize_pem() }
}

/// A certificate of X.509's version 1 that signed itself, as OpenSSL makes it of a request without further ado.
pub(crate) fn self_signed_of_version_1(common_name: &str) -> Identity {
    let key = key().serialize_pem();
    let script = format!(
        "openssl req -new -key \"$0\" -subj /CN={common_name} | openssl x509 -req -key \"$0\" -days 2 2>/dev/null"
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &key).expect("written");
    let output = Command::new("/bin/sh").args(["-c", &script]).arg(file.path()).output().expect("openssl");
    Identity { certificate: String::from_utf8(output.stdout).expect("PEM"), key }
}

/// What a server shows, and what it demands of clients.
#[derive(Clone, Copy, Default)]
pub(crate) struct Secured<'a> {
    /// Without one, it offers no TLS.
    pub(crate) identity: Option<&'a Identity>,
    /// Whose certificates of clients it takes.
    pub(crate) clients_of: Option<&'a str>,
    /// Those that it does not take all the same.
    pub(crate) revoked: Option<&'a str>,
    /// The user who is let in by a certificate alone.
    pub(crate) by_certificate: Option<&'a str>,
    /// Whether the others need their passwords, which takes a while.
    pub(crate) asks_for_passwords: bool,
}

impl Database {
    /// Makes the server, which no other test has, serve so from now on.
    pub(crate) async fn secure(&self, secured: Secured<'_>) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| format!("{name}-{number}");
        let certificate = file("certificate");
        if let Some(Identity { certificate: pem, key }) = secured.identity {
            self.write_in_data_directory(&certificate, pem).await;
            self.write_in_data_directory(&file("key"), key).await;
        }
        let given = [("ssl_ca_file", secured.clients_of), ("ssl_crl_file", secured.revoked)];
        for (setting, pem) in given {
            let mut value = String::new();
            if let Some(pem) = pem {
                value = file(setting);
                self.write_in_data_directory(&value, pem).await;
            }
            self.run(&format!("alter system set {setting} = '{value}'")).await;
        }
        let user = secured.by_certificate.unwrap_or("nobody");
        // SCRAM, for all but those whose passwords are kept otherwise.
        let others = if secured.asks_for_passwords { "md5" } else { "trust" };
        let rules = format!("hostssl all {user} 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 {others}");
        self.write_in_data_directory("pg_hba.conf", &rules).await;
        let on = if secured.identity.is_some() { "on" } else { "off" };
        let key = file("key");
        for (setting, value) in [("ssl_cert_file", &*certificate), ("ssl_key_file", &*key), ("ssl", on)] {
            self.run(&format!("alter system set {setting} = '{value}'")).await;
        }
        self.run("select pg_reload_conf()").await;
        eventually("the server to have read its settings", async || {
            // Every session begins with what the server has.
            let session = connect(&self.server.url(&self.name)).await;
            let has: String = session.query_one("show ssl_cert_file", &[]).await.expect("an answer").get(0);
            holds(has == certificate, || format!("it has {has}"))
        })
        .await;
    }

    async fn write_in_data_directory(&self, file: &str, text: &str) {
        let program = format!("umask 077; cat > {file}");
        let sql = format!("copy (select unnest(string_to_array('{text}', E'\\n'))) to program '{program}'");
        self.run(&sql).await;
    }
}
