//! How the node gets out to databases: where it doesn't connect to, from which addresses it comes, and which files a target
//! may name.

use std::path::PathBuf;

use sequin_actors::{Egress, model::DeniedNetworks};

use super::{ConfigError, Settings};

pub(super) const DENY: &str = "SEQUIN_DENY_TARGET_CIDRS";
pub(super) const ADDRESSES: &str = "SEQUIN_EGRESS_IPS";
pub(super) const SECRETS: &str = "SEQUIN_SECRETS_DIR";

pub(super) fn parse(settings: &Settings) -> Result<Egress, ConfigError> {
    let wrong = |name, error: &dyn std::error::Error| ConfigError::new(name, error.to_string());
    let denied = match settings.get(DENY) {
        None => DeniedNetworks::default(),
        Some("none") => DeniedNetworks::none(),
        // Who denies one more network doesn't mean to open those of a cloud's secrets.
        Some(networks) => DeniedNetworks::default().and(networks.parse().map_err(|error| wrong(DENY, &error))?),
    };
    let addresses = settings.get(ADDRESSES).map(Egress::parse_addresses).transpose();
    let addresses = addresses.map_err(|error| wrong(ADDRESSES, &error))?.unwrap_or_default();
    let secrets_directory = settings.get(SECRETS).map(PathBuf::from);
    if let Some(directory) = &secrets_directory
        && !directory.is_dir()
    {
        let message =
            format!("takes the directory that holds files with passwords, and {} is none", directory.display());
        return Err(ConfigError::new(SECRETS, message));
    }
    Ok(Egress { denied, secrets_directory, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_metadata_services_are_denied_and_nothing_else_is_known() {
        let egress = parse(&Settings::of(&[])).expect("good settings");
        assert_eq!(egress.denied, DeniedNetworks::default());
        assert_eq!((egress.secrets_directory, egress.addresses), (None, Vec::new()));
    }

    #[test]
    fn networks_addresses_and_a_directory_are_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("a text");
        let settings = [(DENY, "10.0.0.0/8"), (ADDRESSES, "203.0.113.7, 2001:db8::/48"), (SECRETS, path)];
        let egress = parse(&Settings::of(&settings)).expect("good settings");
        for denied in [[10, 1, 2, 3], [169, 254, 169, 254]] {
            assert!(egress.denied.deny(denied.into()), "{denied:?}");
        }
        assert!(!egress.denied.deny([11, 1, 2, 3].into()));
        assert_eq!(egress.addresses, ["203.0.113.7", "2001:db8::/48"]);
        assert_eq!(egress.secrets_directory.as_deref(), Some(directory.path()));
        let nowhere = parse(&Settings::of(&[(DENY, "none")])).expect("good settings").denied;
        assert!(
            !nowhere.deny([169, 254, 169, 254].into()) && DeniedNetworks::default().deny([169, 254, 169, 254].into())
        );
    }

    #[test]
    fn what_is_no_network_no_address_or_no_directory_is_told_by_the_setting() {
        for (setting, value) in [
            (DENY, "10.0.0.0/33"),
            (DENY, "none,10.0.0.0/8"),
            (ADDRESSES, "gateway.example.com"),
            (SECRETS, "/nowhere/secrets"),
        ] {
            let error = parse(&Settings::of(&[(setting, value)])).expect_err("a wrong setting").to_string();
            assert!(error.starts_with(setting), "{error}");
        }
    }
}
