//! Failed logins: how many an address may have before it is told to wait.
//!
//! This keeps the log and the node from those who try in numbers. It keeps nobody out who has a valid token: behind a
//! proxy, all share an address, and one who fails must not lock the others out. What keeps guessers out is the length
//! of a token.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many may fail at once.
const BURST: u32 = 20;

/// How long it takes until one more may fail.
const REFILL: Duration = Duration::from_secs(6);

/// Of how many addresses are remembered at least, and of twice as many at most: those that failed last.
const REMEMBERED: usize = 10_000;

/// Who failed how often, of late: a token bucket for each address.
#[derive(Default)]
pub(super) struct FailedLogins(Mutex<Buckets>);

/// When each bucket will be full again; one that is not here is full.
#[derive(Default)]
struct Buckets {
    recent: HashMap<IpAddr, Instant>,
    /// The recent ones of before, when they had become too many.
    older: HashMap<IpAddr, Instant>,
}

impl FailedLogins {
    /// Counts one; returns how long to wait if they are too many.
    pub(super) fn count(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client(from);
        let full_at = buckets.recent.get(&client).or_else(|| buckets.older.get(&client));
        let full_at = full_at.copied().unwrap_or(now).max(now) + REFILL;
        let allowed = now + REFILL * BURST;
        if full_at > allowed {
            return Err(full_at - allowed);
        }
        if buckets.recent.len() >= REMEMBERED && !buckets.recent.contains_key(&client) {
            buckets.older = std::mem::take(&mut buckets.recent);
        }
        buckets.recent.insert(client, full_at);
        Ok(())
    }
}

/// Who has one address of IPv6 has all of its network.
fn client(from: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & NETWORK).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn exhaust(failures: &FailedLogins, from: IpAddr, now: Instant) {
        for _ in 0..BURST {
            failures.count(from, now).expect("one more may fail");
        }
    }

    #[test]
    fn who_fails_too_often_is_told_how_long_to_wait_and_may_fail_again_after_that() {
        let (failures, now, from) = (FailedLogins::default(), Instant::now(), address("10.0.0.1"));
        exhaust(&failures, from, now);
        assert_eq!(failures.count(from, now), Err(REFILL));
        assert_eq!(failures.count(from, now + REFILL / 2), Err(REFILL / 2));
        assert_eq!(failures.count(from, now + REFILL), Ok(()));
        assert!(failures.count(from, now + REFILL).is_err());
        exhaust(&failures, from, now + REFILL * (BURST + 1));
    }

    #[test]
    fn each_address_has_its_own_and_a_network_of_ipv6_has_one() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        exhaust(&failures, address("10.0.0.1"), now);
        assert_eq!(failures.count(address("10.0.0.2"), now), Ok(()));
        exhaust(&failures, address("2001:db8::1"), now);
        assert!(failures.count(address("2001:db8::ffff:2"), now).is_err());
        assert_eq!(failures.count(address("2001:db8:0:1::1"), now), Ok(()));
    }

    #[test]
    fn however_many_addresses_fail_memory_is_bounded_and_those_that_failed_last_are_remembered() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        let last = address("192.0.2.1");
        for number in 0..25_000 {
            failures.count(Ipv4Addr::from_bits(number).into(), now).expect("its first");
        }
        exhaust(&failures, last, now);
        for number in 0..9_000 {
            failures.count(Ipv4Addr::from_bits(0x0b00_0000 + number).into(), now).expect("its first");
        }
        assert!(failures.count(last, now).is_err());
        let buckets = failures.0.lock().expect("the buckets");
        assert!(buckets.recent.len() <= REMEMBERED && buckets.older.len() <= REMEMBERED);
    }
}
