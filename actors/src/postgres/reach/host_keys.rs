//! The public keys by which SSH hosts are known: one on each line, as `known_hosts` and `ssh-keyscan` have them.

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, parse_public_key_base64};

/// The most keys of one host: load-balanced ones have a few each.
const MOST_KEYS: usize = 32;

/// The keys that a host may show; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKeys(Vec<PublicKey>);

impl HostKeys {
    /// Reads keys such as `ssh-ed25519 AAAA…`, each perhaps after the names of its host and before a comment. Empty lines, and
    /// those that begin with `#`, are none. What is wrong is told with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<PublicKey> = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let key = parse_line(text).map_err(|wrong| format!("line {line} {wrong}"))?;
            if !keys.iter().any(|known| known.key_data() == key.key_data()) {
                keys.push(key);
            }
        }
        match keys.len() {
            0 => Err("takes public keys such as ssh-ed25519 AAAA…, one on each line".to_owned()),
            1..=MOST_KEYS => Ok(Self(keys)),
            _ => Err(format!("takes at most {MOST_KEYS} keys")),
        }
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.0.iter().any(|known| known.key_data() == key.key_data())
    }

    /// Whether a host that has keys of several kinds is to show one of this kind.
    pub(super) fn wants(&self, algorithm: &Algorithm) -> bool {
        self.0.iter().any(|known| is_of_kind(known, algorithm))
    }

    /// As people compare them.
    pub(super) fn fingerprints(&self) -> String {
        let fingerprints: Vec<_> = self.0.iter().map(fingerprint).collect();
        fingerprints.join(" or ")
    }
}

/// Signatures by an RSA key are named by their hash, the key is not.
fn is_of_kind(key: &PublicKey, algorithm: &Algorithm) -> bool {
    match (key.algorithm(), algorithm) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (known, algorithm) => known == *algorithm,
    }
}

/// As `known_hosts` has it, without the names of the host.
pub(super) fn line(key: &PublicKey) -> String {
    let key = PublicKey::from(key.key_data().clone());
    key.to_openssh().unwrap_or_else(|_| fingerprint(&key))
}

/// As `ssh-keygen -l` shows it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn parse_line(text: &str) -> Result<PublicKey, String> {
    const NO_KEY: &str = "is no public key such as ssh-ed25519 AAAA…";
    if text.starts_with('@') {
        return Err("has a marker: only keys of hosts themselves are taken".to_owned());
    }
    if text.contains("PRIVATE KEY") {
        return Err("is of a private key: the host's public key is wanted".to_owned());
    }
    let mut words = text.split_ascii_whitespace();
    let kind = words.find(|word| is_kind(word)).ok_or_else(|| NO_KEY.to_owned())?;
    let before = text.split_ascii_whitespace().take_while(|word| *word != kind).count();
    let encoded = words.next().filter(|_| before <= 1).ok_or_else(|| NO_KEY.to_owned())?;
    let key = parse_public_key_base64(encoded).map_err(|_| NO_KEY.to_owned())?;
    if Algorithm::new(kind).is_ok_and(|kind| is_of_kind(&key, &kind)) {
        Ok(key)
    } else {
        Err(format!("says {kind}, and holds another kind of key"))
    }
}

/// Whether it names a kind of key that a host of today shows.
fn is_kind(word: &str) -> bool {
    Algorithm::new(word).is_ok_and(|kind| SHOWN.contains(&kind) || word == "ssh-rsa")
}

/// The kinds of keys that hosts may show and prove: of RSA only with SHA-2.
pub(super) const SHOWN: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILtVqWpqkGMAVZ9mbGrPUfk+mN7XLVmPCkpTTRJ6QOd";

    #[test]
    fn keys_are_read_as_known_hosts_and_keyscan_and_public_key_files_have_them() {
        let plain = HostKeys::parse(KEY).expect("a key");
        let lines = [
            format!("{KEY} root@bastion"),
            format!("# bastion:22 SSH-2.0-OpenSSH\nbastion.example.com {KEY}\n\n"),
            format!("[bastion.example.com]:2222,10.0.0.1 {KEY} of the bastion\r\n{KEY}"),
        ];
        for text in &lines {
            assert_eq!(HostKeys::parse(text).as_ref(), Ok(&plain), "{text}");
        }
        let both = HostKeys::parse(&format!("{KEY}\n{OTHER}")).expect("keys");
        assert_eq!(both.0.len(), 2);
        assert!(both.0.iter().all(|key| both.has(key)) && !plain.has(&both.0[1]));
        assert_eq!(line(&plain.0[0]), KEY);
    }

    #[test]
    fn what_is_no_key_is_told_with_its_line() {
        let refused = |text: &str| HostKeys::parse(text).expect_err(text);
        assert!(refused("# none\n").starts_with("takes public keys"));
        assert_eq!(refused(&format!("{KEY}\nnonsense")), "line 2 is no public key such as ssh-ed25519 AAAA…");
        assert!(refused(&format!("@cert-authority * {KEY}")).starts_with("line 1 has a marker"));
        assert!(refused("-----BEGIN OPENSSH PRIVATE KEY-----").contains("private key"));
        assert!(refused("ssh-dss AAAAB3NzaC1kc3MAAACB").starts_with("line 1 is no public key"));
        let lying = KEY.replace("ssh-ed25519", "ssh-rsa");
        assert_eq!(refused(&lying), "line 1 says ssh-rsa, and holds another kind of key");
    }
}
