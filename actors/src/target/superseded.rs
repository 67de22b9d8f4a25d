//! What the watch may still say of a target although the store, when it was asked, had something newer.

use std::sync::Arc;

/// What was so before the store was asked. What comes for another reason, such as a change of a consumer, still says this until the
/// watch has told of what is newer. Clocks are not asked: those of two nodes differ.
#[derive(Debug)]
pub(super) struct Superseded<T>(Option<Arc<T>>);

impl<T> Default for Superseded<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: PartialEq> Superseded<T> {
    /// The store has another than this. However often it is asked, the watch tells of the first.
    pub(super) fn set(&mut self, before: &Arc<T>) {
        self.0.get_or_insert_with(|| Arc::clone(before));
    }

    /// Whether what was told is it. Once there is news, there is none any more.
    pub(super) fn is(&mut self, told: &T) -> bool {
        let is_it = self.0.as_deref() == Some(told);
        if !is_it {
            self.0 = None;
        }
        is_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_had_before_it_was_asked_is_not_heard_until_the_watch_has_told_of_something_else() {
        let mut superseded = Superseded::default();
        assert!(!superseded.is(&"first"), "the store was not asked");
        superseded.set(&Arc::new("first"));
        superseded.set(&Arc::new("second"));
        assert!(superseded.is(&"first") && superseded.is(&"first"));
        assert!(!superseded.is(&"third"));
        assert!(!superseded.is(&"first"), "somebody has set it back");
    }
}
