//! A connection that is given as a `postgres://` URL: as if its fields had been given.

use sequin_actors::model::{ChannelBinding, FieldError, TlsMode};

use super::{
    connection::{ConnectionRequest, TlsRequest},
    default_port,
};
use crate::{
    api::{change::Change, secret::SecretText},
    postgres_url::PostgresUrl,
};

const FIELD: &str = "connection.url";

impl ConnectionRequest {
    /// Takes from the URL what it says; what is given beside it has to be the same.
    pub(super) fn take_url(&mut self, errors: &mut Vec<FieldError>) {
        let Change::To(SecretText(text)) = std::mem::take(&mut self.url) else { return };
        let url: PostgresUrl = match text.reveal().parse() {
            Ok(url) => url,
            Err(message) => {
                return errors.push(FieldError::new(FIELD, message));
            }
        };
        if let Some(parameter) = url.files.any() {
            let message = format!("names a file as {parameter}: give what is in it as a field of connection.tls");
            errors.push(FieldError::new(FIELD, message));
        }
        if !url.ignored.is_empty() {
            let message = format!("has parameters that mean nothing here: {}", url.ignored.join(", "));
            errors.push(FieldError::new(FIELD, message));
        }
        let database = url.database.is_some() || matches!(self.database, Change::Keep);
        agree("connection.database", &mut self.database, database.then(|| url.database().to_owned()), errors);
        let port = url.port.or_else(|| matches!(self.port, Change::Keep).then(default_port));
        agree("connection.port", &mut self.port, port, errors);
        agree("connection.host", &mut self.host, Some(url.host), errors);
        agree("connection.username", &mut self.username, Some(url.username), errors);
        agree("connection.password", &mut self.password, url.password.map(SecretText), errors);
        if url.tls_mode.is_none() && url.channel_binding.is_none() {
            return;
        }
        if let Change::Keep = self.tls {
            self.tls = Change::To(TlsRequest::default());
        }
        let Change::To(tls) = &mut self.tls else {
            return errors.push(FieldError::new("connection.tls", DIFFERS));
        };
        let (mode, binding) = (url.tls_mode.map(TlsMode::as_str), url.channel_binding.map(ChannelBinding::as_str));
        agree("connection.tls.mode", &mut tls.mode, mode.map(ToOwned::to_owned), errors);
        agree("connection.tls.channel_binding", &mut tls.channel_binding, binding.map(ToOwned::to_owned), errors);
    }
}

const DIFFERS: &str = "is not as connection.url says: leave it out, or make them the same";

/// Takes what the URL says, unless the field says something else.
fn agree<T: PartialEq>(name: &str, field: &mut Change<T>, said: Option<T>, errors: &mut Vec<FieldError>) {
    match (&*field, said) {
        (_, None) => {}
        (Change::Keep, Some(said)) => *field = Change::To(said),
        (Change::To(given), Some(said)) if *given == said => {}
        _ => errors.push(FieldError::new(name, DIFFERS)),
    }
}
