//! Comparing secrets with those of a target: they are never shown, and whoever describes targets in a file wants to know
//! whether it is still true. Who may ask may set them as well.

use axum::Json;
use sequin_actors::model::{Connection, Target};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::find;
use crate::api::{
    State,
    body::{self, Path},
    problem::Problem,
    secret::{SecretText, are_same},
};

/// The secrets to compare.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Secrets, example = json!({"connection": {"password": "…"}}))]
pub(in crate::api) struct CompareRequest {
    connection: ConnectionSecrets,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionSecrets {
    #[schema(value_type = Option<String>, format = Password, write_only)]
    password: Option<SecretText>,
    #[serde(default)]
    tls: TlsSecrets,
    #[serde(default)]
    bastion: BastionSecrets,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TlsSecrets {
    #[schema(value_type = Option<String>, format = Password, write_only)]
    client_key_pem: Option<SecretText>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BastionSecrets {
    #[schema(value_type = Option<String>, format = Password, write_only)]
    private_key: Option<SecretText>,
    #[schema(value_type = Option<String>, format = Password, write_only)]
    passphrase: Option<SecretText>,
    #[schema(value_type = Option<String>, format = Password, write_only)]
    password: Option<SecretText>,
}

/// What came of it, by the paths of the fields.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = Compared)]
pub(in crate::api) struct CompareView {
    pub(in crate::api) same: Vec<String>,
    pub(in crate::api) different: Vec<String>,
}

/// Compares secrets with those of a target, which are never shown.
#[utoipa::path(post, path = "/v1/targets/{target}/compare-secrets", tag = "targets", operation_id = "compare_secrets",
    responses((status = 200, description = "Which of them are the same", body = CompareView)))]
pub(in crate::api) async fn compare_secrets(
    api: State,
    Path(target): Path<String>,
    body::Json(request): body::Json<CompareRequest>,
) -> Result<Json<CompareView>, Problem> {
    let Connection { password, tls, bastion, .. } = find::<Target>(&api.documents, &target).await?.value.connection;
    let (private_key, passphrase, bastion_password) =
        bastion.map(|bastion| (bastion.private_key, bastion.passphrase, bastion.password)).unwrap_or_default();
    let given = request.connection;
    let pairs = [
        ("connection.password", given.password, password),
        ("connection.tls.client_key_pem", given.tls.client_key_pem, tls.client_key_pem),
        ("connection.bastion.private_key", given.bastion.private_key, private_key),
        ("connection.bastion.passphrase", given.bastion.passphrase, passphrase),
        ("connection.bastion.password", given.bastion.password, bastion_password),
    ];
    let (mut same, mut different) = (Vec::new(), Vec::new());
    for (field, given, ours) in pairs {
        if let Some(SecretText(given)) = given {
            let list = if ours.is_some_and(|ours| are_same(&given, &ours)) { &mut same } else { &mut different };
            list.push(field.to_owned());
        }
    }
    Ok(Json(CompareView { same, different }))
}
