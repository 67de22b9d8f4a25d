//! The live part: changes at an even rate, a line of figures a second, and at the end the accounts.

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::{
    DemoArguments, Stage, heading,
    latency::{Probe, Sample, percentile},
    say,
    scenes::{Expected, Scene, consumer, expected},
};
use crate::{
    cli::{
        answers::Published,
        figures,
        output::{note, print},
        signals::Signals,
    },
    demo::{crm::ChangeKind, customer::Customer},
};

/// How often changes are published: the rate makes a few of them.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// The most changes of a request. Beyond, the rate is not held, which the figures show.
const LARGEST_REQUEST: u64 = 5000;

const LINE_EVERY: Duration = Duration::from_secs(1);

/// After how many lines the header comes again.
const LINES_A_PAGE: u64 = 20;

/// How long the last changes may take to be in the table.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// Changes by their kind.
#[derive(Clone, Copy, Default)]
struct Changes {
    creates: u64,
    updates: u64,
    deletes: u64,
}

impl Changes {
    fn all(self) -> u64 {
        self.creates + self.updates + self.deletes
    }

    fn count(&mut self, kind: ChangeKind) {
        match kind {
            ChangeKind::Create => self.creates += 1,
            ChangeKind::Update => self.updates += 1,
            ChangeKind::Delete => self.deletes += 1,
        }
    }

    fn since(self, then: Self) -> Self {
        Self {
            creates: self.creates - then.creates,
            updates: self.updates - then.updates,
            deletes: self.deletes - then.deletes,
        }
    }
}

struct Live<'a> {
    stage: &'a Stage,
    scene: Scene,
    rate: u32,
    began: Instant,
    probe: Probe,
    published: Changes,
    latencies: Vec<Duration>,
    lines: u64,
    /// What the last line counted.
    told: (Changes, u64),
}

/// Plays until the time is up or somebody ends it, and tells whether the table is then as it should be.
pub(super) async fn run(
    stage: &Stage,
    scene: Scene,
    arguments: &DemoArguments,
    signals: &mut Signals,
) -> anyhow::Result<bool> {
    let probe = Probe::start(stage.owner.clone(), scene.table.clone()).await?;
    let mut live = Live {
        stage,
        scene,
        rate: arguments.rate,
        began: Instant::now(),
        probe,
        published: Changes::default(),
        latencies: Vec::new(),
        lines: 0,
        told: (Changes::default(), consumer(stage).await?.applied_records()),
    };
    live.open(arguments)?;
    live.play(arguments.lasting, signals).await?;
    let lasted = live.began.elapsed();
    let Expected { rows, idx } = expected(stage, &live.scene).await?;
    if signals.unless_asked_to_end(live.settle(idx)).await.transpose()?.is_none() {
        note("ended before the last changes were in the table");
        return Ok(false);
    }
    live.close(lasted, rows).await
}

