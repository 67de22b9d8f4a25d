//! `sequin alerting …`: whom to tell of incidents.

mod set;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    FAILED,
    answers::{Alerting, Told, Tried, Webhook},
    client::{Answer, Client},
    figures,
    output::{Output, note, print},
    problem::indented,
    table::Table,
    target::given,
};

#[derive(Subcommand)]
pub(super) enum AlertingCommand {
    /// Show whom to tell, and whether what they are told arrives.
    #[command(visible_alias = "get")]
    Show,
    /// Change whom to tell: what is not given stays as it is.
    Set(set::SetArguments),
    /// Tell everybody something, and say whether it arrived.
    Test(TestArguments),
}

#[derive(Args)]
pub(super) struct TestArguments {
    /// Tell this recipient only.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "webhook")]
    recipient: Option<String>,
    /// Tell the webhook of this name only.
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
}

pub(super) async fn run(client: &Client, output: Output, command: AlertingCommand) -> anyhow::Result<ExitCode> {
    match command {
        AlertingCommand::Show => show(output, &client.get(&["alerting"]).await?)?,
        AlertingCommand::Set(arguments) => {
            arguments.check()?;
            let before = client.get(&["alerting"]).await?;
            let request = arguments.request(&before.read()?)?;
            let answer = client.put_json_at(&["alerting"], &request, before.etag()).await?;
            note("alerting is changed; `sequin alerting test` tries it");
            show(output, &answer)?;
        }
        AlertingCommand::Test(TestArguments { recipient, webhook }) => {
            let request = given([("recipient", recipient.into()), ("webhook", webhook.into())]);
            let path = ["alerting", "test"];
            let answer =
                if request.is_null() { client.post(&path).await? } else { client.post_json(&path, &request).await? };
            return tested(output, &answer);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let Alerting { recipients, webhooks, reminder_minutes, email, pending, health } = answer.read()?;
    let listed = |texts: &[String]| if texts.is_empty() { "none".into() } else { texts.join(", ") };
    let webhook = |webhook: &Webhook| {
        let host = webhook.host.as_deref().unwrap_or("(nowhere)");
        let signed = if webhook.secret_set { ", signed" } else { "" };
        format!("{} ({} at {host}{signed})", webhook.name, webhook.format)
    };
    let mut facts = Table::of_facts();
    facts.fact("recipients", listed(&recipients));
    facts.fact("webhooks", listed(&webhooks.iter().map(webhook).collect::<Vec<_>>()));
    facts.fact(
        "reminders",
        match reminder_minutes {
            0 => "never".into(),
            minutes => format!("every {}", figures::seconds(f64::from(minutes) * 60.0)),
        },
    );
    facts.fact("mail", email.from.map_or("no mail server is set".into(), |from| format!("from {from}")));
    facts.fact("to be delivered", figures::count(pending));
    facts.fact("health", &health.status);
    print(facts)?;
    health.reasons.iter().try_for_each(|reason| print(indented(reason)))
}

fn tested(output: Output, answer: &Answer) -> anyhow::Result<ExitCode> {
    let told: Told = answer.read()?;
    if output == Output::Json {
        print(answer.text())?;
    } else {
        for Tried { channel, destination, error } in &told.deliveries {
            let outcome = error.as_deref().map_or("ok".into(), |error| format!("failed: {error}"));
            print(format_args!("{channel} {destination}: {outcome}"))?;
        }
    }
    Ok(ExitCode::from(if told.ok { 0 } else { FAILED }))
}
