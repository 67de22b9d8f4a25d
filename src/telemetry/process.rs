//! What the process takes from the machine: read from `/proc` when somebody asks, and left out where there is none.

use std::{fs, time::Instant};

use opentelemetry::{KeyValue, global};

use super::SCOPE;

/// How many ticks the kernel counts a second in what it tells processes: 100 on every architecture that Sequin is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process takes at a moment.
#[derive(Debug, PartialEq)]
struct CpuTime {
    user: f64,
    system: f64,
}

/// Has it measured from now on. The meter keeps what is made here.
pub(super) fn measure() {
    let meter = global::meter(SCOPE);
    let started = Instant::now();
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("Time that processors have worked for the process")
        .with_callback(|observer| {
            let Some(time) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_time(&stat)) else {
                return;
            };
            observer.observe(time.user, &[KeyValue::new("cpu.mode", "user")]);
            observer.observe(time.system, &[KeyValue::new("cpu.mode", "system")]);
        })
        .build();
    meter
        .i64_observable_up_down_counter("process.memory.usage")
        .with_unit("By")
        .with_description("Physical memory that the process has in use")
        .with_callback(|observer| {
            if let Some(kib) = status("VmRSS") {
                observer.observe(kib.saturating_mul(1024), &[]);
            }
        })
        .build();
    meter
        .i64_observable_up_down_counter("process.thread.count")
        .with_unit("{thread}")
        .with_description("Threads of the process")
        .with_callback(|observer| {
            if let Some(threads) = status("Threads") {
                observer.observe(threads, &[]);
            }
        })
        .build();
    meter
        .i64_observable_up_down_counter("process.unix.file_descriptor.count")
        .with_unit("{file_descriptor}")
        .with_description("Files and connections that the process has open")
        .with_callback(|observer| {
            if let Ok(open) = fs::read_dir("/proc/self/fd") {
                observer.observe(i64::try_from(open.count()).unwrap_or(i64::MAX), &[]);
            }
        })
        .build();
    meter
        .f64_observable_gauge("process.uptime")
        .with_unit("s")
        .with_description("Time since the process started")
        .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
        .build();
}

/// The times in `/proc/PID/stat`: the 14th field and the next. The second is the program's name in parentheses, which may
/// hold anything.
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some(CpuTime { user: ticks.next()?? / TICKS_PER_SECOND, system: ticks.next()?? / TICKS_PER_SECOND })
}

/// A number in `/proc/self/status`.
fn status(name: &str) -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_that_holds_anything() {
        let stat = "7 (a b) 1 (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 10";
        assert_eq!(cpu_time(stat), Some(CpuTime { user: 2.5, system: 0.5 }));
        assert_eq!(cpu_time("7 (a) S 1"), None);
    }
}
