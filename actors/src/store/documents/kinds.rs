//! The kinds of documents.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    super::{Keyring, KeyringError},
    Document, Named, OnlyOne,
};
use crate::model::{
    AlertingSettings, AuditEntry, AuditId, Bastion, ChannelBinding, Checkpoint, CollectionKey, CollectionVersion,
    Connection, Consumer, ConsumerId, ConsumerStatus, IdempotencyKey, Incident, IncidentId, Limits, Metadata, Notice,
    NoticeId, Ownership, QuarantineKey, Quarantined, Secret, Session, SessionId, SyncId, SyncSettings, Target,
    TargetId, TargetStatus, Tls, TlsMode, Token, TokenId, Webhook, WebhookFormat,
};

/// A document that is written down as it is. One that holds secrets is none, and is named in `rotation.rs`.
macro_rules! plain_document {
    ($document:ty, $kind:literal, $id:ty) => {
        impl Document for $document {
            const KIND: &'static str = $kind;
            type Id = $id;
            type Stored = Self;

            fn to_stored(&self, _: &Keyring) -> Self {
                self.clone()
            }

            fn from_stored(stored: Self, _: &Keyring) -> Result<Self, KeyringError> {
                Ok(stored)
            }
        }
    };
}

plain_document!(Consumer, "consumer", ConsumerId);
plain_document!(Checkpoint, "checkpoint", ConsumerId);
plain_document!(ConsumerStatus, "consumer-status", ConsumerId);
plain_document!(TargetStatus, "target-status", TargetId);
plain_document!(Quarantined, "quarantine", QuarantineKey);
plain_document!(SyncSettings, "sync", SyncId);
plain_document!(CollectionVersion, "collection-version", CollectionKey);
plain_document!(Token, "token", TokenId);
plain_document!(AuditEntry, "audit", AuditId);
plain_document!(Session, "session", SessionId);
plain_document!(Ownership, "ownership", TargetId);
plain_document!(Incident, "incident", IncidentId);
plain_document!(Notice, "notice", NoticeId);

