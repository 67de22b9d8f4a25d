//! `Idempotency-Key`: a create that is sent again makes nothing twice
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).
//!
//! What a key is used for is written before anything is made: the id that the resource will have. Whoever comes again with
//! the key finds the resource under that id, or makes it if whoever came before did not get so far.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use sequin_actors::{
    model::{IdempotencyKey, Secret},
    store::{Documents, DocumentsError, Named, StoreError, Versioned},
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use utoipa::{
    IntoParams,
    openapi::{
        Object, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::Type,
    },
};
use uuid::Uuid;

use super::{
    body::{JSON_LIMIT, LimitedBytes, parse_object},
    problem::Problem,
};

/// The header that bears the key.
pub(super) const HEADER: &str = "idempotency-key";

/// For how long a key is remembered.
const REMEMBERED: TimeDelta = TimeDelta::hours(24);

/// How often those that are not are forgotten.
const FORGOTTEN_EVERY: Duration = Duration::from_secs(3600);

/// The longest key, in bytes.
const MAX_BYTES: usize = 255;

/// The namespace of what keys lie under in the store.
const KEYS: Uuid = Uuid::from_u128(0x2f9c_61d0_3b7e_4a55_8c14_d2a9_7e60_51b3);

/// A request that makes something, and the key that it came with.
pub(super) struct Once<T> {
    pub(super) request: T,
    pub(super) key: Option<Key>,
}

/// A key, for one kind of resource.
pub(super) struct Key {
    text: String,
    fingerprint: Secret,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Once<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let header = request.headers().get(HEADER).map(|value| value.to_str().unwrap_or_default().to_owned());
        if header.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_BYTES) {
            let message = format!("takes 1 to {MAX_BYTES} bytes of ASCII");
            return Err(Problem::invalid_field("Idempotency-Key", message));
        }
        let LimitedBytes(body) = LimitedBytes::<JSON_LIMIT>::from_request(request, state).await?;
        let fingerprint = || Secret::new(BASE64_STANDARD.encode(Sha256::digest(&body)));
        let key = header.map(|text| Key { text, fingerprint: fingerprint() });
        Ok(Self { request: parse_object(&body)?, key })
    }
}

impl<T> IntoParams for Once<T> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let meaning = "Sent again with the same key and body within 24 hours, the request makes nothing twice, and is \
                       answered with what the first one made.";
        let header = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(meaning))
            .schema(Some(Object::with_type(Type::String)));
        vec![header.build()]
    }
}

/// Makes what is asked for, unless it was made before with the same key.
pub(super) async fn create_once<T: Named>(
    documents: &Documents,
    key: Option<Key>,
    value: T,
    with_id: impl FnOnce(T, T::Id) -> T,
    now: DateTime<Utc>,
) -> Result<Versioned<T>, Problem> {
    let Some(key) = key else {
        let revision = documents.create(&value, now).await?;
        return Ok(Versioned { value, revision });
    };
    let (value, used) = match key.use_for::<T>(documents, value.id(), now).await? {
        Use::Again(found) => return Ok(found),
        Use::First(id, used) => (with_id(value, id), used),
    };
    let made = match documents.create(&value, now).await {
        Ok(revision) => Versioned { value, revision },
        // Somebody with the same key was faster, perhaps.
        Err(error @ (DocumentsError::NameTaken { .. } | DocumentsError::Store(StoreError::Conflict { .. }))) => {
            documents.get::<T>(value.id()).await?.ok_or(error)?
        }
        Err(error) => return Err(error.into()),
    };
    documents.put(used.id, &IdempotencyKey { is_made: true, ..used }).await?;
    Ok(made)
}

/// What a key is good for.
enum Use<T: Named> {
    /// To make the resource, under this id, as is written down.
    First(T::Id, IdempotencyKey),
    /// It was made.
    Again(Versioned<T>),
}

impl Key {
    fn id<T: Named>(&self) -> Uuid {
        Uuid::new_v5(&KEYS, format!("{} {}", T::KIND, self.text).as_bytes())
    }

    /// What was made with this key already.
    pub(super) async fn made<T: Named>(
        &self,
        documents: &Documents,
        now: DateTime<Utc>,
    ) -> Result<Option<Versioned<T>>, Problem> {
        match documents.get::<IdempotencyKey>(self.id::<T>()).await? {
            Some(found) if is_remembered(&found.value, now) => self.made_as(documents, &found.value).await,
            _ => Ok(None),
        }
    }

    async fn made_as<T: Named>(
        &self,
        documents: &Documents,
        used: &IdempotencyKey,
    ) -> Result<Option<Versioned<T>>, Problem> {
        if used.fingerprint != self.fingerprint {
            return Err(Problem::invalid_field("Idempotency-Key", "was used with another body: take another key"));
        }
        let Ok(resource) = used.resource.parse() else { return Ok(None) };
        match documents.get::<T>(resource).await? {
            None if used.is_made => {
                Err(Problem::conflict("what was made with this Idempotency-Key was deleted since: take another key"))
            }
            made => Ok(made),
        }
    }

    async fn use_for<T: Named>(
        self,
        documents: &Documents,
        fresh: T::Id,
        now: DateTime<Utc>,
    ) -> Result<Use<T>, Problem> {
        let id = self.id::<T>();
        let (resource, fingerprint) = (fresh.to_string(), self.fingerprint.clone());
        let used = IdempotencyKey { id, resource, fingerprint, is_made: false, used_at: now };
        let found = match documents.get::<IdempotencyKey>(id).await? {
            None => match documents.insert(id, &used).await {
                Ok(_) => return Ok(Use::First(fresh, used)),
                Err(DocumentsError::Store(StoreError::Conflict { .. })) => return Err(in_use()),
                Err(error) => return Err(error.into()),
            },
            Some(found) if !is_remembered(&found.value, now) => {
                documents.update(id, &used, found.revision).await?;
                return Ok(Use::First(fresh, used));
            }
            Some(found) => found.value,
        };
        Ok(match self.made_as(documents, &found).await? {
            Some(made) => Use::Again(made),
            None => match found.resource.parse() {
                Ok(resource) => Use::First(resource, found),
                Err(_) => Use::First(fresh, used),
            },
        })
    }
}

fn is_remembered(used: &IdempotencyKey, now: DateTime<Utc>) -> bool {
    (now - used.used_at).abs() <= REMEMBERED
}

fn in_use() -> Problem {
    Problem::conflict("a request with the same Idempotency-Key is under way: send it again once that is answered")
}

/// Forgets the keys that are not remembered any longer, for ever.
pub(super) async fn keep_up(documents: &Documents) {
    loop {
        if let Err(error) = forget_old(documents, Utc::now()).await {
            tracing::warn!(%error, "idempotency keys that are not needed any more were not forgotten");
        }
        tokio::time::sleep(FORGOTTEN_EVERY).await;
    }
}

async fn forget_old(documents: &Documents, now: DateTime<Utc>) -> Result<(), DocumentsError> {
    for found in documents.all::<IdempotencyKey>().await?.into_iter().flatten() {
        if !is_remembered(&found, now) {
            documents.delete::<IdempotencyKey>(found.id, None).await?;
        }
    }
    Ok(())
}
