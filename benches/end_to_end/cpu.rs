//! CPU time, of this process, of the server's, and of any other.

use std::{fs, path::Path, time::Duration};

use sequin::demo::postgres::ThrowawayPostgres;

/// What `/proc` counts CPU time in: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>; 100 everywhere.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time that was spent up to now.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) ours: Duration,
    pub(crate) server: Duration,
}

impl Spent {
    pub(crate) fn now(server: &ThrowawayPostgres) -> Self {
        let postmaster = server.pid();
        let sessions = processes().into_iter().filter(|process| process.parent == postmaster);
        // Those that have ended count with the postmaster, which waited for them.
        let server = sessions.map(|session| session.own).sum::<u64>()
            + Process::read(postmaster).map_or(0, |postmaster| postmaster.own + postmaster.ended_children);
        let ours = Process::read(std::process::id()).map_or(0, |process| process.own);
        Self { ours: time(ours), server: time(server) }
    }

    /// Which part of all that was spent since then was ours, in percent.
    pub(crate) fn our_percentage_since(self, earlier: Self) -> f64 {
        let (ours, server) = (self.ours.saturating_sub(earlier.ours), self.server.saturating_sub(earlier.server));
        100.0 * ours.as_secs_f64() / (ours + server).as_secs_f64()
    }
}

/// Waits until neither this process nor the server does anything: a stream that has taken updates reclaims the space of
/// what they superseded, in the background.
pub(crate) async fn idle(server: &ThrowawayPostgres) {
    loop {
        let before = Spent::now(server);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = Spent::now(server);
        if after.ours + after.server <= before.ours + before.server + time(1) {
            return;
        }
    }
}

/// What a process has spent up to now, by itself.
pub(crate) fn spent_by(pid: u32) -> Duration {
    Process::read(pid).map_or(Duration::ZERO, |process| time(process.own))
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

struct Process {
    parent: u32,
    own: u64,
    ended_children: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// What follows the name, which is in parentheses and may hold anything, begins with the third field.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            own: number(14)? + number(15)?,
            ended_children: number(16)? + number(17)?,
        })
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir(Path::new("/proc")).expect("processes").flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}
