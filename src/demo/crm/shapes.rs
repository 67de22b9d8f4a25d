//! The records as JSON: their place in the sync, and their properties as the API of `hubspot` gives them (every value
//! is text, numbers too; unset ones are null).

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    PROVIDER,
    random::{Random, Thing},
    words,
};

/// A version of a record, from which all else follows.
pub(super) struct Snapshot {
    pub(super) seed: u64,
    pub(super) syncs: u32,
    pub(super) number: u32,
    pub(super) version: u32,
    /// Whether the record has a past, and so may have come a long way already.
    pub(super) grown: bool,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
}

impl Snapshot {
    /// The line of JSON that publishes this version.
    pub(super) fn upsert(&self) -> String {
        let identity = self.identity();
        let payload = match identity.collection_id {
            CONTACT => Properties::Contact(self.contact(&identity)),
            COMPANY => Properties::Company(self.company(&identity)),
            _ => Properties::Deal(self.deal(&identity)),
        };
        let upsert = Upsert {
            op: "upsert",
            provider: PROVIDER,
            sync_id: identity.sync.id,
            sync_external_id: &identity.sync.external_id,
            sync_metadata: SyncMetadata { plan: identity.sync.plan },
            collection_id: identity.collection_id,
            upstream_id: &identity.upstream_id,
            payload,
            upstream_created_at: self.created_at,
            upstream_updated_at: self.updated_at,
        };
        serde_json::to_string(&upsert).expect("a struct of texts and times has a JSON form")
    }

    /// The line of JSON that deletes the record.
    pub(super) fn delete(&self) -> String {
        let identity = self.identity();
        let delete = Delete {
            op: "delete",
            provider: PROVIDER,
            sync_id: identity.sync.id,
            collection_id: identity.collection_id,
            upstream_id: &identity.upstream_id,
        };
        serde_json::to_string(&delete).expect("a struct of texts has a JSON form")
    }
}

const CONTACT: &str = "contact";
const COMPANY: &str = "company";
const DEAL: &str = "deal";

/// What of a record never changes.
struct Identity {
    sync: SyncIdentity,
    collection_id: &'static str,
    upstream_id: String,
}

/// One customer's account.
struct SyncIdentity {
    number: u32,
    id: Uuid,
    external_id: String,
    plan: &'static str,
}

impl Snapshot {
    fn identity(&self) -> Identity {
        let mut random = Random::about(self.seed, Thing::Identity, self.number.into());
        // The lower of two draws: some accounts are larger than others.
        let lower = random.below(self.syncs.into()).min(random.below(self.syncs.into()));
        let drawn = u32::try_from(lower).expect("less than a count of syncs");
        let sync = if self.number < self.syncs { self.number } else { drawn };
        let collection_id = match random.below(100) {
            0..65 => CONTACT,
            65..85 => COMPANY,
            _ => DEAL,
        };
        // No two numbers have the same: the digits that are drawn come after those that are not.
        let upstream_id = (u64::from(self.number) + 10_000_000) * 1000 + random.below(1000);
        Identity { sync: SyncIdentity::new(self.seed, sync), collection_id, upstream_id: upstream_id.to_string() }
    }

    /// Choices about the content, which are the same in each version.
    fn content(&self) -> Random {
        Random::about(self.seed, Thing::Content, self.number.into())
    }

    /// How many steps of `last` the record has made: some in its past, then one every three versions.
    fn steps(&self, random: &mut Random, last: usize) -> usize {
        let begun = random.index(if self.grown { last + 1 } else { 2 });
        let since = usize::try_from((u64::from(self.version) + random.below(3)) / 3).unwrap_or(usize::MAX);
        begun.saturating_add(since).min(last)
    }

    fn lifecycle_stage(&self, random: &mut Random) -> &'static str {
        words::LIFECYCLE_STAGES[self.steps(random, words::LIFECYCLE_STAGES.len() - 1)]
    }
}

impl SyncIdentity {
    fn new(seed: u64, number: u32) -> Self {
        let mut random = Random::about(seed, Thing::Sync, number.into());
        let id = uuid::Builder::from_random_bytes(Uuid::from_u64_pair(random.draw(), random.draw()).into_bytes());
        let name = random.pick(words::SYNC_NAMES);
        Self { number, id: id.into_uuid(), external_id: format!("{name}-{number:04}"), plan: random.pick(words::PLANS) }
    }

    /// One of the five people who look after the account's records.
    fn owner(&self, random: &mut Random) -> String {
        (410_000_000 + u64::from(self.number) * 5 + random.below(5)).to_string()
    }
}

#[derive(Serialize)]
struct Upsert<'a> {
    op: &'static str,
    provider: &'static str,
    sync_id: Uuid,
    sync_external_id: &'a str,
    sync_metadata: SyncMetadata,
    collection_id: &'static str,
    upstream_id: &'a str,
    payload: Properties<'a>,
    upstream_created_at: DateTime<Utc>,
    upstream_updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct SyncMetadata {
    plan: &'static str,
}

