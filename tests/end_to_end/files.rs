//! Targets and consumers as a file says: planned, applied, exported, and applied elsewhere.

use serde_json::{Value, json};

use crate::support::{
    cli::{self, Ran},
    database::{Database, PASSWORD},
    model::{HUBSPOT, Model, contact, sync},
    node::Node,
    setup::Setup,
};

/// The variable that a file takes the password from.
const VARIABLE: &str = "TARGET_APP_PASSWORD";

/// A file with the target `app` of this database, and these consumers.
fn file(database: &Database, consumers: &str) -> String {
    let (port, name, user) = (database.server.port(), &database.name, &database.user);
    format!(
        "targets:\n  - name: app\n    connection:\n      host: ${{HOST:-127.0.0.1}}\n      port: {port}\n      \
         database: {name}\n      username: {user}\n      password: ${{{VARIABLE}}}\nconsumers:\n{consumers}"
    )
}

const CONSUMER: &str = "  - name: hubspot
    target: app
    filter: { provider: hubspot }
    schema: sequin
    table: hubspot
    create_table: true
";

async fn run(node: &Node, command: &str, file: &str) -> Ran {
    run_with_password(node, command, file, PASSWORD).await
}

async fn run_with_password(node: &Node, command: &str, file: &str, password: &str) -> Ran {
    let ran = cli::run_with_variables(&node.api, &format!("{command} -f -"), &[(VARIABLE, password)], file).await;
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(password), "{ran:?}");
    }
    ran
}

/// What a file would change: nothing.
async fn assert_nothing_to_do(node: &Node, file: &str) {
    let planned = run(node, "plan", file).await.expect_done();
    assert_eq!(planned, "nothing to do: everything is as the file says\n");
    let planned = run(node, "plan --prune --output json", file).await.expect_json();
    assert_eq!(planned, json!({"changes": [], "not_in_file": []}));
}

