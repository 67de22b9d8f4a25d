//! The settings as they are given: a name and a text each, from the environment or from a file.

use std::{collections::BTreeMap, env, fs, ops::RangeInclusive, path::Path};

use sequin_actors::model::Secret;

use super::{ConfigError, OF_ALL, OF_CLUSTERS};

/// What is set. An empty text is as good as none.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Reads the environment and, if one is named, the file; the environment wins.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut settings = file.map(read_file).transpose()?.unwrap_or_default();
        for name in known() {
            if let Ok(value) = env::var(name) {
                settings.insert(name.into(), value);
            }
        }
        Ok(Self(settings))
    }

    #[cfg(test)]
    pub(super) fn of(settings: &[(&str, &str)]) -> Self {
        Self(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    pub(super) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || {
            let message = format!("takes a number from {} to {}, not {text:?}", range.start(), range.end());
            ConfigError::new(name, message)
        };
        text.parse().ok().filter(|number| range.contains(number)).map(Some).ok_or_else(wrong)
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    OF_ALL.into_iter().chain(OF_CLUSTERS)
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let setting = path.display().to_string();
    let wrong = |message: String| ConfigError::new(&setting, message);
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let values: BTreeMap<String, toml::Value> =
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    let mut settings = BTreeMap::new();
    for (name, value) in values {
        if !known().any(|known| known == name) {
            let known: Vec<_> = known().collect();
            return Err(wrong(format!("{name} is no setting; there are {}", known.join(", "))));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            _ => return Err(wrong(format!("{name} takes a text or a number"))),
        };
        settings.insert(name, value);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        Settings::load(Some(file.path()))
    }

    #[test]
    fn a_name_in_the_file_that_is_no_setting_is_refused_and_so_is_a_value_that_is_no_text() {
        for (text, expected) in [
            ("SEQUIN_LISTN = \"127.0.0.1:1\"", "SEQUIN_LISTN is no setting"),
            ("SEQUIN_LISTEN = [1]", "SEQUIN_LISTEN takes a text or a number"),
        ] {
            let error = load(text).err().expect("a wrong file");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_number_may_stand_in_the_file_as_one() {
        let settings = load("SEQUIN_NATS_REPLICAS = 3\nSEQUIN_NATS_USER = \"\"").expect("a good file");
        assert_eq!(settings.number("SEQUIN_NATS_REPLICAS", 1..=5), Ok(Some(3)));
        assert_eq!(settings.get("SEQUIN_NATS_USER"), None);
    }
}
