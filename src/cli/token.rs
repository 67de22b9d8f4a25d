//! `sequin token …`: who may call the API, and what for.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{
    WrongUsage,
    answers::{List, Token},
    client::{Answer, Client},
    figures::parse_span,
    output::{Output, note, print},
    table::{Column, Table},
};

// `token` is what `--token` is called everywhere, so nothing else may be.
#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, and print it: it is shown this once.
    Create(CreateArguments),
    /// List the tokens, without what their bearers send.
    List,
    /// Show a token, without what its bearer sends.
    Show {
        /// Its name or id.
        #[arg(value_name = "TOKEN")]
        name_or_id: String,
    },
    /// Revoke a token: whoever bears it is let in no longer.
    Revoke {
        /// Its name or id.
        #[arg(value_name = "TOKEN")]
        name_or_id: String,
    },
}

#[derive(Args)]
pub(super) struct CreateArguments {
    /// What to call it.
    name: String,
    /// What its bearer may do.
    #[arg(long, value_enum)]
    role: Role,
    /// How long it is taken, such as 12h or 90d; otherwise until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = parse_span, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// When it ends, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Everything.
    Admin,
    /// Look at everything, and change nothing.
    Read,
    /// Publish records, and nothing else.
    Publish,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Publish => "publish",
        }
    }
}

pub(super) async fn run(client: &Client, output: Output, command: TokenCommand) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Create(CreateArguments { name, role, expires_in, expires_at }) => {
            let expires_at = match expires_in {
                Some(lasting) => Some(end_of(lasting)?),
                None => expires_at,
            };
            let request = json!({"name": name, "role": role.as_str(), "expires_at": expires_at});
            let answer = client.post_json(&["tokens"], &request).await?;
            note(format_args!("token {name} is made; keep it now, for it is not shown again"));
            show(output, &answer)?;
        }
        TokenCommand::List => list(output, &client.list(&["tokens"], &[]).await?)?,
        TokenCommand::Show { name_or_id } => show(output, &client.get(&["tokens", &name_or_id]).await?)?,
        TokenCommand::Revoke { name_or_id } => {
            client.delete(&["tokens", &name_or_id]).await?;
            note(format_args!("token {name_or_id} is revoked"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn end_of(lasting: Duration) -> Result<DateTime<Utc>, WrongUsage> {
    let end = TimeDelta::from_std(lasting).ok().and_then(|lasting| Utc::now().checked_add_signed(lasting));
    end.ok_or_else(|| {
        WrongUsage("--expires-in: no calendar goes that far; leave it out for a token without an end".into())
    })
}

fn list(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let mut table = Table::new([
        Column::Left("token"),
        Column::Left("role"),
        Column::Left("expires"),
        Column::Left("last used"),
        Column::Left("created"),
    ]);
    for token in answer.read::<List<Token>>()?.data {
        let (expires, last_used) = (expiry(&token), last_use(&token));
        table.row([token.name, token.role, expires, last_used, time(token.created_at)]);
    }
    print(table)
}

fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let token: Token = answer.read()?;
    let mut facts = Table::of_facts();
    facts.fact("name", &token.name);
    facts.fact("id", &token.id);
    facts.fact("role", &token.role);
    facts.fact("expires", expiry(&token));
    facts.fact("last used", last_use(&token));
    facts.fact("created", time(token.created_at));
    if let Some(secret) = &token.secret {
        facts.fact("token", secret);
    }
    print(facts)
}

fn expiry(token: &Token) -> String {
    match token.expires_at {
        None => "never".into(),
        Some(end) if end <= Utc::now() => format!("{} (over)", time(end)),
        Some(end) => time(end),
    }
}

fn last_use(token: &Token) -> String {
    token.last_used_at.map_or_else(|| "never".into(), time)
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
