//! For those who watch over processes: is it alive, is it ready.

use super::{Problem, State};

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The storage behind it answers too.
pub(super) async fn readyz(api: State) -> Result<&'static str, Problem> {
    api.stream.providers().await?;
    api.documents.list::<sequin_actors::model::Target>(None, 1).await?;
    Ok("ok\n")
}
