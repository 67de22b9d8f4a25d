//! Documents as earlier and later releases write them: each kind is read as if nothing were missing, or too much.

use std::{collections::HashMap, fmt::Debug, net::Ipv4Addr};

use chrono::{DateTime, Utc};
use rmp::{
    decode::{read_map_len, read_str_len},
    encode::{write_map_len, write_str},
};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{tests::target, *};
use crate::model::{
    AlertingSettings, Applied, AuditEntry, AuditId, Backfill, Behind, Checkpoint, CollectionVersion, Consumer,
    ConsumerId, ConsumerStatus, Delivery, Desired, Destination, Filter, IdempotencyKey, Idx, Incident, IncidentId,
    IncidentKind, Lag, Metadata, Notice, NoticeEvent, NoticeId, Provider, QuarantineKey, Quarantined, Reason,
    Resolution, Rewind, Role, RunState, Secret, SequinId, Severity, Subject, SyncId, SyncSettings, TableId, TableName,
    TargetState, TargetStatus, Token, TokenHash, TokenId, UnsupportedText, Webhook, WebhookFormat,
};

type Fields = Vec<(String, Vec<u8>)>;

/// The fields of a map, each value as it is written.
fn fields(map: &[u8]) -> Fields {
    let mut rest = map;
    let number = read_map_len(&mut rest).expect("a map");
    let field = |_| {
        let length = read_str_len(&mut rest).expect("a name");
        let (name, value) = rest.split_at(length.try_into().expect("a length"));
        rest = value;
        rmp_serde::from_read::<_, IgnoredAny>(&mut rest).expect("a value");
        (String::from_utf8(name.into()).expect("text"), value[..value.len() - rest.len()].into())
    };
    (0..number).map(field).collect()
}

/// Changes the map at `path` within another one.
fn change(map: &[u8], path: &[&str], change_it: &dyn Fn(&mut Fields)) -> Vec<u8> {
    let mut fields = fields(map);
    match path {
        [] => change_it(&mut fields),
        [name, path @ ..] => {
            let value = fields.iter_mut().find_map(|(field, value)| (field == name).then_some(value));
            let value = value.unwrap_or_else(|| panic!("no {name}"));
            *value = change(value, path, change_it);
        }
    }
    let mut bytes = Vec::new();
    write_map_len(&mut bytes, fields.len().try_into().expect("few")).expect("memory");
    for (name, value) in fields {
        write_str(&mut bytes, &name).expect("memory");
        bytes.extend(value);
    }
    bytes
}

/// Without a field, as a release wrote it that did not know that.
fn without(document: &[u8], path: &str) -> Vec<u8> {
    let (place, name) = path.rsplit_once('.').unwrap_or(("", path));
    let path: Vec<&str> = ["doc"].into_iter().chain(place.split('.')).filter(|part| !part.is_empty()).collect();
    change(document, &path, &|fields| {
        let before = fields.len();
        fields.retain(|(field, _)| field != name);
        assert_eq!(fields.len(), before - 1, "no {name}");
    })
}

/// With a field more, as a later release may write it.
fn with_more(document: &[u8], place: &str) -> Vec<u8> {
    let path: Vec<&str> = ["doc"].into_iter().chain(place.split('.')).filter(|part| !part.is_empty()).collect();
    let added = rmp_serde::to_vec_named(&([1.5, 2.5], Some("later"), HashMap::from([("a", [0; 20])]))).expect("memory");
    change(document, &path, &|fields| fields.insert(0, ("added_later".into(), added.clone())))
}

