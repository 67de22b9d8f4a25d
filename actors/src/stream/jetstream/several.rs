//! Several questions at a time.

use futures_util::{StreamExt, TryStreamExt, stream};

/// Asks all, up to so many at a time, and returns the answers in order, or the first failure.
pub(super) fn several<T, E, F: Future<Output = Result<T, E>>>(
    questions: impl Iterator<Item = F>,
    at_a_time: usize,
) -> impl Future<Output = Result<Vec<T>, E>> {
    // Collected here: what the questions are made from is not held while they are asked.
    let questions: Vec<F> = questions.collect();
    stream::iter(questions).buffered(at_a_time).try_collect()
}
