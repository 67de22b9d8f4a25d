//! What can be wrong with a target as it stands, before anybody connects.

use std::ops::RangeInclusive;

use super::{
    super::{FieldError, check_name},
    Bastion, ChannelBinding, Connection, Limits, Target, Tls, TlsMode,
};

/// How long a list of hosts may be, in bytes.
const LONGEST_HOSTS: usize = 1024;

impl Target {
    /// Everything that is wrong with the target as it stands.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name("name", &self.name).err());
        self.connection.check(&mut errors);
        if !(1..=100).contains(&self.pool_size) {
            errors.push(FieldError::new("pool_size", "takes 1 to 100"));
        }
        self.limits.check(&mut errors);
        errors
    }
}

impl Connection {
    fn check(&self, errors: &mut Vec<FieldError>) {
        check_text("connection.host", &self.host, LONGEST_HOSTS, errors);
        check_text("connection.database", &self.database, 255, errors);
        check_text("connection.username", &self.username, 255, errors);
        if self.port == 0 {
            errors.push(FieldError::new("connection.port", "takes 1 to 65535"));
        }
        let is_socket = |host: &str| host.trim_start().starts_with('/');
        if self.bastion.is_some() && self.host.split(',').any(is_socket) {
            let message = "can't be the directory of a socket behind a bastion, which knows hosts and ports";
            errors.push(FieldError::new("connection.host", message));
        }
        if let Some(file) = &self.password_file {
            if self.password.is_some() {
                let message = "can't stand beside a password: give one of both";
                errors.push(FieldError::new("connection.password_file", message));
            }
            if !is_plain_name(file) {
                let message = "takes the plain name of a file in the node's directory of secrets, such as app-password";
                errors.push(FieldError::new("connection.password_file", message));
            }
        }
        self.tls.check(errors);
        if let Some(bastion) = &self.bastion {
            bastion.check(errors);
        }
    }
}

impl Tls {
    fn check(&self, errors: &mut Vec<FieldError>) {
        match (&self.client_cert_pem, &self.client_key_pem) {
            (Some(_), None) => {
                errors.push(FieldError::new("connection.tls.client_key_pem", "is needed with client_cert_pem"));
            }
            (None, Some(_)) => {
                errors.push(FieldError::new("connection.tls.client_cert_pem", "is needed with client_key_pem"));
            }
            _ => {}
        }
        if let Some(name) = &self.server_name {
            check_text("connection.tls.server_name", name, 253, errors);
        }
        if self.mode == TlsMode::Disable && self.channel_binding == ChannelBinding::Require {
            let message = "can't be required without TLS, which the mode is to disable";
            errors.push(FieldError::new("connection.tls.channel_binding", message));
        }
    }
}

impl Bastion {
    fn check(&self, errors: &mut Vec<FieldError>) {
        check_text("connection.bastion.host", &self.host, 255, errors);
        check_text("connection.bastion.username", &self.username, 255, errors);
        if self.port == 0 {
            errors.push(FieldError::new("connection.bastion.port", "takes 1 to 65535"));
        }
        // Some hosts want both.
        if self.private_key.is_none() && self.password.is_none() {
            errors.push(FieldError::new("connection.bastion.private_key", "is needed, or a password"));
        }
        if self.passphrase.is_some() && self.private_key.is_none() {
            errors.push(FieldError::new("connection.bastion.passphrase", "opens no private_key: there is none"));
        }
    }
}

impl Limits {
    fn check(&self, errors: &mut Vec<FieldError>) {
        let mut check = |field: &str, value: Option<u32>, range: RangeInclusive<u32>| {
            if value.is_some_and(|value| !range.contains(&value)) {
                let message = format!("takes {} to {}", range.start(), range.end());
                errors.push(FieldError::new(format!("limits.{field}"), message));
            }
        };
        check("max_records_per_second", self.max_records_per_second, 1..=1_000_000);
        check("statement_timeout_seconds", Some(self.statement_timeout_seconds), 1..=120);
        check("lock_timeout_seconds", Some(self.lock_timeout_seconds), 1..=60);
        check("max_replica_lag_seconds", self.max_replica_lag_seconds, 1..=86_400);
        check("max_connections_percent", self.max_connections_percent, 1..=100);
    }
}

fn check_text(field: &str, text: &str, longest: usize, errors: &mut Vec<FieldError>) {
    if text.is_empty() || text.len() > longest || text.contains('\0') {
        errors.push(FieldError::new(field, format!("takes 1 to {longest} bytes of text")));
    }
}

/// What is one step down in a directory, and no more.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_secrets_has_a_plain_name() {
        for plain in ["password", "app-password", "..data"] {
            assert!(is_plain_name(plain), "{plain}");
        }
        for other in ["", ".", "..", "/etc/passwd", "../key", "app/password", "./password", "a\0b", &"a".repeat(256)] {
            assert!(!is_plain_name(other), "{other}");
        }
    }
}
