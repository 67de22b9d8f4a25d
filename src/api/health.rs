//! For those who watch over processes: is it alive, is it ready.

use std::time::Duration;

use axum::http::StatusCode;

use super::{Problem, State};

/// How long the storage may take to answer; whoever watches does not wait for long either.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

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
    let ask = async {
        api.stream.providers().await?;
        api.documents.look().await?;
        Ok::<_, Problem>("ok\n")
    };
    let silent = |_| {
        let detail = format!("the record stream and the control store have not answered within {ANSWERS_WITHIN:?}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    tokio::time::timeout(ANSWERS_WITHIN, ask).await.map_err(silent)?
}
