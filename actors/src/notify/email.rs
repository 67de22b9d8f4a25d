//! Mail: what is written to one address, as plain text and as HTML.

use askama::Template;
use chrono::{DateTime, Utc};
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};
use sha2::{Digest, Sha256};

use super::{
    card::Card,
    figures::{line, moment, number},
    wording::{tag, title, total},
};
use crate::model::{FieldError, Notice, NoticeEvent};

/// The longest address: what fits into a path of SMTP (<https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.3>).
const LONGEST_ADDRESS: usize = 254;

/// Checks an address that mail is to be sent to.
pub fn check_recipient(field: &str, address: &str) -> Result<(), FieldError> {
    match parse_recipient(address) {
        Some(_) => Ok(()),
        None => Err(FieldError::new(field, "takes an address such as ops@example.com, without a name")),
    }
}

pub(super) fn parse_recipient(address: &str) -> Option<Address> {
    address.parse().ok().filter(|_| is_plain(address))
}

/// Whether it is an address as mail servers write them (RFC 5321), without what hardly any has: quotes, comments, and
/// what is not ASCII. So nothing in it can be taken for anything else in a header or a command.
fn is_plain(address: &str) -> bool {
    let is_atom = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
        !text.is_empty() && text.bytes().all(allowed)
    };
    let is_label = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
    };
    address.len() <= LONGEST_ADDRESS
        && address.split_once('@').is_some_and(|(user, domain)| {
            user.len() <= 64 && user.split('.').all(is_atom) && domain.split('.').all(is_label)
        })
}

/// How much mail programs show of a message in their list, in characters.
const PREVIEW: usize = 140;

/// What a notice is to those who read it.
struct Tone {
    word: &'static str,
    on_light: &'static str,
    on_dark: &'static str,
}

impl Tone {
    fn of(event: NoticeEvent) -> Self {
        match event {
            NoticeEvent::Opened => Self { word: "Incident", on_light: "#b3261e", on_dark: "#ff8a80" },
            NoticeEvent::Reminded => Self { word: "Reminder", on_light: "#9a5b00", on_dark: "#ffc266" },
            NoticeEvent::Resolved => Self { word: "Resolved", on_light: "#176f3d", on_dark: "#7fdba3" },
            NoticeEvent::Test => Self { word: "Test", on_light: "#1a56c4", on_dark: "#8ab4f8" },
        }
    }
}

/// What both forms of a mail say.
struct Content<'a> {
    title: &'a str,
    /// The one incident that it is about; `None` if it is about none, or about many.
    only: Option<&'a Card>,
    said: Vec<String>,
    /// The first of many incidents.
    cards: &'a [Card],
    /// How many more there are.
    more: Option<String>,
    /// Where the console is.
    all: Option<&'a str>,
    footer: Vec<String>,
}

#[derive(Template)]
#[template(path = "mail.txt", escape = "none")]
struct Text<'a>(&'a Content<'a>);

#[derive(Template)]
#[template(path = "mail.html")]
struct Html<'a> {
    content: &'a Content<'a>,
    tone: Tone,
    /// What mail programs show of it in their list.
    preview: &'a str,
}

/// Who writes, and of which cluster.
pub(super) struct Letterhead<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) cluster: &'a str,
    pub(super) console: Option<&'a str>,
}

impl Letterhead<'_> {
    /// What is sent of a notice to one address. A repeat is the same message under the same id, but for its date.
    pub(super) fn write(&self, notice: &Notice, to: Address, now: DateTime<Utc>) -> Result<Message, String> {
        let domain = self.from.email.domain();
        let title = title(notice);
        let (text, html) = self.forms(notice, &title)?;
        let message = Message::builder()
            .date(now.into())
            .from(self.from.clone())
            .message_id(Some(message_id(notice, &to, domain)))
            .to(Mailbox::new(None, to))
            .subject(subject(self.cluster, &title))
            // Nobody's absence is answered to (<https://www.rfc-editor.org/rfc/rfc3834#section-5>).
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .raw_header(header("X-Auto-Response-Suppress", "All"))
            .raw_header(header("X-Sequin-Event", notice.event.as_str()))
            .raw_header(header("X-Sequin-Notice", &notice.id.to_string()));
        // What is said of an incident refers to it, so mail programs show it together: it is nobody's message, but the same.
        let message = match notice.incidents[..] {
            [incident] => {
                let thread = format!("<incident.{incident}@{domain}>");
                message.in_reply_to(thread.clone()).references(thread)
            }
            _ => message,
        };
        message.multipart(MultiPart::alternative_plain_html(text, html)).map_err(|error| error.to_string())
    }

    /// As plain text, and as HTML.
    pub(super) fn forms(&self, notice: &Notice, title: &str) -> Result<(String, String), String> {
        let card = |incident| Card::new(notice.event, incident, notice.made_at, self.console);
        let cards: Vec<Card> = notice.shown.iter().map(card).collect();
        let only = cards.first().filter(|_| total(notice) == 1);
        let more = total(notice) - cards.len() as u64;
        let content = Content {
            title,
            only,
            said: said(notice).into_iter().map(Into::into).collect(),
            cards: if only.is_some() { &[] } else { &cards },
            more: (more > 0).then(|| number(more)),
            all: self.console,
            footer: self.footer(notice),
        };
        let preview = match only {
            Some(card) => line(&preview(card), PREVIEW),
            None => content.said.join(" "),
        };
        let html = Html { content: &content, tone: Tone::of(notice.event), preview: &preview };
        let text = Text(&content).render().map_err(|error| error.to_string())?;
        Ok((text, html.render().map_err(|error| error.to_string())?))
    }

    fn footer(&self, notice: &Notice) -> Vec<String> {
        let cluster = line(self.cluster, 60);
        vec![
            format!("Sent by Sequin, cluster {cluster}, as things were at {}.", moment(notice.made_at)),
            "It goes to all recipients of the cluster's alerts, which its administrators set (/v1/alerting).".into(),
        ]
    }
}

/// What is not in the title.
fn preview(card: &Card) -> String {
    let fix = card.fix.as_ref().map_or("", |fix| &fix.text);
    [&card.summary, card.cause.as_deref().unwrap_or_default(), fix].join(" ")
}

/// What stands above the incidents, if they are not one.
fn said(notice: &Notice) -> Vec<&'static str> {
    match (notice.event, total(notice)) {
        (NoticeEvent::Test, _) => vec![
            "Somebody asked Sequin to send this, to see whether its notices arrive. They do.",
            "Nothing is wrong, and there is nothing to do.",
        ],
        (_, 1) => Vec::new(),
        (NoticeEvent::Opened, _) => vec!["They began at about the same time, so one mail tells of them all."],
        (NoticeEvent::Reminded, _) => vec!["They are still open."],
        (NoticeEvent::Resolved, _) => vec!["They are over."],
    }
}

/// What others wrote is not taken for an encoded word (<https://www.rfc-editor.org/rfc/rfc2047#section-2>).
fn subject(cluster: &str, title: &str) -> String {
    format!("{} {title}", tag(cluster)).replace("=?", "= ?")
}

/// The same for each try, so that whoever gets a message twice can tell; another for each address.
fn message_id(notice: &Notice, to: &Address, domain: &str) -> String {
    let hash = Sha256::digest(to.to_string().as_bytes());
    let to = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
    format!("<notice.{}.{to:016x}@{domain}>", notice.id)
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.into())
}

#[cfg(test)]
mod tests;