impl Live<'_> {
    fn open(&self, arguments: &DemoArguments) -> anyhow::Result<()> {
        heading("Live")?;
        match self.scene.crm {
            Some(_) => say(format_args!("{} changes are published a second", figures::count(self.rate.into())))?,
            None => say("nothing changes by itself: publish more from another terminal")?,
        }
        match arguments.lasting {
            Some(lasting) => say(format_args!("it ends after {}, or with Ctrl-C", figures::span(lasting)))?,
            None => say("Ctrl-C ends it")?,
        }
        print("")
    }

    async fn play(&mut self, lasting: Option<Duration>, signals: &mut Signals) -> anyhow::Result<()> {
        let (mut line, mut publish) = (every(LINE_EVERY), every(PUBLISH_EVERY));
        line.reset();
        let ends = async {
            match lasting {
                Some(lasting) => sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ends);
        loop {
            tokio::select! {
                biased;
                () = signals.next() => return Ok(()),
                _ = line.tick() => self.tell().await?,
                () = &mut ends => return Ok(()),
                _ = publish.tick() => self.publish().await?,
            }
        }
    }

    /// Publishes what is due by now.
    async fn publish(&mut self) -> anyhow::Result<()> {
        let Some(crm) = &mut self.scene.crm else { return Ok(()) };
        let due = self.began.elapsed().as_millis() * u128::from(self.rate) / 1000;
        let due = u64::try_from(due)?.saturating_sub(self.published.all()).min(LARGEST_REQUEST);
        let (mut lines, mut last) = (String::new(), None);
        for _ in 0..due {
            let change = crm.next_change();
            self.published.count(change.kind);
            lines.push_str(&change.line);
            lines.push('\n');
            last = Some(change);
        }
        let Some(last) = last else { return Ok(()) };
        let published: Published = self.stage.client.post_records(lines.into(), None).await?.read()?;
        if let (Some(idx), true) = (published.last_updated_idx, last.kind != ChangeKind::Delete) {
            self.probe.offer(Sample::of(&last.line, idx));
        }
        Ok(())
    }

    /// Prints a line of figures.
    async fn tell(&mut self) -> anyhow::Result<()> {
        if self.lines.is_multiple_of(LINES_A_PAGE) {
            say(LINE_HEADER)?;
        }
        self.lines += 1;
        let consumer = consumer(self.stage).await?;
        let applied = consumer.applied_records();
        let (published, applied_now) = (self.published.since(self.told.0), applied.saturating_sub(self.told.1));
        self.told = (self.published, applied);
        let mut latencies = self.probe.take();
        let (p50, p99) = (shown(percentile(&mut latencies, 50)), shown(percentile(&mut latencies, 99)));
        self.latencies.append(&mut latencies);
        let seconds = self.began.elapsed().as_secs();
        let time = format!("{}:{:02}", seconds / 60, seconds % 60);
        let lag = consumer.lag.map_or("-".into(), |lag| figures::count(lag.records));
        let [all, creates, updates, deletes, applied_now] =
            [published.all(), published.creates, published.updates, published.deletes, applied_now].map(figures::count);
        say(format_args!(
            "{time:>6}  {all:>9}  {creates:>7}  {updates:>7}  {deletes:>7}  {applied_now:>9}  {lag:>8}  {p50:>9}  {p99:>9}"
        ))?;
        if consumer.state != "live" {
            let reason = consumer.health.reasons.first().map_or(String::new(), |reason| format!(": {reason}"));
            say(format_args!("        {}{reason}", consumer.state))?;
        }
        Ok(())
    }

    /// Waits until everything published is in the table.
    async fn settle(&self, idx: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        while !consumer(self.stage).await?.has_caught_up_with(idx) {
            let waited = began.elapsed();
            anyhow::ensure!(
                waited < SETTLE_WITHIN,
                "the last changes are not in the table after {}",
                figures::span(waited)
            );
            sleep(PUBLISH_EVERY).await;
        }
        Ok(())
    }

    async fn close(mut self, lasted: Duration, expected: u64) -> anyhow::Result<bool> {
        heading("Done")?;
        if self.scene.crm.is_some() {
            let lasted = figures::span(Duration::from_secs(lasted.as_secs()));
            let Changes { creates, updates, deletes } = self.published;
            let [all, creates, updates, deletes] =
                [self.published.all(), creates, updates, deletes].map(figures::count);
            say(format_args!("{all} changes in {lasted}: {creates} creates, {updates} updates, {deletes} deletes"))?;
        }
        self.latencies.extend(self.probe.take());
        let samples = figures::count(self.latencies.len() as u64);
        if let Some(p50) = percentile(&mut self.latencies, 50) {
            let p99 = shown(percentile(&mut self.latencies, 99));
            say(format_args!(
                "from acknowledged to readable in the table: p50 {}, p99 {p99}, of {samples} that were looked for",
                figures::span(p50)
            ))?;
        }
        // Another session: the first may have been cut while it was live.
        let rows = Customer::connect(&self.stage.owner).await?.count(&self.scene.table).await?;
        let (table, is_right) = (&self.scene.table, rows == expected);
        let [counted, there] = [rows, expected].map(figures::count);
        if is_right {
            say(format_args!("count(*) of {table} is {counted}: every record, and no other"))?;
        } else {
            say(format_args!("count(*) of {table} is {counted}, but there are {there} records"))?;
        }
        Ok(is_right)
    }
}

const LINE_HEADER: &str = "  time  published  creates  updates  deletes    applied       lag        p50        p99";

/// Ticks that were missed are not made up for: what is due is counted by the clock.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

fn shown(latency: Option<Duration>) -> String {
    latency.map_or("-".into(), figures::span)
}
