//! The key of a bastion: nothing is sent there before somebody has confirmed it, or has asked for the one that is seen to
//! be believed.

use sequin_actors::model::{Connection, Target};

use crate::api::{
    Api,
    problem::{FieldProblem, Problem},
};

const FIELD: &str = "connection.bastion.host_key";

/// Asks whether a connection can be used, and keeps the key that its bastion shows, where it was asked to and knows none.
pub(super) async fn settle(api: &Api, connection: &mut Connection) -> Result<(), Problem> {
    api.inspector.check_settings(connection).await.map_err(|error| Problem::invalid([error]))?;
    let Some(bastion) = &mut connection.bastion else { return Ok(()) };
    if bastion.trust_on_first_use && bastion.host_key.is_none() {
        let seen = api.inspector.see_host_key(bastion).await;
        let unseen = |fault: &dyn std::fmt::Display, fix| {
            Problem::invalid_field(FIELD, format!("can't be seen: {fault}; {fix}"))
        };
        bastion.host_key = Some(seen.map_err(|fault| unseen(&fault, fault.fix))?);
    }
    Ok(())
}

/// Refuses a target whose bastion's key is not confirmed, and shows the key.
pub(in crate::api) async fn confirmed(api: &Api, target: &Target) -> Result<(), Problem> {
    let Some(bastion) = target.connection.bastion.as_ref().filter(|bastion| bastion.host_key.is_none()) else {
        return Ok(());
    };
    let seen = match api.inspector.see_host_key(bastion).await {
        Ok(key) => format!("it shows {key}"),
        Err(fault) => format!("which one it shows can't be seen: {fault}"),
    };
    let (name, host) = (&target.name, &bastion.host);
    let message = format!(
        "of {host} is not confirmed: {seen}. Compare it with what the owner of {host} says, and set it in target {name}"
    );
    let error = FieldProblem { code: Some("host_key_unconfirmed"), ..FieldProblem::new(FIELD, message) };
    let detail = format!("nothing is sent to the bastion of target {name} before its key is confirmed");
    Err(Problem::invalid([error]).with_detail(detail))
}
