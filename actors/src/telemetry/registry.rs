//! Those that are there to be read whenever somebody collects: whoever counts keeps what he counts in, and is known here by
//! a reference that ends with it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use opentelemetry::{KeyValue, metrics::Meter};

/// Those of one kind.
#[derive(Debug)]
pub(super) struct Registry<T>(Mutex<Vec<Weak<T>>>);

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Registry<T> {
    pub(super) fn add(&self, one: &Arc<T>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that come and go are forgotten also where nobody collects; looking at all of them each time would be slow.
        if known.len() == known.capacity() {
            known.retain(|one| one.strong_count() > 0);
        }
        known.push(Arc::downgrade(one));
    }

    /// Those that are still there.
    fn live(&self) -> Vec<Arc<T>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.strong_count() > 0);
        known.iter().filter_map(Weak::upgrade).collect()
    }
}

/// One of its kind, and where it is known.
pub(super) fn one<T>(one: T) -> (Arc<T>, Arc<Registry<T>>) {
    let (one, registry) = (Arc::new(one), Registry::default());
    registry.add(&one);
    (one, Arc::new(registry))
}

/// Takes a value with its attributes.
pub(super) type Tell<'a, N> = dyn FnMut(N, &[KeyValue]) + 'a;

/// Makes the instruments that read those of one kind.
pub(super) struct Instruments<'m, T> {
    pub(super) meter: &'m Meter,
    pub(super) of: Weak<Registry<T>>,
}

/// What is not given to a callback is looked for there: an instrument may outlive those that it reads.
macro_rules! instrument {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $number:ty) => {
        $(#[$doc])*
        pub(super) fn $name(
            &self,
            name: &'static str,
            unit: &'static str,
            description: &'static str,
            read: fn(&T, &mut Tell<'_, $number>),
        ) {
            let of = self.of.clone();
            let builder = self.meter.$kind(name).with_unit(unit).with_description(description);
            builder
                .with_callback(move |observer| {
                    for one in of.upgrade().iter().flat_map(|registry| registry.live()) {
                        read(&one, &mut |value, attributes| observer.observe(value, attributes));
                    }
                })
                .build();
        }
    };
}

impl<'m, T: Send + Sync + 'static> Instruments<'m, T> {
    pub(super) fn of(meter: &'m Meter, registry: &Arc<Registry<T>>) -> Self {
        Self { meter, of: Arc::downgrade(registry) }
    }

    instrument!(
        /// What only grows.
        counter,
        u64_observable_counter,
        u64
    );
    instrument!(
        /// Time that only grows, in seconds.
        time,
        f64_observable_counter,
        f64
    );
    instrument!(
        /// What is as it is.
        gauge,
        u64_observable_gauge,
        u64
    );
    instrument!(
        /// An age, in seconds.
        age,
        f64_observable_gauge,
        f64
    );
    instrument!(
        /// What is as it is, and may be added up.
        level,
        i64_observable_up_down_counter,
        i64
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_not_read_any_more_and_takes_no_room() {
        let registry = Registry::default();
        let stays = Arc::new(0);
        registry.add(&stays);
        for number in 1..1000 {
            registry.add(&Arc::new(number));
        }
        assert!(registry.0.lock().expect("not poisoned").len() < 100, "those that are gone were kept");
        assert_eq!(registry.live(), [stays]);
        assert_eq!(registry.0.lock().expect("not poisoned").len(), 1);
    }
}
