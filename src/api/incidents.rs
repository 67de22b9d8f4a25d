//! Incidents: what is or was wrong for long enough that somebody should know, and who was told.

mod view;

use std::{collections::HashMap, sync::Arc};

use axum::Json;
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Incident, IncidentId, IncidentKind, Notice, Subject, Target},
    store::Documents,
};
use serde::Deserialize;
use utoipa::IntoParams;

use self::view::{IncidentView, NoticeView, kind_words};
use super::{
    Api, State,
    body::{Params, Path},
    problem::Problem,
    resources::{List, PageParams, beside, find},
};

/// Which incidents to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct IncidentParams {
    /// Those that are not over, or those that are.
    open: Option<bool>,
    /// Those of this kind.
    #[param(schema_with = kind_words)]
    kind: Option<String>,
    /// Those of the target of this id or name, and of consumers that write to it.
    target: Option<String>,
    /// Those of the consumer of this id or name.
    consumer: Option<String>,
    /// The most that a page has: 100, when it is not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Where an incident stands in the list: the newest comes first.
type Place = (DateTime<Utc>, IncidentId);

fn place(incident: &Incident) -> Place {
    (incident.opened_at, incident.id)
}

/// A place as `next` writes it: what stands there may be forgotten by the time somebody goes on from it.
fn cursor((opened_at, id): Place) -> String {
    format!("{}-{id}", opened_at.timestamp_nanos_opt().unwrap_or_default())
}

fn parse_cursor(text: &str) -> Option<Place> {
    let (nanos, id) = text.split_once('-')?;
    Some((DateTime::from_timestamp_nanos(nanos.parse().ok()?), id.parse().ok()?))
}

/// What is listed.
struct Wanted {
    is_open: Option<bool>,
    kind: Option<IncidentKind>,
    /// What the target may be called.
    target: Option<Vec<String>>,
    consumer: Option<String>,
    after: Option<Place>,
}

impl IncidentParams {
    async fn wanted(&self, documents: &Documents) -> Result<Wanted, Problem> {
        let kind = |word: &String| {
            let found = IncidentKind::ALL.into_iter().find(|kind| kind.as_str() == word);
            let all = IncidentKind::ALL.map(IncidentKind::as_str).join(", ");
            found.ok_or_else(|| Problem::invalid_field("kind", format!("takes one of {all}")))
        };
        let after = |cursor: &String| {
            parse_cursor(cursor).ok_or_else(|| Problem::invalid_field("after", "takes the `next` of the page before"))
        };
        Ok(Wanted {
            is_open: self.open,
            kind: self.kind.as_ref().map(kind).transpose()?,
            target: match &self.target {
                Some(target) => Some(names(documents, target).await?),
                None => None,
            },
            consumer: self.consumer.clone(),
            after: self.after.as_ref().map(after).transpose()?,
        })
    }
}

/// What a target is called in incidents: by the id or name that is given, which may be gone, and by those that it has.
async fn names(documents: &Documents, target: &str) -> Result<Vec<String>, Problem> {
    match find::<Target>(documents, target).await {
        Ok(found) => Ok(vec![target.into(), found.value.id.to_string(), found.value.name]),
        Err(problem) if problem.is_not_found() => Ok(vec![target.into()]),
        Err(problem) => Err(problem),
    }
}

impl Wanted {
    fn has(&self, incident: &Incident) -> bool {
        let is_target = |wanted: &Vec<String>| match &incident.subject {
            Subject::Target { id, name } => wanted.contains(name) || wanted.contains(&id.to_string()),
            Subject::Consumer { target, .. } => wanted.contains(target),
            Subject::Node { .. } => false,
        };
        let is_consumer = |wanted: &String| match &incident.subject {
            Subject::Consumer { id, name, .. } => wanted == name || *wanted == id.to_string(),
            Subject::Target { .. } | Subject::Node { .. } => false,
        };
        self.is_open.is_none_or(|is_open| is_open == incident.resolved_at.is_none())
            && self.kind.is_none_or(|kind| kind == incident.kind)
            && self.target.as_ref().is_none_or(is_target)
            && self.consumer.as_ref().is_none_or(is_consumer)
            && self.after.is_none_or(|after| place(incident) < after)
    }
}

/// How many notices of each incident a list shows: the last ones.
const NOTICES_IN_LIST: usize = 10;

/// What was said of some incidents, in order of time: the last `most` notices of each. A notice may be of thousands, so it is
/// shown once for all of them, and of those that are not asked for nothing is kept.
fn said(notices: Vec<Notice>, of: &[IncidentId], most: usize) -> HashMap<IncidentId, Vec<Arc<NoticeView>>> {
    let mut said: HashMap<_, Vec<Arc<NoticeView>>> = of.iter().map(|incident| (*incident, Vec::new())).collect();
    let mut newest_first = notices;
    newest_first.sort_unstable_by_key(|notice| std::cmp::Reverse((notice.made_at, notice.id)));
    for mut notice in newest_first {
        let mut about = std::mem::take(&mut notice.incidents);
        about.retain(|incident| said.get(incident).is_some_and(|said| said.len() < most));
        if about.is_empty() {
            continue;
        }
        let view = Arc::new(NoticeView::of(notice));
        for incident in about {
            said.entry(incident).or_default().push(Arc::clone(&view));
        }
    }
    for notices in said.values_mut() {
        notices.reverse();
    }
    said
}

async fn notices(documents: &Documents) -> Result<Vec<Notice>, Problem> {
    // Those that can't be read are for whoever delivers them to tell of.
    Ok(documents.all::<Notice>().await?.into_iter().flatten().collect())
}

