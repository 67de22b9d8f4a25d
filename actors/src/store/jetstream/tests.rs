//! The store of a cluster against real servers.

use super::*;
use crate::{jetstream::tests::connect, nats::Nats, store::contract};

/// A store on a server of its own.
struct Fixture {
    _nats: Nats,
    store: JetStreamStore,
}

impl Fixture {
    async fn open() -> Self {
        let nats = Nats::start();
        let store = open(&nats).await;
        Self { _nats: nats, store }
    }
}

impl std::ops::Deref for Fixture {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

async fn open(nats: &Nats) -> JetStreamStore {
    JetStreamStore::open(connect(nats, "c").await).await.expect("a store")
}

contract::suite!(Fixture::open());
