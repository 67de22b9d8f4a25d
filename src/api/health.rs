//! For those who watch over processes: is it alive, is it ready.

use super::{Problem, State};

/// Whether the process lives.
#[utoipa::path(get, path = "/livez", tag = "node", operation_id = "livez", security(()),
    responses((status = 200, description = "It does", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether the storage behind the node answers too.
#[utoipa::path(get, path = "/readyz", tag = "node", operation_id = "readyz", security(()),
    responses((status = 200, description = "It does", body = String)))]
pub(super) async fn readyz(api: State) -> Result<&'static str, Problem> {
    api.stream.providers().await?;
    api.documents.list::<sequin_actors::model::Target>(None, 1).await?;
    Ok("ok\n")
}
