//! What mail says, of each kind of incident and in both of its forms. `MAILS=FOLDER` keeps the HTML there, to be looked at in a
//! browser when something of it changes.

use std::{env, fs, path::Path};

use super::{
    super::samples::{ago, consumer, digest, incident, notice, now, resolved},
    *,
};
use crate::model::{Incident, IncidentKind, Reason};

fn mailbox() -> Mailbox {
    "Sequin <sequin@example.com>".parse().expect("a sender")
}

/// Both forms of a mail.
fn forms(notice: &Notice) -> (String, String) {
    let from = mailbox();
    let letterhead = Letterhead { from: &from, cluster: "sequin", console: Some("https://console.example.com/") };
    letterhead.forms(notice, &title(notice)).expect("the forms")
}

/// Each kind of mail there is, by what it is called.
fn every_mail() -> Vec<(String, Notice)> {
    let of_kind = |event: NoticeEvent, incident: Incident| {
        (format!("{}-{}", event.as_str(), incident.kind.as_str()), notice(event, vec![incident]))
    };
    let opened = IncidentKind::ALL.map(|kind| of_kind(NoticeEvent::Opened, incident(kind)));
    let later = IncidentKind::ALL.map(|kind| {
        let incident = incident(kind);
        let reason = Reason { since: ago(2 * 24 * 60 + 30), ..incident.reason };
        of_kind(NoticeEvent::Reminded, Incident { reason, ..incident })
    });
    let over = IncidentKind::ALL.map(|kind| of_kind(NoticeEvent::Resolved, resolved(incident(kind))));
    let events = [NoticeEvent::Opened, NoticeEvent::Reminded, NoticeEvent::Resolved];
    let digests = events.map(|event| (format!("{}-digest", event.as_str()), digest(event)));
    let test = ("test".to_owned(), notice(NoticeEvent::Test, Vec::new()));
    opened.into_iter().chain(later).chain(over).chain(digests).chain([test]).collect()
}

#[test]
fn each_kind_of_mail_says_all_there_is_to_say_in_both_of_its_forms() {
    let folder = env::var_os("MAILS");
    for (name, notice) in every_mail() {
        let (text, html) = forms(&notice);
        if let Some(folder) = &folder {
            fs::write(Path::new(folder).join(format!("{name}.html")), &html).expect("a file");
            fs::write(Path::new(folder).join(format!("{name}.txt")), &text).expect("a file");
        }
        for incident in notice.shown.iter().take(1).filter(|_| total(&notice) == 1) {
            let Reason { summary, fix, cause, .. } = &incident.reason;
            let is_over = notice.event == NoticeEvent::Resolved;
            let todo = [fix.clone(), cause.clone().unwrap_or_default()];
            for said in [summary, &title(&notice), "https://console.example.com/"] {
                assert!(text.contains(said), "{name}: {said}:\n{text}");
            }
            for said in todo {
                assert!(text.contains(&said) != is_over || said.is_empty(), "{name}: {said}:\n{text}");
            }
        }
        for said in [title(&notice), "cluster sequin".into(), "2026-11-22 23:04 UTC".into()] {
            assert!(text.contains(&said) && html.contains(&said.replace('\'', "&#39;")), "{name}: {said}\n{text}");
        }
        assert!(!text.contains("\n\n\n"), "{name}:\n{text}");
        assert!(!html.contains("<img") && !html.contains("<script"), "{name}");
    }
}

#[test]
fn a_mail_of_one_incident_reads_so() {
    let (text, _) = forms(&notice(NoticeEvent::Opened, vec![incident(IncidentKind::ConsumerHalted)]));
    // The database's words are in the title already, and are not said twice.
    let expected = "\
Consumer hubspot-to-app has halted: table sequin.hubspot lacks the column upstream_updated_at (timestamptz)

Consumer: hubspot-to-app
Target: app
Since: 2026-11-22 22:57 UTC (7 min)

Why
the table is not, or no longer, as the create-table statement makes it

What to do
alter table \"sequin\".\"hubspot\"
  add column \"upstream_updated_at\" timestamptz not null default now();

https://console.example.com/incidents/00000000-0000-0000-0000-00000000001d

-- 
Sent by Sequin, cluster sequin, as things were at 2026-11-22 23:04 UTC.
It goes to all recipients of the cluster's alerts, which its administrators set (/v1/alerting).
";
    assert_eq!(text, expected);
}

#[test]
fn many_incidents_are_one_mail_that_names_the_first_and_counts_the_others() {
    let (text, html) = forms(&digest(NoticeEvent::Opened));
    for form in [&text, &html] {
        for said in
            ["214 incidents: 3 targets unhealthy, 211 consumers behind", "hubspot-to-22 is behind", "and 189 more"]
        {
            assert!(form.contains(said), "{said}:\n{form}");
        }
    }
}

