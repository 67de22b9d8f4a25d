//! The user that a customer makes by the set-up, and no other right: it is enough, and each one that is missing is named,
//! with the SQL that gives it.

use serde_json::{Value, json};

use crate::support::{
    database::{Database, with_password},
    model::{HUBSPOT, Model, contact, no_contact, sync},
    node::Node,
    setup::Setup,
};

/// A right that is taken away, what is found then, the step at which a check finds it, and a word by which the finding names
/// it. `USER` and `DATABASE` stand for the names.
const RIGHTS: [(&str, &str, &str, &str); 6] = [
    ("revoke connect on database DATABASE from public, USER", "connect_privilege_missing", "database", "connect"),
    ("revoke all on schema sequin from USER", "schema_privilege_missing", "schema", "use schema sequin"),
    ("revoke select on sequin.hubspot from USER", "table_privilege_missing", "rights", "select"),
    ("revoke insert on sequin.hubspot from USER", "table_privilege_missing", "rights", "insert"),
    ("revoke update on sequin.hubspot from USER", "table_privilege_missing", "rights", "update"),
    ("revoke delete on sequin.hubspot from USER", "table_privilege_missing", "rights", "delete"),
];

async fn check(setup: &Setup) -> Value {
    setup.node.api.act("/v1/targets/app/check?schema=sequin&table=hubspot").await.expect(200)
}

async fn verify(setup: &Setup) -> Value {
    setup.node.api.act("/v1/consumers/hubspot/verify").await.expect(200)
}

/// A database with nobody of ours in it, and the user and the schema that the API's set-up makes there.
async fn as_the_set_up_says() -> Setup {
    let mut database = Database::create().await;
    let user = database.user.replace("user_", "restricted_");
    database.run(&format!("drop schema sequin; drop owned by {}", database.user)).await;
    database.user = user;
    let setup = Setup::with(Node::start().await, database).await;
    let answer = setup.node.api.get("/v1/targets/app/setup-sql").await.expect(200);
    setup.database.run(&with_password(answer["sql"].as_str().expect("SQL"))).await;
    setup
}

#[tokio::test]
async fn the_user_of_the_set_up_needs_no_other_right_and_each_that_it_lacks_is_named_with_the_sql_that_gives_it() {
    let setup = as_the_set_up_says().await;
    let mut model = Model::default();
    let many: Vec<_> = (0..2000).map(|n| contact(sync(n % 9), n, json!({"n": n.to_string()}))).collect();
    setup.publish(&mut model, &many).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    assert_eq!(verify(&setup).await, json!({"ok": true, "findings": []}));
    let checked = check(&setup).await;
    let ill = |step: &&Value| step["status"] != "ok" && step["step"] != "bastion";
    let steps = checked["steps"].as_array().expect("steps");
    assert_eq!((&checked["ok"], steps.iter().find(ill)), (&json!(true), None), "{checked}");
    setup.act(HUBSPOT, "start").await;
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &[contact(sync(1), "new", json!({})), no_contact(sync(1), 1)]).await;
    setup.hubspot_is(&model).await;

    let Database { name, user, .. } = &setup.database;
    for (revoke, code, step, word) in RIGHTS {
        setup.database.run(&revoke.replace("DATABASE", name).replace("USER", user)).await;
        let verified = verify(&setup).await;
        let findings = verified["findings"].as_array().expect("findings");
        let [finding] = findings.as_slice() else { panic!("{revoke}: {verified}") };
        assert_eq!((&verified["ok"], &finding["code"]), (&json!(false), &json!(code)), "{revoke}: {verified}");
        assert!(finding["message"].as_str().is_some_and(|message| message.contains(word)), "{revoke}: {finding}");
        let fix = finding["fix_sql"].as_str().expect("SQL");

        let checked = check(&setup).await;
        assert_eq!(checked["ok"], false, "{revoke}: {checked}");
        let steps = checked["steps"].as_array().expect("steps");
        let failed: Vec<_> = steps.iter().filter(|step| step["status"] == "failed").collect();
        let [failed] = failed.as_slice() else { panic!("{revoke}: {checked}") };
        assert_eq!((&failed["step"], &failed["fix"]), (&json!(step), &json!(fix)), "{revoke}: {checked}");
        assert_eq!(checked["reason"]["fix"], fix, "{revoke}: {checked}");

        setup.database.run(fix).await;
        assert_eq!(verify(&setup).await, json!({"ok": true, "findings": []}), "after {fix}");
        assert_eq!(check(&setup).await["ok"], true, "after {fix}");
    }
    setup.publish(&mut model, &[contact(sync(1), "last", json!({})), no_contact(sync(2), 2)]).await;
    setup.hubspot_is(&model).await;
}
