//! What telemetry costs: backfills, and records as they are published, with metrics that are exported and scraped each
//! second, beside the same without.

use std::time::{Duration, Instant};

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus::{Encoder, Registry, TextEncoder};
use sequin::demo::crm::{Crm, PROVIDER};
use sequin_actors::{
    EngineSettings, Publishing,
    model::{Filter, Provider, Publication, SequinId, TableName},
};
use tokio::{task::JoinSet, time::interval};
use tonic::{
    Request, Response, Status,
    transport::{self, server::TcpIncoming},
};

use super::{
    SYNCS, Size,
    bulk::rate,
    ours::Ours,
    report::{Figure, Goal},
    rows::{Rows, SEED, parse},
    server::{Server, sql},
};

/// How often metrics are exported, and scraped.
const EVERY: Duration = Duration::from_secs(1);

/// Whether they are, in each pass: so that what drifts does so for both.
const PASSES: [bool; 8] = [true, false, false, true, false, true, true, false];

/// How many records a publication has while they are brought as they come.
const LIVE: usize = 100;

/// How many of the last records are looked for: so many that each writer has some of them.
const LAST: usize = 60;

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut ours = Ours::open(directory.path(), &server.postgres).await;
    eprintln!("publishing {records} records");
    ours.publish(Rows::new(records, SYNCS, |_, _| ())).await;

    let (mut with, mut without) = (Passes::default(), Passes::default());
    for (number, is_on) in (0u32..).zip(PASSES.map(|is_on| is_on == round.is_multiple_of(2))) {
        let passes = if is_on { &mut with } else { &mut without };
        let telemetry = if is_on { Some(Telemetry::start()) } else { None };
        let meter = telemetry.as_ref().map(Telemetry::meter);
        let settings = EngineSettings { meter: meter.clone(), ..EngineSettings::default() };

        server.settle().await;
        let all = Filter::Provider(Provider::parse(PROVIDER).expect("a slug"));
        let table = server.table(&format!("backfill{number}")).await;
        passes.backfill += ours.backfilled(settings.clone(), "backfill", all, &table, async || ()).await.0;
        server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");

        server.settle().await;
        let provider = Provider::parse(&format!("live-{number}")).expect("a slug");
        let table = server.table(&format!("live{number}")).await;
        let traffic = Traffic::new(&provider, number, records);
        let publishing = Publishing::new(meter.as_ref());
        let live = async || traffic.publish(&publishing, &ours, &server, &table).await;
        passes.live += ours.backfilled(settings, "live", Filter::Provider(provider), &table, live).await.1;
        server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
    }
    let all = records * PASSES.len() as u64 / 2;
    let figure = |what, took, beside| Figure {
        what,
        unit: "records/s",
        ours: rate(all, took),
        beside: Some(("without", rate(all, beside))),
        goal: Goal::TimesAtLeast(0.98),
    };
    vec![
        figure("a backfill, with metrics exported and scraped each second", with.backfill, without.backfill),
        figure("published and brought at once, likewise", with.live, without.live),
    ]
}

/// How long all passes of one kind took together.
#[derive(Default)]
struct Passes {
    backfill: Duration,
    live: Duration,
}

/// New records of a provider that nobody has published of.
struct Traffic {
    publications: Vec<Publication>,
    last: Vec<uuid::Uuid>,
}

impl Traffic {
    fn new(provider: &Provider, number: u32, records: u64) -> Self {
        let lines: Vec<_> = Crm::new(SEED + 1 + u64::from(number), SYNCS).backfill(records).collect();
        let mut last: Vec<SequinId> = Vec::new();
        let publications = lines.chunks(LIVE).map(|lines| {
            let mut publication = Publication::default();
            for line in lines.iter().map(|line| parse(line)) {
                let record = line.record();
                publication.push(provider, &record).expect("a sync of this provider");
                last.push(record.sequin_id);
            }
            publication
        });
        let publications = publications.collect();
        let last = last.iter().rev().take(LAST).map(|record| record.0).collect();
        Self { publications, last }
    }

    /// Publishes one after the other; returns how long it took until all of them were in the table.
    async fn publish(self, publishing: &Publishing, ours: &Ours, server: &Server, table: &TableName) -> Duration {
        let look = format!("select count(*) from {} where sequin_id = any($1)", sql(table));
        let look = server.client.prepare(&look).await.expect("a statement");
        let began = Instant::now();
        for publication in self.publications {
            publishing.publish(ours.stream(), publication).await.expect("published");
        }
        let there = async || server.client.query_one(&look, &[&self.last]).await.expect("a count").get::<_, i64>(0);
        while usize::try_from(there().await) != Ok(self.last.len()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }
}

/// Exports to a receiver on this machine, and is scraped.
struct Telemetry {
    provider: SdkMeterProvider,
    _tasks: JoinSet<()>,
}

impl Telemetry {
    fn start() -> Self {
        let listener = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let receiver = transport::Server::builder().add_service(MetricsServiceServer::new(Receiver));
            receiver.serve_with_incoming(listener).await.expect("served");
        });
        let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build().expect("an exporter");
        let registry = Registry::new();
        let scraped = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build();
        tasks.spawn(async move {
            let mut every = interval(EVERY);
            loop {
                every.tick().await;
                let mut text = Vec::new();
                TextEncoder::new().encode(&registry.gather(), &mut text).expect("text");
            }
        });
        let exported = PeriodicReader::builder(exporter).with_interval(EVERY).build();
        let provider = SdkMeterProvider::builder().with_reader(exported).with_reader(scraped.expect("a reader"));
        Self { provider: provider.build(), _tasks: tasks }
    }

    fn meter(&self) -> Meter {
        self.provider.meter("sequin")
    }
}

/// Takes whatever comes.
struct Receiver;

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        assert!(!request.into_inner().resource_metrics.is_empty(), "nothing was exported");
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: None }))
    }
}
