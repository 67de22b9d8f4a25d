//! What is asked of an SSH host before anything is told to it: the algorithms of today, and a key that is known.

use std::{borrow::Cow, sync::Arc, time::Duration};

use russh::{
    Preferred, SshId, cipher, client, compression, kex,
    keys::{PublicKey, PublicKeyOrCertificate},
    mac,
};
use tokio::sync::watch;

use crate::postgres::reach::host_keys::{HostKeys, SHOWN};

/// How often a silent host is asked whether it is there, and how often in vain before it is not.
const KEEPALIVE: (Duration, usize) = (Duration::from_secs(15), 3);

/// Without groups below 2048 bits, and without SHA-1.
const KEY_EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// Without CBC.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// For those ciphers that need one; without SHA-1 and MD5.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM, mac::HMAC_SHA512, mac::HMAC_SHA256];

/// How to speak with a host that is known by these keys; with any that shows one of today, if it is not known yet.
pub(super) fn config(pinned: Option<&HostKeys>) -> Arc<client::Config> {
    // A host that has keys of several kinds shows the one that we know.
    let wanted = |algorithm: &_| pinned.is_none_or(|pinned| pinned.wants(algorithm));
    let (keepalive_interval, keepalive_max) = KEEPALIVE;
    Arc::new(client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-Sequin_", env!("CARGO_PKG_VERSION")))),
        preferred: Preferred {
            kex: KEY_EXCHANGES.into(),
            key: SHOWN.into_iter().filter(wanted).collect(),
            cipher: CIPHERS.into(),
            mac: MACS.into(),
            // What is worth it is compressed by whoever made it.
            compression: (&[compression::NONE]).into(),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(keepalive_interval),
        keepalive_max,
        ..client::Config::default()
    })
}

/// Looks at the key that a host shows, and lets nothing through to one that is not known.
pub(super) struct Gate {
    pinned: Option<HostKeys>,
    seen: watch::Sender<Option<PublicKey>>,
}

impl Gate {
    /// And what it sees.
    pub(super) fn new(pinned: Option<HostKeys>) -> (Self, watch::Receiver<Option<PublicKey>>) {
        let (seen, sees) = watch::channel(None);
        (Self { pinned, seen }, sees)
    }
}

impl client::Handler for Gate {
    type Error = russh::Error;

    /// That it proves to have the key was seen to before.
    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        self.seen.send_replace(Some(key.clone()));
        Ok(self.pinned.as_ref().is_some_and(|pinned| pinned.has(key)))
    }
}