async fn names(node: &Node, of: &str) -> Vec<String> {
    let listed = node.api.pages(&format!("/v1/{of}")).await;
    let mut names: Vec<_> = listed.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_makes_a_target_a_table_and_a_consumer_that_forwards_and_then_there_is_nothing_to_do() {
    let (node, database) = (Node::start().await, Database::create().await);
    let file = file(&database, CONSUMER);
    let planned = run(&node, "plan", &file).await.expect_done();
    for line in [
        "+ target app",
        "    connection.host: 127.0.0.1",
        "    connection.password: (secret)",
        "+ consumer hubspot",
        "    filter.provider: hubspot",
        "    create_table: sequin.hubspot",
        "    state: running",
        "2 to create, 0 to change, 0 to delete",
    ] {
        assert!(planned.lines().any(|found| found == line), "{line:?} is not in\n{planned}");
    }
    assert!(names(&node, "targets").await.is_empty(), "a plan changes nothing");

    let applied = run(&node, "apply", &file).await;
    let done = [
        "create target app",
        "create consumer hubspot",
        "make the table of consumer hubspot",
        "start consumer hubspot",
    ];
    let expected = done.map(|call| format!("done: {call}\n")).concat();
    assert_eq!((applied.stderr.clone(), applied.expect_done()), (expected, planned));
    let setup = Setup { node, database };
    let mut model = Model::default();
    setup.publish(&mut model, &[contact(sync(1), 1, json!({"email": "a@example.com"}))]).await;
    setup.hubspot_is(&model).await;
    assert_nothing_to_do(&setup.node, &file).await;
    let again = run(&setup.node, "apply --output json", &file).await.expect_json();
    assert_eq!(again, json!({"done": [], "not_done": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_says_otherwise_is_changed_field_by_field_and_the_rest_goes_on() {
    let (node, database) = (Node::start().await, Database::create().await);
    let before = file(&database, CONSUMER);
    run(&node, "apply", &before).await.expect_done();
    let setup = Setup { node, database };
    let mut model = Model::default();
    setup.publish(&mut model, &[contact(sync(1), 1, json!({"email": "a@example.com"}))]).await;
    setup.hubspot_is(&model).await;

    let after = before
        .replace("table: hubspot", "table: contacts")
        .replace("    connection:", "    pool_size: 2\n    connection:")
        + "    lag_threshold_seconds: 60\n    metadata: { team: [data, null] }\n";
    let planned = run(&setup.node, "plan --output json", &after).await.expect_json();
    let field = |path: &str, from: Value, to: Value| json!({"field": path, "from": from, "to": to});
    let of_consumer = [
        field("table", json!("hubspot"), json!("contacts")),
        field("lag_threshold_seconds", json!(300), json!(60)),
        field("metadata", json!({}), json!({"team": ["data", null]})),
        field("create_table", json!(null), json!("sequin.contacts")),
    ];
    let expected = json!([
        {"kind": "target", "name": "app", "action": "change", "fields": [field("pool_size", json!(4), json!(2))]},
        {"kind": "consumer", "name": "hubspot", "action": "change", "fields": of_consumer},
    ]);
    assert_eq!(planned["changes"], expected);
    run(&setup.node, "apply", &after).await.expect_done();
    setup.table_is("contacts", &model.of_provider(HUBSPOT)).await;
    assert_nothing_to_do(&setup.node, &after).await;

    // What is left out is as it is by default.
    let planned = run(&setup.node, "plan", &before.replace("table: hubspot", "table: contacts")).await.expect_done();
    assert!(planned.contains("    lag_threshold_seconds: 60 → 300\n"), "{planned}");
    assert!(planned.contains("    metadata: {\"team\":[\"data\",null]} → {}\n"), "{planned}");

    let paused = after.clone() + "    state: paused\n";
    let planned = run(&setup.node, "plan", &paused).await.expect_done();
    assert!(planned.contains("~ consumer hubspot\n    state: running → paused\n"), "{planned}");
    run(&setup.node, "apply", &paused).await.expect_done();
    assert_eq!(setup.consumer(HUBSPOT).await["state"], "paused");
    assert_nothing_to_do(&setup.node, &paused).await;
    run(&setup.node, "apply", &after).await.expect_done();
    setup.state_is(HUBSPOT, "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_is_a_change_and_one_that_is_not_mentioned_stays() {
    let setup = Setup::new().await;
    let file = file(&setup.database, "");
    assert_nothing_to_do(&setup.node, &file).await;
    let password = "another-one-altogether";
    setup.database.run(&format!("alter user {} password '{password}'", setup.database.user)).await;
    let planned = run_with_password(&setup.node, "plan", &file, password).await.expect_done();
    assert!(planned.contains("~ target app\n    connection.password: (secret) → (another one)\n"), "{planned}");
    let json = run_with_password(&setup.node, "plan --output json", &file, password).await.expect_json();
    let expected = json!([{"field": "connection.password", "secret": true, "was_set": true, "is_set": true}]);
    assert_eq!(json["changes"][0]["fields"], expected);
    run_with_password(&setup.node, "apply", &file, password).await.expect_done();
    assert_eq!(setup.node.api.act("/v1/targets/app/check").await.expect(200)["ok"], true);
    let planned = run_with_password(&setup.node, "plan", &file, password).await.expect_done();
    assert!(planned.starts_with("nothing to do"), "{planned}");

    let line = format!("      password: ${{{VARIABLE}}}\n");
    assert_nothing_to_do(&setup.node, &file.replace(&line, "")).await;
    let without = file.replace(&line, "      password: null\n");
    let planned = run(&setup.node, "plan", &without).await.expect_done();
    assert!(planned.contains("    connection.password: (secret) → none\n"), "{planned}");
    run(&setup.node, "apply", &without).await.expect_done();
    assert_eq!(setup.node.api.target("app").await["connection"]["password_set"], false);
    assert_nothing_to_do(&setup.node, &without).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_lacks_is_deleted_only_when_asked_for_and_consumers_first() {
    let setup = Setup::new().await;
    setup.draft("old", &json!({"provider": HUBSPOT})).await;
    let elsewhere = "targets: []\nconsumers: []\n";
    let planned = run(&setup.node, "plan", elsewhere).await.expect_done();
    let left = "not in the file, and left as they are (--prune deletes them): target app, consumer old\n";
    assert!(planned.starts_with("nothing to do") && planned.ends_with(left), "{planned}");
    run(&setup.node, "apply", elsewhere).await.expect_done();
    assert_eq!(
        (names(&setup.node, "targets").await, names(&setup.node, "consumers").await),
        (vec!["app".into()], vec!["old".into()])
    );

    let planned = run(&setup.node, "plan --prune", elsewhere).await.expect_done();
    let expected = "- consumer old (its table stays as it is)\n- target app\n\n0 to create, 0 to change, 2 to delete\n";
    assert_eq!(planned, expected);
    let applied = run(&setup.node, "apply --prune --output json", elsewhere).await.expect_json();
    assert_eq!(applied, json!({"done": ["delete consumer old", "delete target app"], "not_done": []}));
    assert!(names(&setup.node, "targets").await.is_empty() && names(&setup.node, "consumers").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_changes_nothing_and_everything_that_is_wrong_is_told_with_its_line() {
    let setup = Setup::new().await;
    setup.draft("mine", &json!({"provider": HUBSPOT})).await;
    let refused = async |file: &str| {
        let ran = cli::run_with_variables(&setup.node.api, "apply -f -", &[("HOST", "")], file).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        ran.stderr
    };
    let wrong = "targets:\n- name: b\n  colour: red\n  connection: { host: h, database: d, username: u, port: x }\nalerting: { recipients: ops }\n";
    let told = refused(wrong).await;
    let expected = [
        "error: standard input can't be used as it is:",
        "  line 3: targets[0].colour: there is no such field; there are name, connection, pool_size, limits, metadata",
        "  line 4: targets[0].connection.port: takes a whole number",
        "  line 5: alerting.recipients: takes a list, not a text",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    let told = refused(&file(&setup.database, "")).await;
    assert!(
        told.contains(&format!("line 8: targets[0].connection.password: the variable {VARIABLE} is not set")),
        "{told}"
    );

    let consumer = CONSUMER.replace("name: hubspot", "name: mine").replace("table: hubspot", "table: mine");
    let lost = format!("consumers:\n{}", consumer.replace("target: app", "target: nowhere"));
    let told = refused(&lost).await;
    assert!(told.contains("line 2: consumers[0].target: there will be no target nowhere"), "{told}");
    assert!(told.contains("consumers[0].target: can't be changed from \"app\" to \"nowhere\""), "{told}");
    let pruned = async |targets: &str| {
        let file = format!("{targets}consumers:\n{consumer}");
        cli::run_with(&setup.node.api, "plan --prune -f -", &file).await
    };
    let none = pruned("targets: []\n").await;
    assert!(none.status == Some(1) && none.stderr.contains("there will be no target app"), "{none:?}");
    let not_said = pruned("").await.expect_done();
    assert!(not_said.contains("left as they are") && not_said.contains("0 to delete"), "{not_said}");
    setup.database.make_table("mine").await;
    setup.act("mine", "start").await;
    let told = refused(&format!("consumers:\n{consumer}    state: draft\n")).await;
    assert!(told.contains("consumers[0].state: it is running, and what was started is no draft again"), "{told}");

    assert_eq!(
        (names(&setup.node, "targets").await, names(&setup.node, "consumers").await),
        (vec!["app".into()], vec!["mine".into()])
    );
    let ran = cli::run(&setup.node.api, "plan -f /nowhere/sequin.yaml").await;
    assert!(ran.status == Some(1) && ran.stderr.contains("/nowhere/sequin.yaml"), "{ran:?}");
    assert_eq!(cli::run(&setup.node.api, "apply").await.status, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_that_fails_is_the_last_and_applying_again_goes_on_from_there() {
    let (node, database) = (Node::start().await, Database::create().await);
    let without_table = CONSUMER.replace("    create_table: true\n", "");
    let file = file(&database, &format!("{without_table}{}", CONSUMER.replace("hubspot\n", "second\n")));
    let ran = run(&node, "apply", &file).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    for words in [
        "error: start consumer hubspot: consumer hubspot can't start: its table is not as it should be",
        "create table sequin.hubspot (",
        "done before that: create target app, create consumer hubspot\n",
        "not done: start consumer hubspot, create consumer second, make the table of consumer second, start consumer second\n",
    ] {
        assert!(ran.stderr.contains(words), "{words:?} is not in\n{}", ran.stderr);
    }
    let json = run(&node, "apply --output json", &file).await;
    assert_eq!(json.status, Some(1), "{json:?}");
    let told: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!((&told["done"], &told["not_done"][0]), (&json!([]), &json!("start consumer hubspot")));

    database.make_table("hubspot").await;
    let planned = run(&node, "plan", &file).await.expect_done();
    assert!(planned.starts_with("~ consumer hubspot\n    state: draft → running\n+ consumer second\n"), "{planned}");
    run(&node, "apply", &file).await.expect_done();
    assert_nothing_to_do(&node, &file).await;
    // A table that somebody dropped is made again.
    let setup = Setup { node, database };
    setup.state_is("second", "live").await;
    setup.act("second", "pause").await;
    setup.database.run("drop table sequin.second").await;
    let planned = run(&setup.node, "plan", &file).await.expect_done();
    let expected = "~ consumer second\n    create_table: sequin.second\n    state: paused → running\n";
    assert!(planned.starts_with(expected), "{planned}");
    run(&setup.node, "apply", &file).await.expect_done();
    setup.state_is("second", "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_makes_the_same_elsewhere_but_for_secrets() {
    let (node, database) = (Node::start().await, Database::create().await);
    let paused = CONSUMER.replace("hubspot\n", "paused\n").replace("create_table: true", "state: draft");
    let of_sync =
        CONSUMER.replace("hubspot\n", "one\n").replace("{ provider: hubspot }", &format!("{{ sync: {} }}", sync(1)));
    let metadata = "    metadata: { note: \"$${A} line\\ntwo\", number: 1.5, nested: [{ a: no }] }\n    unsupported_text: replace\n";
    let file = file(&database, &format!("{CONSUMER}{paused}{of_sync}{metadata}"));
    run(&node, "apply", &file).await.expect_done();
    let ran = cli::run(&node.api, "export").await;
    assert!(ran.stderr.contains(&format!("set {VARIABLE} ")), "{ran:?}");
    let exported = ran.expect_done();
    assert!(exported.contains(&format!("${{{VARIABLE}}}")) && !exported.contains(PASSWORD), "{exported}");
    assert_nothing_to_do(&node, &exported).await;

    let elsewhere = Node::start().await;
    database.run("drop table sequin.hubspot, sequin.one").await;
    run(&elsewhere, "apply", &exported).await.expect_done();
    assert_nothing_to_do(&elsewhere, &exported).await;
    assert_eq!(cli::run(&elsewhere.api, "export").await.expect_done(), exported);
    for consumer in ["hubspot", "paused", "one"] {
        let (here, there) = (node.api.consumer(consumer).await, elsewhere.api.consumer(consumer).await);
        for field in ["filter", "schema", "table", "metadata", "unsupported_text", "lag_threshold_seconds"] {
            assert_eq!(here[field], there[field], "{field} of {consumer}");
        }
    }
    assert_eq!(elsewhere.api.consumer("paused").await["state"], "draft");
    assert_eq!(elsewhere.api.act("/v1/targets/app/check").await.expect(200)["ok"], true);
    let json = cli::run(&elsewhere.api, "export --output json").await.expect_json();
    assert_eq!(json["targets"][0]["connection"]["password"], format!("${{{VARIABLE}}}"));
}

#[tokio::test]
async fn secrets_are_compared_without_being_told() {
    let node = Node::start().await;
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "d", "username": "u", "password": PASSWORD});
    node.api.post("/v1/targets", &json!({"name": "app", "connection": connection})).await.expect(201);
    let nothing = json!({"host": "127.0.0.1", "port": 1, "database": "d", "username": "u"});
    node.api.post("/v1/targets", &json!({"name": "open", "connection": nothing})).await.expect(201);
    let compare = async |target: &str, connection: Value| {
        node.api.post(&format!("/v1/targets/{target}/compare-secrets"), &json!({"connection": connection})).await
    };
    let same = json!({"same": ["connection.password"], "different": []});
    let different = json!({"same": [], "different": ["connection.password"]});
    assert_eq!(compare("app", json!({"password": PASSWORD})).await.expect(200), same);
    assert_eq!(compare("app", json!({"password": "x"})).await.expect(200), different);
    assert_eq!(compare("open", json!({"password": "x"})).await.expect(200), different);
    assert_eq!(compare("app", json!({})).await.expect(200), json!({"same": [], "different": []}));
    assert_eq!(compare("app", json!({"host": "x"})).await.expect_problem(422), ["connection.host"]);
    let answer = compare("app", json!({"password": [PASSWORD]})).await;
    assert!(!answer.body.to_string().contains("password\\\""), "{}", answer.body);
    assert_eq!(answer.expect_problem(422), ["connection.password"]);
    compare("nobody", json!({})).await.expect_problem(404);
}
