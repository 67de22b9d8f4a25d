//! How busy the runtime is that all tasks run in.

use opentelemetry::global;
use tokio::runtime::Handle;

use super::SCOPE;

/// Has it measured from now on. The meter keeps what is made here.
pub(super) fn measure(runtime: &Handle) {
    let meter = global::meter(SCOPE);
    let metrics = runtime.metrics();
    let workers = metrics.num_workers();
    meter
        .u64_observable_gauge("tokio.runtime.workers")
        .with_unit("{worker}")
        .with_description("Threads that run tasks")
        .with_callback(move |observer| observer.observe(count(workers), &[]))
        .build();
    let of = metrics.clone();
    meter
        .u64_observable_gauge("tokio.runtime.alive_tasks")
        .with_unit("{task}")
        .with_description("Tasks that have not ended")
        .with_callback(move |observer| observer.observe(count(of.num_alive_tasks()), &[]))
        .build();
    let of = metrics.clone();
    meter
        .u64_observable_gauge("tokio.runtime.global_queue_depth")
        .with_unit("{task}")
        .with_description("Tasks that wait for any thread to run them")
        .with_callback(move |observer| observer.observe(count(of.global_queue_depth()), &[]))
        .build();
    meter
        .f64_observable_counter("tokio.runtime.busy_time")
        .with_unit("s")
        .with_description("Time that all threads together have run tasks")
        .with_callback(move |observer| {
            let busy = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker).as_secs_f64());
            observer.observe(busy.sum(), &[]);
        })
        .build();
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