#[derive(Serialize)]
struct Delete<'a> {
    op: &'static str,
    provider: &'static str,
    sync_id: Uuid,
    collection_id: &'static str,
    upstream_id: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Properties<'a> {
    Contact(ContactProperties<'a>),
    Company(CompanyProperties<'a>),
    Deal(DealProperties<'a>),
}

#[derive(Serialize)]
struct ContactProperties<'a> {
    hs_object_id: &'a str,
    email: String,
    firstname: &'static str,
    lastname: &'static str,
    phone: Option<String>,
    company: String,
    website: String,
    jobtitle: Option<&'static str>,
    city: &'static str,
    country: &'static str,
    lifecyclestage: &'static str,
    hubspot_owner_id: String,
    num_associated_deals: String,
    num_notes: String,
    createdate: DateTime<Utc>,
    lastmodifieddate: DateTime<Utc>,
}

impl Snapshot {
    fn contact<'a>(&self, identity: &'a Identity) -> ContactProperties<'a> {
        let random = &mut self.content();
        let (firstname, first) = random.pick(words::FIRST_NAMES);
        let (lastname, last) = random.pick(words::LAST_NAMES);
        let (company, domain) = company_name(random);
        let (city, country, prefix) = random.pick(words::PLACES);
        ContactProperties {
            hs_object_id: &identity.upstream_id,
            email: format!("{first}.{last}@{domain}"),
            firstname,
            lastname,
            phone: random.chance(70).then(|| format!("{prefix} {}", 2_000_000 + random.below(8_000_000))),
            company,
            website: format!("https://www.{domain}"),
            jobtitle: random.chance(80).then(|| random.pick(words::JOB_TITLES)),
            city,
            country,
            hubspot_owner_id: identity.sync.owner(random),
            num_associated_deals: random.below(4).to_string(),
            num_notes: (random.below(20) + u64::from(self.version)).to_string(),
            lifecyclestage: self.lifecycle_stage(random),
            createdate: self.created_at,
            lastmodifieddate: self.updated_at,
        }
    }
}

#[derive(Serialize)]
struct CompanyProperties<'a> {
    hs_object_id: &'a str,
    name: String,
    domain: String,
    website: String,
    description: String,
    industry: &'static str,
    phone: String,
    city: &'static str,
    country: &'static str,
    numberofemployees: String,
    annualrevenue: Option<String>,
    lifecyclestage: &'static str,
    hubspot_owner_id: String,
    num_associated_contacts: String,
    createdate: DateTime<Utc>,
    lastmodifieddate: DateTime<Utc>,
}

impl Snapshot {
    fn company<'a>(&self, identity: &'a Identity) -> CompanyProperties<'a> {
        let random = &mut self.content();
        let (name, domain) = company_name(random);
        let (city, country, prefix) = random.pick(words::PLACES);
        let employees = 1 << random.below(13);
        let employees = employees + random.below(employees);
        CompanyProperties {
            hs_object_id: &identity.upstream_id,
            website: format!("https://www.{domain}"),
            description: format!("{name} is a company of {employees} people in {city}."),
            name,
            domain,
            industry: random.pick(words::INDUSTRIES),
            phone: format!("{prefix} {}", 2_000_000 + random.below(8_000_000)),
            city,
            country,
            numberofemployees: employees.to_string(),
            annualrevenue: random.chance(60).then(|| (employees * (50_000 + random.below(150_000))).to_string()),
            hubspot_owner_id: identity.sync.owner(random),
            num_associated_contacts: (random.below(30) + u64::from(self.version)).to_string(),
            lifecyclestage: self.lifecycle_stage(random),
            createdate: self.created_at,
            lastmodifieddate: self.updated_at,
        }
    }
}

#[derive(Serialize)]
struct DealProperties<'a> {
    hs_object_id: &'a str,
    dealname: String,
    amount: String,
    amount_in_home_currency: String,
    deal_currency_code: &'static str,
    pipeline: &'static str,
    dealstage: &'static str,
    dealtype: &'static str,
    hs_is_closed: &'static str,
    hs_deal_stage_probability: &'static str,
    closedate: DateTime<Utc>,
    hubspot_owner_id: String,
    num_associated_contacts: String,
    createdate: DateTime<Utc>,
    lastmodifieddate: DateTime<Utc>,
}

/// How likely a deal is to be won, by its stage; then won, then lost.
const PROBABILITIES: &[&str] = &["0.2", "0.4", "0.6", "0.8", "0.9", "1.0", "0.0"];

impl Snapshot {
    fn deal<'a>(&self, identity: &'a Identity) -> DealProperties<'a> {
        let random = &mut self.content();
        let (company, _) = company_name(random);
        let subject = random.pick(words::DEAL_SUBJECTS);
        let amount = (10 + random.below(2_000)) * 50;
        let is_won = random.chance(40);
        let closes_after = TimeDelta::days(30) + random.span(TimeDelta::days(150));
        let hubspot_owner_id = identity.sync.owner(random);
        let num_associated_contacts = (1 + random.below(5)).to_string();
        let dealtype = random.pick(&["newbusiness", "existingbusiness"]);
        let steps = self.steps(random, words::OPEN_DEAL_STAGES.len());
        let open = words::OPEN_DEAL_STAGES.get(steps).copied();
        DealProperties {
            hs_object_id: &identity.upstream_id,
            dealname: format!("{company} - {subject}"),
            amount: amount.to_string(),
            amount_in_home_currency: amount.to_string(),
            deal_currency_code: random.pick(&["USD", "EUR", "GBP"]),
            pipeline: "default",
            dealstage: open.unwrap_or(if is_won { "closedwon" } else { "closedlost" }),
            dealtype,
            hs_is_closed: if open.is_none() { "true" } else { "false" },
            hs_deal_stage_probability: PROBABILITIES[steps + usize::from(open.is_none() && !is_won)],
            closedate: self.created_at + closes_after,
            hubspot_owner_id,
            num_associated_contacts,
            createdate: self.created_at,
            lastmodifieddate: self.updated_at,
        }
    }
}

/// A company's name and its domain.
fn company_name(random: &mut Random) -> (String, String) {
    let (head, tail) = (random.pick(words::COMPANY_HEADS), random.pick(words::COMPANY_TAILS));
    let (kind, ending) = random.pick(words::COMPANY_KINDS);
    (format!("{head}{tail} {kind}"), format!("{}{tail}{ending}", head.to_ascii_lowercase()))
}
