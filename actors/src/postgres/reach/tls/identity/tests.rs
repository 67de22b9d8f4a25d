//! The forms of keys that people have, made by OpenSSL as people make them.

use std::process::Command;

use rustls::crypto::ring;

use super::*;
use crate::model::{Secret, Tls};

/// What OpenSSL writes, with this to read.
fn openssl(arguments: &str, key: Option<&str>) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("key.pem"), key.unwrap_or_default()).expect("written");
    let mut command = Command::new("openssl");
    let output = command.current_dir(directory.path()).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("PEM")
}

fn certificate(key: &str) -> String {
    openssl("req -x509 -new -key key.pem -subj /CN=sequin -days 2", Some(key))
}

fn identity(certificate: Option<&str>, key: Option<&str>) -> Result<Option<Identity>, (String, String)> {
    let tls =
        Tls { client_cert_pem: certificate.map(str::to_owned), client_key_pem: key.map(Secret::new), ..Tls::default() };
    Identity::of(&tls, &ring::default_provider()).map_err(|error| (error.field().to_owned(), error.to_string()))
}

fn refused(certificate: Option<&str>, key: Option<&str>) -> (String, String) {
    identity(certificate, key).err().expect("refused")
}

#[test]
fn keys_are_taken_as_pkcs_8_pkcs_1_and_sec1_and_what_can_not_be_used_is_told_by_field() {
    assert!(identity(None, None).expect("fine").is_none());
    let elliptic = openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", None);
    let ours = certificate(&elliptic);
    let sec1 = openssl("ec -in key.pem", Some(&elliptic));
    assert!(elliptic.contains("BEGIN PRIVATE KEY") && sec1.contains("BEGIN EC PRIVATE KEY"), "{sec1}");
    for key in [&elliptic, &sec1] {
        let identity = identity(Some(&ours), Some(key)).expect("fine").expect("an identity");
        assert!(
            identity.describe().starts_with("CN=sequin, signed by itself, valid until "),
            "{}",
            identity.describe()
        );
    }
    let rsa = openssl("genrsa -traditional 2048", None);
    assert!(rsa.contains("BEGIN RSA PRIVATE KEY"), "{rsa}");
    assert!(identity(Some(&certificate(&rsa)), Some(&rsa)).expect("fine").is_some());
    let edwards = openssl("genpkey -algorithm ed25519", None);
    assert!(identity(Some(&certificate(&edwards)), Some(&edwards)).expect("fine").is_some());

    let (field, says) = refused(Some(&ours), Some(&rsa));
    assert_eq!(field, KEY);
    assert!(says.starts_with("is not the key of client_cert_pem, CN=sequin"), "{says}");
    let locked = openssl("pkcs8 -topk8 -in key.pem -passout pass:secret", Some(&elliptic));
    let old = openssl("rsa -in key.pem -traditional -aes128 -passout pass:secret", Some(&rsa));
    for key in [&locked, &old] {
        let (field, says) = refused(Some(&ours), Some(key));
        assert_eq!(field, KEY);
        assert!(says.starts_with("is encrypted"), "{says}");
    }
    let weak = openssl("genrsa 1024", None);
    for (certificate, key, expected, why) in [
        (None, Some(&elliptic), CERTIFICATE, "is needed with client_key_pem"),
        (Some(&ours), None, KEY, "is needed with client_cert_pem"),
        (Some(&elliptic), Some(&elliptic), CERTIFICATE, "takes one or more certificates in PEM"),
        (Some(&ours), Some(&ours), KEY, "takes a private key in PEM: PKCS#8, PKCS#1 or SEC1"),
        (Some(&ours), Some(&weak), KEY, "can't be used: takes RSA of 2048 bits"),
    ] {
        let (field, says) = refused(certificate.map(String::as_str), key.map(String::as_str));
        assert_eq!(field, expected, "{says}");
        assert!(says.starts_with(why), "{says}");
    }
}