#[test]
fn what_others_wrote_is_text_in_html_and_never_a_tag() {
    let mut incident = incident(IncidentKind::ConsumerHalted);
    incident.subject = consumer("<b>a</b>");
    incident.reason.summary = "bad value: <script>alert(1)</script> & \"<img src=x>\"".into();
    incident.reason.fix = "</pre><a href='https://evil.example.com'>click</a>;".into();
    incident.reason.cause = Some("<style>*{display:none}</style>".into());
    let (text, html) = forms(&notice(NoticeEvent::Opened, vec![incident]));
    for tag in ["<script>", "<img", "<b>", "</pre><a", "<style>*"] {
        assert!(!html.contains(tag), "{tag}:\n{html}");
    }
    assert!(text.contains("<script>alert(1)</script> & \"<img src=x>\""), "{text}");
}

#[test]
fn a_text_of_any_length_is_cut_and_one_of_many_lines_stays_below_the_title() {
    let mut incident = incident(IncidentKind::ConsumerHalted);
    incident.reason.summary = format!("first\nsecond\n{}", "é".repeat(10_000));
    let notice = notice(NoticeEvent::Opened, vec![incident]);
    let title = title(&notice);
    assert!(title.chars().count() <= 240 && !title.contains('\n'), "{title}");
    let (text, html) = forms(&notice);
    assert!(text.contains("\nfirst\nsecond\né"), "{text}");
    assert!(text.len() < 6_000 && html.len() < 30_000, "{} {}", text.len(), html.len());
}

#[test]
fn without_a_console_there_is_no_link() {
    let from = mailbox();
    let letterhead = Letterhead { from: &from, cluster: "east", console: None };
    for (name, notice) in every_mail() {
        let (text, html) = letterhead.forms(&notice, &title(&notice)).expect("the forms");
        assert!(!text.contains("http") && !html.contains("href"), "{name}:\n{text}");
    }
}

#[test]
fn a_message_is_known_by_its_notice_and_address_and_its_incident_by_what_it_refers_to() {
    let from = mailbox();
    let letterhead = Letterhead { from: &from, cluster: "sequin", console: None };
    let headers = |notice: &Notice, to: &str| {
        let message = letterhead.write(notice, to.parse().expect("an address"), now()).expect("a message");
        ["Message-ID", "References", "In-Reply-To"].map(|name| message.headers().get_raw(name).map(ToOwned::to_owned))
    };
    let opened = notice(NoticeEvent::Opened, vec![incident(IncidentKind::ConsumerBehind)]);
    let mut over = notice(NoticeEvent::Resolved, vec![resolved(incident(IncidentKind::ConsumerBehind))]);
    over.id = crate::model::NoticeId::generate();
    let [id, thread, parent] = headers(&opened, "a@example.com");
    assert_eq!(headers(&opened, "a@example.com")[0], id);
    assert_ne!(headers(&opened, "b@example.com")[0], id);
    assert_ne!(headers(&over, "a@example.com")[0], id);
    assert_eq!(headers(&over, "a@example.com")[1..], [thread.clone(), parent]);
    assert_eq!(thread.expect("a thread"), "<incident.00000000-0000-0000-0000-00000000001d@example.com>");
    assert_eq!(headers(&digest(NoticeEvent::Opened), "a@example.com")[1], None);
}

#[test]
fn a_recipient_is_an_address_that_mail_servers_take_and_nothing_hides_in_it() {
    let check = |address: &str| check_recipient("recipients[1]", address);
    let long = "x".repeat(64);
    let longest = format!("{long}@example.com");
    for good in ["ops@example.com", "a.b+c@mail.example.co.uk", "root@localhost", &longest] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    let (too_long, domain) = (format!("x{long}@example.com"), format!("a@{}com", "x.".repeat(130)));
    for wrong in [
        "",
        "ops",
        "@example.com",
        "ops@",
        "a@b@c",
        "a..b@example.com",
        ".a@example.com",
        "a b@example.com",
        "a@exa mple.com",
        "ops@example.com\r\nBcc: all@example.com",
        "ops@exa\nmple.com",
        "Ops <ops@example.com>",
        "<a@example.com>",
        "a@example.com,b@example.com",
        "ops@example.com, other@example.com",
        "\"a b\"@example.com",
        "ops@-example.com",
        "ops@example.com.",
        "ö@example.com",
        &too_long,
        &domain,
    ] {
        let field = check(wrong).map_err(|error| error.field);
        assert_eq!(field, Err("recipients[1]".into()), "{wrong:?}");
    }
}

#[test]
fn what_looks_like_an_encoded_word_is_none() {
    let title = "Consumer a has halted: =?utf-8?q?Bcc:_x?=";
    assert_eq!(subject("east", title), "[Sequin east] Consumer a has halted: = ?utf-8?q?Bcc:_x?=");
}
