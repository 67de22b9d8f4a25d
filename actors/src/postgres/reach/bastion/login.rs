//! Logging in to an SSH host: by a private key, or by a password, asked for in either of the two ways that there are.

use std::sync::Arc;

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg},
};

use super::{gate::Gate, keys::private_key};
use crate::{
    model::{Bastion, FieldError, Secret},
    postgres::error::Fault,
};

/// How often a host may ask for something: a password, and then a few times nothing, as some do.
const MOST_QUESTIONS: usize = 5;

/// How a login ended, if not well.
enum Refusal {
    /// What was shown is not enough; these would do instead, or besides.
    Refused(MethodSet),
    /// The host only takes signatures by SHA-1.
    OnlySha1,
    /// The host hung up.
    Closed(russh::Error),
}

impl From<russh::Error> for Refusal {
    fn from(error: russh::Error) -> Self {
        Self::Closed(error)
    }
}

/// Logs in to a host that is known. `place` names it.
pub(super) async fn log_in(handle: &mut Handle<Gate>, bastion: &Bastion, place: &str) -> Result<(), Fault> {
    let key = open_key(bastion).await?;
    let user = &bastion.username;
    let outcome = match (key, &bastion.password) {
        (Some(key), password) => match by_key(handle, user, key).await {
            // Some hosts want both.
            Err(Refusal::Refused(further)) if !further.contains(&MethodKind::PublicKey) && password.is_some() => {
                by_password(handle, user, password.as_ref()).await
            }
            outcome => outcome,
        },
        (None, password) => by_password(handle, user, password.as_ref()).await,
    };
    outcome.map_err(|refusal| match refusal {
        Refusal::Refused(_) if handle.is_closed() => Fault::bastion_closed(place, "it hung up while we logged in"),
        Refusal::Refused(further) => Fault::bastion_auth_failed(place, &shown(bastion, &further)),
        Refusal::OnlySha1 => Fault::bastion_algorithms(place, "it takes signatures by RSA keys with SHA-1 only"),
        Refusal::Closed(error) => Fault::bastion_closed(place, &error.to_string()),
    })
}

/// Opening a key by its passphrase takes long on purpose.
async fn open_key(bastion: &Bastion) -> Result<Option<PrivateKey>, Fault> {
    let bastion = bastion.clone();
    let opened = tokio::task::spawn_blocking(move || private_key(&bastion)).await;
    let opened: Result<_, FieldError> = opened.map_err(|_| Fault::internal("reading a private key broke off"))?;
    Ok(opened?)
}

/// Who came with what, and what the host would have instead.
fn shown(bastion: &Bastion, further: &MethodSet) -> String {
    let what = if bastion.private_key.is_some() { "this private key" } else { "this password" };
    let further: Vec<_> = further.iter().map(<&str>::from).collect();
    match further.as_slice() {
        [] => format!("it does not let {} in with {what}", bastion.username),
        further => {
            format!("it does not let {} in with {what}, and would take {}", bastion.username, further.join(", "))
        }
    }
}

async fn by_key(handle: &mut Handle<Gate>, user: &str, key: PrivateKey) -> Result<(), Refusal> {
    // What is asked for RSA alone is waited for by it alone.
    let hash = if key.algorithm().is_rsa() {
        match handle.best_supported_rsa_hash().await? {
            Some(None) => return Err(Refusal::OnlySha1),
            Some(hash) => hash,
            // It did not say.
            None => Some(HashAlg::Sha256),
        }
    } else {
        None
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    match handle.authenticate_publickey(user, key).await? {
        AuthResult::Success => Ok(()),
        AuthResult::Failure { remaining_methods, .. } => Err(Refusal::Refused(remaining_methods)),
    }
}

async fn by_password(handle: &mut Handle<Gate>, user: &str, password: Option<&Secret>) -> Result<(), Refusal> {
    let Some(password) = password else { return Err(Refusal::Refused(MethodSet::empty())) };
    match handle.authenticate_password(user, password.reveal()).await? {
        AuthResult::Success => Ok(()),
        AuthResult::Failure { remaining_methods, .. } if remaining_methods.contains(&MethodKind::Password) => {
            Err(Refusal::Refused(remaining_methods))
        }
        AuthResult::Failure { remaining_methods, .. } => {
            if !remaining_methods.contains(&MethodKind::KeyboardInteractive) {
                return Err(Refusal::Refused(remaining_methods));
            }
            by_questions(handle, user, password).await
        }
    }
}

/// Gives the password once, to the one question whose answer is not to be seen.
async fn by_questions(handle: &mut Handle<Gate>, user: &str, password: &Secret) -> Result<(), Refusal> {
    let mut asked = handle.authenticate_keyboard_interactive_start(user, None).await?;
    let mut password = Some(password.reveal());
    for _ in 0..MOST_QUESTIONS {
        match asked {
            KeyboardInteractiveAuthResponse::Success => return Ok(()),
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => {
                return Err(Refusal::Refused(remaining_methods));
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answer = |echo: bool| if echo { None } else { password.take() };
                let answers: Vec<_> = prompts.iter().map(|prompt| prompt.echo).map(answer).collect();
                let answers = answers.into_iter().map(|answer| answer.unwrap_or_default().to_owned()).collect();
                asked = handle.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
    Err(Refusal::Refused(MethodSet::empty()))
}