fn view(api: &Api, incident: Incident, said: Vec<Arc<NoticeView>>) -> IncidentView {
    IncidentView::of(incident, said, api.telling.console_url.as_deref(), Utc::now())
}

/// Lists incidents, the newest first, each with the last ten notices of it.
#[utoipa::path(get, path = "/v1/incidents", tag = "alerting", operation_id = "list_incidents", params(IncidentParams),
    responses((status = 200, description = "A page of them", body = List<IncidentView>)))]
pub(super) async fn list(
    api: State,
    Params(params): Params<IncidentParams>,
) -> Result<Json<List<IncidentView>>, Problem> {
    let limit = PageParams { limit: params.limit, after: None }.limit()?;
    let wanted = params.wanted(&api.documents).await?;
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for incident in api.documents.all::<Incident>().await? {
        match incident {
            Ok(incident) if wanted.has(&incident) => found.push(incident),
            Ok(_) => {}
            Err(error) => unreadable.push(error),
        }
    }
    found.sort_by_key(|incident| std::cmp::Reverse(place(incident)));
    let on_page: Vec<IncidentId> = found.iter().take(limit).map(|incident| incident.id).collect();
    let mut said = said(notices(&api.documents).await?, &on_page, NOTICES_IN_LIST);
    let show = |incident: Incident| {
        let said = said.remove(&incident.id).unwrap_or_default();
        view(&api, incident, said)
    };
    let list = List::page(found, limit, |incident| cursor(place(incident)), show);
    // Where they would stand is not known: they are told of once.
    let told = unreadable.iter().filter(|_| wanted.after.is_none());
    Ok(Json(told.fold(list, List::without)))
}

/// Shows an incident, and who was told of it.
#[utoipa::path(get, path = "/v1/incidents/{incident}", tag = "alerting", operation_id = "read_incident",
    responses((status = 200, description = "The incident", body = IncidentView)))]
pub(super) async fn read(api: State, Path(incident): Path<String>) -> Result<Json<IncidentView>, Problem> {
    let not_there = || Problem::not_found(format!("there is no incident {incident}"));
    let id: IncidentId = incident.parse().map_err(|_| not_there())?;
    let found = beside::<Incident>(&api.documents, id).await?.ok_or_else(not_there)?;
    let said = said(notices(&api.documents).await?, &[id], usize::MAX).remove(&id).unwrap_or_default();
    Ok(Json(view(&api, found, said)))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use sequin_actors::model::{ConsumerId, NoticeEvent, NoticeId, TargetId};
    use uuid::Uuid;

    use super::{view::tests::incident, *};

    fn wanted() -> Wanted {
        Wanted { is_open: None, kind: None, target: None, consumer: None, after: None }
    }

    #[test]
    fn a_place_in_the_list_is_found_again() {
        let opened_at = DateTime::UNIX_EPOCH + TimeDelta::nanoseconds(1_800_000_000_123_456_789);
        let place = (opened_at, IncidentId(Uuid::from_u128(7)));
        assert_eq!(parse_cursor(&cursor(place)), Some(place));
        for wrong in ["", "x", "7", "7-", "-7", "x-0dea6e4e-64b9-4b1c-ac03-2e6b25795c18"] {
            assert_eq!(parse_cursor(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_incident_is_listed_by_what_it_is_about() {
        let (target, consumer) = (TargetId::generate(), ConsumerId::generate());
        let of_target = incident(Subject::Target { id: target, name: "app".into() });
        let of_consumer = incident(Subject::Consumer { id: consumer, name: "c".into(), target: "app".into() });
        let of_node = incident(Subject::Node { name: "app".into() });
        let listed = |wanted: &Wanted| [&of_target, &of_consumer, &of_node].map(|incident| wanted.has(incident));
        let by_target =
            |names: &[&str]| Wanted { target: Some(names.iter().map(ToString::to_string).collect()), ..wanted() };
        assert_eq!(listed(&wanted()), [true; 3]);
        assert_eq!(listed(&by_target(&["app"])), [true, true, false]);
        assert_eq!(listed(&by_target(&["new-name", &target.to_string()])), [true, false, false]);
        for name in ["c".to_owned(), consumer.to_string()] {
            assert_eq!(listed(&Wanted { consumer: Some(name), ..wanted() }), [false, true, false]);
        }
        assert_eq!(listed(&Wanted { is_open: Some(false), ..wanted() }), [false; 3]);
        assert_eq!(listed(&Wanted { kind: Some(IncidentKind::NodeSilent), ..wanted() }), [false; 3]);
        let after = Wanted { after: Some(place(&of_target)), ..wanted() };
        assert!(!listed(&after)[0], "only what comes after it");
    }

    #[test]
    fn of_thousands_that_are_told_of_at_once_only_those_asked_for_are_shown_and_the_notice_once_for_all() {
        let ids: Vec<IncidentId> = (0..10_000).map(|number| IncidentId(Uuid::from_u128(number))).collect();
        let shown = incident(Subject::Node { name: "app".into() });
        let notice = |minutes: i64| Notice {
            id: NoticeId::generate(),
            event: NoticeEvent::Reminded,
            incidents: ids.clone(),
            shown: vec![shown.clone(); 25],
            counts: Vec::new(),
            made_at: DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes),
            deliveries: Vec::new(),
        };
        let digests = vec![notice(3), notice(1), notice(2)];
        let expected: Vec<Uuid> = [2, 0].map(|place: usize| digests[place].id.0).into();
        let said = said(digests, &[ids[5], ids[7]], 2);
        assert_eq!(said.len(), 2);
        let [one, other] = [5, 7].map(|number| &said[&ids[number]]);
        assert_eq!(one.iter().map(|notice| notice.id).collect::<Vec<_>>(), expected, "the last ones, in order");
        assert!(one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other)), "each is there once");
    }
}
