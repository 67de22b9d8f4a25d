//! Our own private keys, by which SSH hosts know us.

use russh::keys::{Algorithm, Error, PrivateKey, decode_secret_key, ssh_key::private::RsaKeypair};

use super::cost::is_bearable;
use crate::model::{Bastion, FieldError};

/// The smallest RSA key that is taken, in bits.
const SMALLEST_RSA: u32 = 2048;

/// The private key that a bastion's settings hold, if they do. One with a passphrase may take seconds, on purpose.
pub(super) fn private_key(bastion: &Bastion) -> Result<Option<PrivateKey>, FieldError> {
    let Some(text) = &bastion.private_key else { return Ok(None) };
    let of_passphrase = |message| FieldError::new("connection.bastion.passphrase", message);
    let of_key = |message: String| FieldError::new("connection.bastion.private_key", message);
    let key = match (decode_secret_key(text.reveal(), None), &bastion.passphrase) {
        (Ok(key), _) => key,
        (Err(error), passphrase) if is_encrypted(&error, text.reveal()) => {
            let Some(passphrase) = passphrase else {
                return Err(of_passphrase("is needed: the private key is encrypted"));
            };
            if !is_bearable(text.reveal()) {
                return Err(of_key(
                    "takes too much work to open: takes one of at most 256 rounds (ssh-keygen -a) in OpenSSH's form, or \
                     in PEM with at most 1,000,000 iterations of PBKDF2"
                        .to_owned(),
                ));
            }
            let opened = decode_secret_key(text.reveal(), Some(passphrase.reveal()));
            opened.map_err(|_| of_passphrase("does not open the private key"))?
        }
        // What the error says is of no help, and might quote.
        _ => {
            return Err(of_key(
                "is none: takes a private key (ed25519, RSA or ECDSA) in OpenSSH's form or PEM".to_owned(),
            ));
        }
    };
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(Some(key)),
        Algorithm::Rsa { .. } => match key.key_data().rsa().map_or(0, RsaKeypair::key_size) {
            SMALLEST_RSA.. => Ok(Some(key)),
            bits => Err(of_key(format!("is an RSA key of {bits} bits: takes {SMALLEST_RSA} or more"))),
        },
        other => Err(of_key(format!("is of kind {other}: takes ed25519, RSA or ECDSA"))),
    }
}

/// OpenSSH's form tells inside, PEM outside.
fn is_encrypted(error: &Error, text: &str) -> bool {
    matches!(error, Error::KeyIsEncrypted) || text.contains("ENCRYPTED")
}
