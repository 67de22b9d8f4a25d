//! Bastions that take connections and do nothing with them: how long they are waited for, and by how many.

use std::net::Ipv4Addr;

use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

use super::*;
use crate::model::Secret;

/// How long a bastion is waited for here.
const STEP: Duration = Duration::from_millis(200);

/// A tunnel to a listener that takes connections; and the listener.
async fn to_a_listener() -> (Tunnel, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let bastion = Bastion {
        host: "127.0.0.1".into(),
        port: listener.local_addr().expect("its address").port(),
        username: "sequin".into(),
        private_key: None,
        passphrase: None,
        password: Some(Secret::new("a password")),
        host_key: None,
        trust_on_first_use: false,
    };
    let tunnel = Tunnel::new(&bastion, &Egress::default()).expect("settings");
    (Tunnel { step: STEP, ..tunnel }, listener)
}

#[tokio::test]
async fn a_host_that_takes_the_connection_and_hangs_is_given_up_and_so_is_the_connection() {
    let (tunnel, listener) = to_a_listener().await;
    let hangs = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut said = Vec::new();
        // Until the other side ends it.
        drop(client.read_to_end(&mut said).await);
        said
    });
    let fault = tunnel.link().await.err().expect("nobody answers");
    assert_eq!(fault.code, "bastion_unreachable", "{fault}");
    assert!(fault.summary.contains("takes the connection, and says nothing"), "{fault}");
    let said = timeout(Duration::from_secs(30), hangs).await.expect("the connection to end").expect("no panic");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("SSH-2.0-Sequin") && !said.contains("password"), "{said}");
}

#[tokio::test]
async fn those_who_wait_for_one_attempt_that_fails_fail_with_it() {
    let (tunnel, listener) = to_a_listener().await;
    let (first, second) = tokio::join!(tunnel.link(), async {
        // Once the other is under way.
        let client = listener.accept().await.expect("a client");
        let waited = tunnel.link().await;
        drop(client);
        waited
    });
    assert_eq!(first.err(), second.err());
    let another = timeout(Duration::ZERO, listener.accept()).await;
    assert!(another.is_err(), "there was one attempt");
    // Who comes later tries again.
    let (later, another) = tokio::join!(tunnel.link(), listener.accept());
    assert!(later.is_err() && another.is_ok());
}