/// Checks a document whose fields `since` were added after the first release, and are as they are by default; `within`
/// are maps in it.
fn is_read_across_releases<T: Document + PartialEq + Debug>(document: &T, since: &[&str], within: &[&str]) {
    let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
    let written = encode(T::VERSION, document.to_stored(&keyring));
    let read = |value: Vec<u8>| {
        let entry = Entry { key: T::KIND.into(), value, revision: Revision(1) };
        decode::<T::Stored>(T::VERSION, &entry).map(|stored| T::from_stored(stored, &keyring).expect("it opens"))
    };
    let earlier = since.iter().fold(written.clone(), |document, path| without(&document, path));
    assert_eq!(read(earlier).as_ref(), Ok(document), "as an earlier release wrote it");
    let later = [""].iter().chain(within).fold(written.clone(), |document, place| with_more(&document, place));
    assert_eq!(read(later).as_ref(), Ok(document), "as a later release writes it");
    let newer = change(&written, &[], &|fields| fields[0].1 = vec![T::VERSION + 1]);
    let cause = read(newer).expect_err("it is newer").cause;
    assert_eq!(cause, UnreadableCause::Newer { is: T::VERSION + 1, reads: T::VERSION });
}

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time")
}

fn backfill() -> Backfill {
    Backfill { until: Idx(9), total: 8, done: 7, started_at: at(), finished_at: Some(at()) }
}

fn filter() -> Filter {
    Filter::Provider(Provider::parse("hubspot").expect("a provider"))
}

fn reason() -> Reason {
    Reason {
        code: "table_missing".into(),
        severity: Severity::default(),
        summary: "it is not there".into(),
        since: at(),
        cause: None,
        target: None,
        fix: "create it".into(),
    }
}

#[test]
fn targets_and_consumers() {
    let mut plain = target("app");
    (plain.connection.bastion, plain.connection.tls.client_key_pem) = (None, None);
    let since =
        ["tls.ca_pem", "tls.client_cert_pem", "tls.sealed_client_key", "tls.server_name", "tls.channel_binding"];
    let since = [&since[..], &["password_file", "bastion", "limits"]].concat();
    is_read_across_releases(&plain, &since, &["tls", "limits"]);
    is_read_across_releases(&target("app"), &[], &["tls", "bastion", "limits"]);
    let consumer = Consumer {
        id: ConsumerId::generate(),
        name: "all".into(),
        target: target("app").id,
        filter: filter(),
        table: TableName { schema: "sequin".into(), table: "all".into() },
        unsupported_text: UnsupportedText::default(),
        lag_threshold_seconds: 300,
        lag_threshold_records: None,
        metadata: Metadata::new(),
        desired: Desired::Running,
        attempt: 3,
        rewind: Rewind::default(),
        created_at: at(),
        updated_at: at(),
    };
    is_read_across_releases(&consumer, &["rewind", "lag_threshold_records"], &["table", "rewind"]);
}

#[test]
fn what_the_actors_write() {
    let checkpoint = Checkpoint {
        idx: Idx(7),
        applied: Applied { upserts: 5, deletes: 2, replaced_text: 0 },
        backfill: Some(backfill()),
        ..Checkpoint::default()
    };
    let since = ["applied.replaced_text", "table", "filter", "clears_quarantine", "rewinds"];
    is_read_across_releases(&checkpoint, &since, &["applied", "backfill"]);
    let table = Some(TableId { system: None, database: 1, relation: 2 });
    let checkpoint = Checkpoint { table, filter: Some(filter()), ..checkpoint };
    is_read_across_releases(&checkpoint, &["table.system"], &["table"]);
    let status = ConsumerStatus {
        state: RunState::Live,
        reasons: vec![reason()],
        checked_at: at(),
        backfill: Some(backfill()),
        checkpoint: Idx(7),
        lag: Lag { records: 1, oldest_published_at: Some(at()) },
        eta_seconds: None,
        records_per_second: 1.5,
        applied: Applied::default(),
        quarantined: 0,
        node: "n1".into(),
    };
    let since = ["quarantined", "applied.replaced_text", "eta_seconds"];
    is_read_across_releases(&status, &since, &["lag", "applied", "backfill"]);
    let status = TargetStatus {
        state: TargetState::Unhealthy,
        reason: Some(reason()),
        checked_at: at(),
        consumers_seen: HashMap::new(),
        node: "n1".into(),
    };
    let since = ["consumers_seen", "reason.severity", "reason.cause", "reason.target"];
    is_read_across_releases(&status, &since, &["reason"]);
    let quarantined = Quarantined {
        key: QuarantineKey { consumer: ConsumerId::generate(), record: SequinId(Uuid::from_u128(1)) },
        sync_id: SyncId(Uuid::from_u128(2)),
        collection_id: "contact".into(),
        upstream_id: "1".into(),
        idx: Idx(3),
        sqlstate: None,
        message: "too long".into(),
        fix: "shorten it".into(),
        first_failed_at: at(),
        last_failed_at: at(),
        attempts: 1,
        retry_at: None,
    };
    is_read_across_releases(&quarantined, &[], &["key"]);
}

