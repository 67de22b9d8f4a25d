//! What the way to a database costs: plainly, with TLS, through a bastion, and with TLS through a bastion, in turns. All of them
//! are on this machine, so that what is measured is the work, and no distance.

use rcgen::{CertificateParams, KeyPair};
use sequin::demo::postgres::ThrowawayPostgres;
use serde_json::{Value, json};

use super::{
    Size,
    bulk::rate,
    node::{Node, to},
    report::{Figure, Goal},
    server::{Server, sql},
    sshd::Sshd,
    telemetry::{LIVE_PART, Passes, Traffic},
};

/// A way to the database.
#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    Tls,
    Bastion,
    TlsThroughBastion,
}

use Way::{Bastion, Plain, Tls, TlsThroughBastion};

const WAYS: [Way; 4] = [Plain, Tls, Bastion, TlsThroughBastion];

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    offer_tls(&server).await;
    let sshd = Sshd::start();
    let traffic = Traffic::of(records);
    // Whoever comes first has a server to warm up.
    pass(Plain, &traffic, &server, &sshd).await;

    let mut passes = [Passes::default(); 4];
    let mut turns: Vec<usize> = (0..WAYS.len()).collect();
    turns.rotate_left(round % WAYS.len());
    // And backwards, so that what drifts does so for all.
    for way in turns.iter().chain(turns.iter().rev()) {
        passes[*way].add(pass(WAYS[*way], &traffic, &server, &sshd).await);
    }
    let [plain, tls, bastion, both] = passes;
    let of_tls = ["a backfill, with TLS", "published and brought at once, likewise", "CPU time of the node, likewise"];
    let of_bastion = [
        "a backfill, through a bastion",
        "published and brought at once, by bastion",
        "CPU time of the node, by bastion",
    ];
    let of_both = [
        "a backfill, with TLS through a bastion",
        "published and brought at once, with both",
        "CPU time of the node, with both",
    ];
    let figures = [(of_tls, tls), (of_bastion, bastion), (of_both, both)];
    figures.into_iter().flat_map(|(what, passes)| beside(plain, what, passes, records)).collect()
}

/// Two passes of each.
fn beside(plain: Passes, what: [&'static str; 3], passes: Passes, records: u64) -> [Figure; 3] {
    let figure =
        |what, unit, ours, plain| Figure { what, unit, ours, beside: Some(("plain", plain)), goal: Goal::None };
    let rates =
        |what, records, ours, plain| figure(what, "records/s", rate(2 * records, ours), rate(2 * records, plain));
    let [backfill, live, cpu] = what;
    [
        rates(backfill, records, passes.backfill, plain.backfill),
        rates(live, records / LIVE_PART, passes.live, plain.live),
        figure(cpu, "s", passes.cpu.as_secs_f64(), plain.cpu.as_secs_f64()),
    ]
}

/// Has a new node do all of it, by this way.
async fn pass(way: Way, traffic: &Traffic, server: &Server, sshd: &Sshd) -> Passes {
    let table = server.table("network").await;
    server.settle().await;
    let mut node = Node::start().await;
    let passes = traffic.through(&node, server, &way.to(&server.postgres, sshd), &table).await;
    way.check(server).await;
    node.signal("TERM");
    node.end().await;
    server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
    eprintln!("{way:?}: {passes:?}");
    passes
}

impl Way {
    fn to(self, postgres: &ThrowawayPostgres, sshd: &Sshd) -> Value {
        let mut connection = to(postgres);
        if matches!(self, Tls | TlsThroughBastion) {
            connection["tls"] = json!({"mode": "require"});
        }
        if matches!(self, Bastion | TlsThroughBastion) {
            let bastion = sshd.bastion();
            connection["bastion"] = json!({
                "host": bastion.host, "port": bastion.port, "username": bastion.username,
                "private_key": sshd.private_key("user").reveal(), "host_key": bastion.host_key,
            });
        }
        connection
    }

    /// A figure counts only if it is of what it says.
    async fn check(self, server: &Server) {
        let encrypted =
            "select count(*) filter (where s.ssl), count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)
            where a.application_name like 'sequin/%'";
        let row = server.client.query_one(encrypted, &[]).await.expect("the sessions");
        let (encrypted, all): (i64, i64) = (row.get(0), row.get(1));
        let expected = if matches!(self, Tls | TlsThroughBastion) { all } else { 0 };
        assert!(all > 0 && encrypted == expected, "{self:?}: {encrypted} of {all} sessions are encrypted");
    }
}

/// Has the server show a certificate to those who want one.
async fn offer_tls(server: &Server) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    for (file, text) in [("certificate", certificate), ("key", key.serialize_pem())] {
        let copy =
            format!("copy (select unnest(string_to_array('{text}', E'\\n'))) to program 'umask 077; cat > {file}'");
        server.client.batch_execute(&copy).await.expect("a file of the server's");
    }
    for setting in ["ssl_cert_file = 'certificate'", "ssl_key_file = 'key'", "ssl = on"] {
        server.client.batch_execute(&format!("alter system set {setting}")).await.expect("a setting");
    }
    server.client.batch_execute("select pg_reload_conf()").await.expect("read anew");
}
