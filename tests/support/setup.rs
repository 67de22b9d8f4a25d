//! A node, and a database that is its target, set up as a customer does it.

use serde_json::{Value, json};

use super::{
    database::{Database, SCHEMA},
    eventually,
    model::{HUBSPOT, Model, Table, Version, compare, lines},
    node::Node,
    proxy::Proxy,
};

/// How many records one request publishes.
const RECORDS_A_REQUEST: usize = 5000;

/// A node with the target `app`. A consumer writes to the table of its own name.
pub(crate) struct Setup {
    pub(crate) node: Node,
    pub(crate) database: Database,
}

impl Setup {
    /// On the server that tests share.
    pub(crate) async fn new() -> Self {
        Self::with(Node::start().await, Database::create().await).await
    }

    /// On a server that no other test has, and that can be stopped.
    pub(crate) async fn on_own_server() -> Self {
        Self::with(Node::start().await, Database::on_own_server().await).await
    }

    pub(crate) async fn with(node: Node, database: Database) -> Self {
        let connection = database.connection();
        Self::connected(node, database, &connection).await
    }

    /// With a proxy between the node and the database.
    pub(crate) async fn by_proxy(database: Database) -> (Self, Proxy) {
        let proxy = Proxy::before(database.server.port());
        let connection = database.connection_by(proxy.port());
        (Self::connected(Node::start().await, database, &connection).await, proxy)
    }

    /// With a target that is connected to in this way.
    pub(crate) async fn connected(node: Node, database: Database, connection: &Value) -> Self {
        let target = json!({"name": "app", "connection": connection});
        node.api.post("/v1/targets", &target).await.expect(201);
        Self { node, database }
    }

    /// Makes a consumer, and no table.
    pub(crate) async fn draft(&self, name: &str, filter: &Value) {
        let consumer = json!({"name": name, "target": "app", "filter": filter, "schema": SCHEMA, "table": name});
        let made = self.node.api.post("/v1/consumers", &consumer).await.expect(201);
        assert_eq!(made["state"], "draft", "{made}");
    }

    /// Makes a consumer and its table, and starts it.
    pub(crate) async fn start(&self, name: &str, filter: &Value) {
        self.draft(name, filter).await;
        let answer = self.node.api.get(&format!("/v1/consumers/{name}/create-table-sql")).await.expect(200);
        self.database.run(answer["sql"].as_str().expect("SQL")).await;
        self.act(name, "start").await;
    }

    /// Makes and starts the consumer `hubspot`, of all of HubSpot's syncs.
    pub(crate) async fn start_hubspot(&self) {
        self.start(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    }

    /// Starts, pauses or resumes a consumer.
    pub(crate) async fn act(&self, consumer: &str, action: &str) {
        self.node.api.act(&format!("/v1/consumers/{consumer}/{action}")).await.expect(200);
    }

    /// The consumer as it is now.
    pub(crate) async fn consumer(&self, name: &str) -> Value {
        self.node.api.consumer(name).await
    }

    /// Publishes the versions, to the node and to the model.
    pub(crate) async fn publish(&self, model: &mut Model, versions: &[Version]) {
        for versions in versions.chunks(RECORDS_A_REQUEST) {
            let answer = self.node.api.publish(lines(versions)).await.expect(200);
            let last = model.publish(versions);
            assert_eq!(answer, json!({"accepted": versions.len(), "last_updated_idx": last}));
        }
    }

    /// Waits until a consumer is as `is` wants it; `what` says how that is.
    pub(crate) async fn consumer_is(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.node.api.consumer_is(name, what, is).await
    }

    /// Waits until a consumer is in a state.
    pub(crate) async fn state_is(&self, name: &str, state: &str) -> Value {
        self.consumer_is(name, state, |consumer| consumer["state"] == state).await
    }

    /// Waits until a consumer has brought everything up to `idx`.
    pub(crate) async fn reached(&self, name: &str, idx: i64) -> Value {
        let reached = |consumer: &Value| consumer["checkpoint"].as_i64() >= Some(idx);
        self.consumer_is(name, &format!("at {idx}"), reached).await
    }

    /// Waits until a table holds what it must.
    pub(crate) async fn table_is(&self, name: &str, expected: &Table) {
        eventually(&format!("table {name} to be as it must"), async || {
            compare(&self.database.table(name).await, expected)
        })
        .await;
    }

    /// Waits until the table `hubspot` holds what it must.
    pub(crate) async fn hubspot_is(&self, model: &Model) {
        self.table_is(HUBSPOT, &model.of_provider(HUBSPOT)).await;
    }
}
