//! Tests of the throwaway server, on real ones.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
};

use super::*;

/// Set for a process that is to start a server and wait to be killed.
const KILL_ME: &str = "SEQUIN_TEST_STARTS_A_SERVER_AND_WAITS";

fn query(url: &str, sql: &str) -> Result<String, String> {
    let psql = Programs::find().expect("PostgreSQL").postgres.with_file_name("psql");
    let output = Command::new(psql).args(["-XAtqc", sql, url]).output().expect("psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn is_alive(pid: u32) -> bool {
    let ps = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("ps");
    let state = String::from_utf8_lossy(&ps.stdout);
    // A zombie is one whose new parent has not buried it yet.
    !state.trim().is_empty() && !state.starts_with('Z')
}

fn wait_until_gone(pid: u32, port: u16, directory: &Path) {
    let gone = || !is_alive(pid) && !directory.exists() && TcpStream::connect(("127.0.0.1", port)).is_err();
    assert!(
        wait_for(Duration::from_secs(20), || gone().then_some(())).is_some(),
        "{pid} or {directory:?} is still there"
    );
}

#[test]
fn a_server_takes_its_password_and_settings_and_is_gone_after_drop() {
    let server = ThrowawayPostgres::with_settings(&[("max_connections", "7")]).expect("a server");
    let (pid, port, directory) = (server.pid(), server.port(), server.cluster.directory.clone());
    let url = server.url("postgres");
    let settings = "select concat_ws(' ', current_user, current_setting('max_connections'), current_setting('fsync'))";
    assert_eq!(query(&url, settings).expect("an answer"), "postgres 7 off");
    let refused = query(&url.replace(server.password(), "wrong"), "select 1").expect_err("a refusal");
    assert!(refused.contains("password authentication failed"), "{refused}");
    assert!(!format!("{server:?}").contains(server.password()));
    drop(server);
    assert!(!is_alive(pid) && !directory.exists());
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody there");
}

#[test]
fn a_stopped_server_starts_again_on_its_port_with_what_was_committed() {
    let server = ThrowawayPostgres::with_options(&Options { durable: true, ..Options::default() }).expect("a server");
    let url = server.url("postgres");
    assert_eq!(query(&url, "create table kept (n int); show fsync").expect("a table"), "on");
    for (number, how) in [Stop::Fast, Stop::Immediate].into_iter().enumerate() {
        query(&url, &format!("insert into kept values ({number})")).expect("a row");
        server.stop(how);
        query(&url, "select 1").expect_err("a stopped server");
        server.start_again().expect("the server again");
    }
    // A session that is too busy to notice must not keep the next postmaster from starting.
    let busy = thread::spawn({
        let url = url.clone();
        move || query(&url, "select sum(n) from generate_series(1, 1000000000) n")
    });
    let is_busy = "select count(*) = 1 from pg_stat_activity where query like 'select sum%'";
    wait_for(Duration::from_secs(20), || query(&url, is_busy).is_ok_and(|answer| answer == "t").then_some(()))
        .expect("a busy session");
    host::signal(server.pid(), "KILL").expect("the kill");
    server.start_again().expect("the server after a kill");
    busy.join().expect("a thread").expect_err("a session cut off");
    assert_eq!(query(&url, "select count(*) from kept").expect("a count"), "2");
}

#[test]
fn a_server_that_refuses_its_settings_says_so_with_its_log() {
    let error = ThrowawayPostgres::with_settings(&[("no_such_setting", "1")]).expect_err("no server");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn a_port_that_somebody_else_took_is_recognised() {
    let server = ThrowawayPostgres::start().expect("a server");
    server.stop(Stop::Fast);
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("another listener");
    let port = other.local_addr().expect("its address").port();
    let error = server.cluster.launch(port).expect_err("no server");
    assert!(error.log_says(PORT_TAKEN), "{error}");
}

#[test]
fn a_server_does_not_outlive_a_starter_that_is_killed_outright() {
    let test = thread::current().name().expect("a test's name").replace(
        "a_server_does_not_outlive_a_starter_that_is_killed_outright",
        "starts_a_server_and_waits_to_be_killed",
    );
    let mut starter = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &test, "--ignored", "--nocapture"])
        .env(KILL_ME, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a starter");
    let lines = BufReader::new(starter.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.contains("serving ")).expect("a line that names the server");
    let mut words = line.split("serving ").nth(1).expect("its words").splitn(3, ' ');
    let mut word = || words.next().expect("a word");
    let (pid, port, directory) = (word().parse().expect("a pid"), word().parse().expect("a port"), word());
    assert!(is_alive(pid) && Path::new(directory).exists());
    starter.kill().expect("the kill");
    starter.wait().expect("its end");
    wait_until_gone(pid, port, Path::new(directory));
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn starts_a_server_and_waits_to_be_killed() {
    if std::env::var_os(KILL_ME).is_none() {
        return;
    }
    // From a thread that ends: the server's life does not hang on it.
    let server = thread::spawn(ThrowawayPostgres::start).join().expect("a thread").expect("a server");
    println!("serving {} {} {}", server.pid(), server.port(), server.cluster.directory.display());
    loop {
        thread::park();
    }
}