impl Named for Consumer {
    fn id(&self) -> ConsumerId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Token {
    fn id(&self) -> TokenId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Target {
    fn id(&self) -> TargetId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// An idempotency key as it is written down: what tells of the request sealed.
#[derive(Serialize, Deserialize)]
pub struct StoredIdempotencyKey {
    id: Uuid,
    resource: String,
    sealed_fingerprint: Vec<u8>,
    is_made: bool,
    used_at: DateTime<Utc>,
}

impl Document for IdempotencyKey {
    const KIND: &'static str = "idempotency-key";
    type Id = Uuid;
    type Stored = StoredIdempotencyKey;

    fn to_stored(&self, keyring: &Keyring) -> StoredIdempotencyKey {
        let Self { id, resource, fingerprint, is_made, used_at } = self.clone();
        let sealed_fingerprint = keyring.seal(&fingerprint, &id.to_string());
        StoredIdempotencyKey { id, resource, sealed_fingerprint, is_made, used_at }
    }

    fn from_stored(stored: StoredIdempotencyKey, keyring: &Keyring) -> Result<Self, KeyringError> {
        let StoredIdempotencyKey { id, resource, sealed_fingerprint, is_made, used_at } = stored;
        let fingerprint = keyring.open(&sealed_fingerprint, &id.to_string())?;
        Ok(Self { id, resource, fingerprint, is_made, used_at })
    }
}

/// A target as it is written down: its secrets sealed.
#[derive(Serialize, Deserialize)]
pub struct StoredTarget {
    id: TargetId,
    name: String,
    host: String,
    port: u16,
    database: String,
    username: String,
    sealed_password: Option<Vec<u8>>,
    #[serde(default)]
    password_file: Option<String>,
    tls: StoredTls,
    #[serde(default)]
    bastion: Option<StoredBastion>,
    pool_size: u32,
    #[serde(default)]
    limits: Limits,
    metadata: Metadata,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct StoredTls {
    mode: TlsMode,
    #[serde(default)]
    ca_pem: Option<String>,
    #[serde(default)]
    client_cert_pem: Option<String>,
    #[serde(default)]
    sealed_client_key: Option<Vec<u8>>,
    #[serde(default)]
    server_name: Option<String>,
    #[serde(default)]
    channel_binding: ChannelBinding,
}

#[derive(Serialize, Deserialize)]
struct StoredBastion {
    host: String,
    port: u16,
    username: String,
    sealed_private_key: Option<Vec<u8>>,
    sealed_passphrase: Option<Vec<u8>>,
    sealed_password: Option<Vec<u8>>,
    host_key: Option<String>,
    trust_on_first_use: bool,
}

/// What a target's secrets are sealed for: they open for no other target.
fn owner(target: TargetId) -> String {
    format!("target {target}")
}

impl Document for Target {
    const KIND: &'static str = "target";
    type Id = TargetId;
    type Stored = StoredTarget;

    fn to_stored(&self, keyring: &Keyring) -> StoredTarget {
        let Connection { host, port, database, username, password, password_file, tls, bastion } =
            self.connection.clone();
        let seal = |secret: Option<Secret>| secret.map(|secret| keyring.seal(&secret, &owner(self.id)));
        StoredTarget {
            id: self.id,
            name: self.name.clone(),
            host,
            port,
            database,
            username,
            sealed_password: seal(password),
            password_file,
            tls: StoredTls {
                mode: tls.mode,
                ca_pem: tls.ca_pem,
                client_cert_pem: tls.client_cert_pem,
                sealed_client_key: seal(tls.client_key_pem),
                server_name: tls.server_name,
                channel_binding: tls.channel_binding,
            },
            bastion: bastion.map(|bastion| StoredBastion {
                host: bastion.host,
                port: bastion.port,
                username: bastion.username,
                sealed_private_key: seal(bastion.private_key),
                sealed_passphrase: seal(bastion.passphrase),
                sealed_password: seal(bastion.password),
                host_key: bastion.host_key,
                trust_on_first_use: bastion.trust_on_first_use,
            }),
            pool_size: self.pool_size,
            limits: self.limits,
            metadata: self.metadata.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    fn from_stored(stored: StoredTarget, keyring: &Keyring) -> Result<Self, KeyringError> {
        let StoredTarget { id, tls, .. } = stored;
        let open = |sealed: Option<Vec<u8>>| sealed.map(|sealed| keyring.open(&sealed, &owner(id))).transpose();
        let tls = Tls {
            mode: tls.mode,
            ca_pem: tls.ca_pem,
            client_cert_pem: tls.client_cert_pem,
            client_key_pem: open(tls.sealed_client_key)?,
            server_name: tls.server_name,
            channel_binding: tls.channel_binding,
        };
        let bastion = stored.bastion.map(|bastion| {
            Ok(Bastion {
                host: bastion.host,
                port: bastion.port,
                username: bastion.username,
                private_key: open(bastion.sealed_private_key)?,
                passphrase: open(bastion.sealed_passphrase)?,
                password: open(bastion.sealed_password)?,
                host_key: bastion.host_key,
                trust_on_first_use: bastion.trust_on_first_use,
            })
        });
        Ok(Self {
            id,
            name: stored.name,
            connection: Connection {
                host: stored.host,
                port: stored.port,
                database: stored.database,
                username: stored.username,
                password: open(stored.sealed_password)?,
                password_file: stored.password_file,
                tls,
                bastion: bastion.transpose()?,
            },
            pool_size: stored.pool_size,
            limits: stored.limits,
            metadata: stored.metadata,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
        })
    }
}

/// Whom to tell as it is written down: where to call, and with which key, sealed.
#[derive(Serialize, Deserialize)]
pub struct StoredAlertingSettings {
    recipients: Vec<String>,
    webhooks: Vec<StoredWebhook>,
    reminder_minutes: u32,
    updated_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct StoredWebhook {
    name: String,
    format: WebhookFormat,
    sealed_url: Vec<u8>,
    sealed_secret: Option<Vec<u8>>,
}

/// What a webhook's secrets are sealed for.
fn of_webhook(name: &str) -> String {
    format!("webhook {name}")
}

impl Document for AlertingSettings {
    const KIND: &'static str = "alerting";
    type Id = OnlyOne;
    type Stored = StoredAlertingSettings;

    fn to_stored(&self, keyring: &Keyring) -> StoredAlertingSettings {
        let Self { recipients, webhooks, reminder_minutes, updated_at } = self.clone();
        let stored = |Webhook { name, url, format, secret }| StoredWebhook {
            sealed_url: keyring.seal(&url, &of_webhook(&name)),
            sealed_secret: secret.map(|secret| keyring.seal(&secret, &of_webhook(&name))),
            name,
            format,
        };
        let webhooks = webhooks.into_iter().map(stored).collect();
        StoredAlertingSettings { recipients, webhooks, reminder_minutes, updated_at }
    }

    fn from_stored(stored: StoredAlertingSettings, keyring: &Keyring) -> Result<Self, KeyringError> {
        let StoredAlertingSettings { recipients, webhooks, reminder_minutes, updated_at } = stored;
        let open = |StoredWebhook { name, format, sealed_url, sealed_secret }| {
            let owner = of_webhook(&name);
            let url = keyring.open(&sealed_url, &owner)?;
            let secret = sealed_secret.map(|sealed| keyring.open(&sealed, &owner)).transpose()?;
            Ok(Webhook { name, url, format, secret })
        };
        let webhooks = webhooks.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { recipients, webhooks, reminder_minutes, updated_at })
    }
}
