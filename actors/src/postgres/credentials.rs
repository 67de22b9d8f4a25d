//! The password of the user that we are at a database: the target's own, or that of a file, which may change at any time.

use std::{io, path::PathBuf};

use tokio::io::AsyncReadExt;

use super::{error::Fault, reach::Egress};
use crate::model::{Connection, Secret, is_plain_name};

/// How long a file with a password may be, in bytes.
const MAX_LENGTH: u64 = 4096;

const FIELD: &str = "connection.password_file";

/// Where the password is.
pub(super) enum Credentials {
    None,
    Password(Secret),
    /// In the file of this name, in the node's directory of secrets, if it has one.
    File(Option<PathBuf>, String),
}

const NO_DIRECTORY: &str = "can't be used: this node has no directory of secrets";

impl Credentials {
    pub(super) fn of(connection: &Connection, egress: &Egress) -> Self {
        match (&connection.password, &connection.password_file) {
            (_, Some(name)) => Self::File(egress.secrets_directory.clone(), name.clone()),
            (Some(password), None) => Self::Password(password.clone()),
            (None, None) => Self::None,
        }
    }

    /// The password as it is now: a file is read anew for each session that is opened.
    pub(super) async fn password(&self) -> Result<Option<Secret>, Fault> {
        match self {
            Self::None => Ok(None),
            Self::Password(password) => Ok(Some(password.clone())),
            Self::File(None, _) => Err(Fault::of_settings(format!("{FIELD} {NO_DIRECTORY}"))),
            Self::File(Some(directory), name) => match read(directory.clone(), name).await {
                Ok(password) => Ok(Some(password)),
                Err(error) => Err(Fault::of_settings(format!("{FIELD} {name:?} can't be read: {error}"))),
            },
        }
    }
}

/// Links lead nowhere but to within the directory: those by which Kubernetes exchanges its secrets do.
async fn read(directory: PathBuf, name: &str) -> io::Result<Secret> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if !is_plain_name(name) {
        return Err(refused("its name is not the plain name of a file"));
    }
    let directory = tokio::fs::canonicalize(directory).await?;
    let path = tokio::fs::canonicalize(directory.join(name)).await?;
    if !path.starts_with(&directory) {
        return Err(refused("it is a link that leads out of the directory of secrets"));
    }
    // Anything else might never end, or wait for whoever writes it.
    if !tokio::fs::metadata(&path).await?.is_file() {
        return Err(refused("it is no file"));
    }
    let mut password = String::new();
    let file = tokio::fs::File::open(path).await?;
    let length = file.take(MAX_LENGTH + 1).read_to_string(&mut password).await;
    let length =
        length.map_err(
            |error| if error.kind() == io::ErrorKind::InvalidData { refused("it holds no text") } else { error },
        )?;
    if u64::try_from(length).map_or(true, |length| length > MAX_LENGTH) {
        return Err(refused("it is longer than a password can be"));
    }
    let line = password.strip_suffix('\n').unwrap_or(&password);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(refused("it is empty"));
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests;