#[test]
fn what_the_api_writes_beside_them() {
    let settings = SyncSettings {
        id: SyncId(Uuid::from_u128(2)),
        provider: Provider::parse("hubspot").expect("a provider"),
        external_id: Some("acme".into()),
        metadata: "{}".into(),
        updated_at: at(),
    };
    is_read_across_releases(&settings, &[], &[]);
    is_read_across_releases(&CollectionVersion::beginning("contact", 4, Idx(9)), &[], &[]);
    let token = Token {
        id: TokenId::generate(),
        name: "ci".into(),
        role: Role::Publish,
        hash: TokenHash([7; 32]),
        expires_at: None,
        last_used_at: Some(at()),
        created_at: at(),
    };
    is_read_across_releases(&token, &[], &[]);
    let entry = AuditEntry {
        id: AuditId::generate(at()),
        at: at(),
        token: None,
        action: "create".into(),
        kind: "target".into(),
        resource_id: None,
        resource_name: None,
        method: "POST".into(),
        path: "/v1/targets".into(),
        status: 201,
        from: Ipv4Addr::LOCALHOST.into(),
        request_id: "1".into(),
    };
    is_read_across_releases(&entry, &[], &[]);
    let fingerprint = Secret::new("what was asked");
    let id = Uuid::from_u128(5);
    let key = IdempotencyKey { id, resource: "/v1/targets".into(), fingerprint, is_made: true, used_at: at() };
    is_read_across_releases(&key, &[], &[]);
}

#[test]
fn what_people_are_told_of() {
    let incident = Incident {
        id: IncidentId(Uuid::from_u128(4)),
        kind: IncidentKind::ConsumerBehind,
        subject: Subject::Consumer { id: ConsumerId::generate(), name: "all".into(), target: "app".into() },
        consumers: 1,
        records: Some(3),
        behind: Some(Behind { records: 5, oldest_published_at: Some(at()), eta_seconds: Some(9) }),
        reason: reason(),
        opened_at: at(),
        cleared_at: None,
        resolved_at: Some(at()),
        resolution: Some(Resolution::Recovered),
    };
    is_read_across_releases(&incident, &[], &["behind", "reason"]);
    let to = |delivery| (Destination::Email("ops@example.com".into()), delivery);
    let notice = Notice {
        id: NoticeId(Uuid::from_u128(5)),
        event: NoticeEvent::Opened,
        incidents: vec![incident.id],
        shown: vec![incident],
        counts: Vec::new(),
        made_at: at(),
        deliveries: vec![
            to(Delivery::Pending { attempts: 1, next_at: at(), error: Some("451".into()) }),
            to(Delivery::Delivered { at: at() }),
        ],
    };
    is_read_across_releases(&notice, &["counts"], &[]);
    let url = Secret::new("https://hooks.example.com/secret");
    let webhook = Webhook { name: "ops".into(), url, format: WebhookFormat::Slack, secret: None };
    let settings = AlertingSettings { webhooks: vec![webhook], ..AlertingSettings::default() };
    is_read_across_releases(&settings, &[], &[]);
}
