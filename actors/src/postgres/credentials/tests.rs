//! Which files a password is read from, and what is said of the others.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

fn connection(file: &str) -> Connection {
    Connection {
        host: "db".into(),
        port: 5432,
        database: "app".into(),
        username: "sequin".into(),
        password: None,
        password_file: Some(file.into()),
        tls: crate::model::Tls::default(),
        bastion: None,
    }
}

fn egress(directory: &Path) -> Egress {
    Egress { secrets_directory: Some(directory.to_owned()), ..Egress::default() }
}

async fn read_from(directory: &Path, file: &str) -> Result<String, String> {
    let password = Credentials::of(&connection(file), &egress(directory)).password().await;
    let password = password.map(|password| password.expect("a password").reveal().to_owned());
    password.map_err(|fault| {
        assert_eq!(fault.code, "bad_settings");
        fault.summary
    })
}

#[tokio::test]
async fn a_file_is_read_anew_each_time_without_the_newline_at_its_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let credentials = Credentials::of(&connection("app"), &egress(directory.path()));
    for (content, password) in
        [("one", "one"), (" two \n", " two "), ("three\r\n", "three"), ("fo\nur\n\n", "fo\nur\n")]
    {
        fs::write(&path, content).expect("written");
        let read = credentials.password().await.expect("read").expect("a password");
        assert_eq!(read.reveal(), password);
    }
}

#[tokio::test]
async fn a_link_counts_within_the_directory_and_not_out_of_it() {
    let (directory, elsewhere) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another"));
    let directory = directory.path();
    // As Kubernetes mounts a secret.
    fs::create_dir(directory.join("..2026")).expect("a directory");
    fs::write(directory.join("..2026/app"), "right").expect("written");
    symlink("..2026", directory.join("..data")).expect("a link");
    symlink("..data/app", directory.join("app")).expect("a link");
    assert_eq!(read_from(directory, "app").await.as_deref(), Ok("right"));

    fs::write(elsewhere.path().join("shadow"), "hunter2").expect("written");
    symlink(elsewhere.path().join("shadow"), directory.join("out")).expect("a link");
    let said = read_from(directory, "out").await.expect_err("a link that leads out");
    assert!(said.contains("\"out\" can't be read: it is a link that leads out"), "{said}");
}

#[tokio::test]
async fn what_holds_no_password_is_named_and_what_it_holds_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("empty"), "\n").expect("written");
    fs::write(directory.join("bytes"), b"hunter2\xff").expect("written");
    fs::write(directory.join("long"), "hunter2".repeat(1000)).expect("written");
    fs::create_dir(directory.join("folder")).expect("a directory");
    for (file, why) in [
        ("empty", "it is empty"),
        ("bytes", "it holds no text"),
        ("long", "it is longer than a password can be"),
        ("folder", "it is no file"),
        ("gone", "No such file"),
        ("../empty", "its name is not the plain name of a file"),
    ] {
        let said = read_from(directory, file).await.expect_err("no password");
        assert!(said.contains(file) && said.contains(why) && !said.contains("hunter2"), "{said}");
    }
}
