//! Changes, as `PATCH` brings them: what a body does not name stays as it is (RFC 7396).

use std::str::FromStr;

use sequin_actors::model::FieldError;
use serde::{Deserialize, Deserializer};

/// What a change says of one field.
#[derive(Default)]
pub(super) enum Change<T> {
    /// Nothing: it is absent.
    #[default]
    Keep,
    /// `null`: as if it had never been given.
    Reset,
    /// This.
    To(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Reset, Self::To))
    }
}

impl<T> Change<T> {
    /// Changes a field that has to be given.
    pub(super) fn required(self, name: &str, field: &mut T, errors: &mut Vec<FieldError>) {
        match self {
            Self::Keep => {}
            Self::Reset => errors.push(FieldError::new(name, "can't be null: leave it out to keep it as it is")),
            Self::To(value) => *field = value,
        }
    }

    /// Changes a field that is `default` when it is not given.
    pub(super) fn or(self, default: T, field: &mut T) {
        match self {
            Self::Keep => {}
            Self::Reset => *field = default,
            Self::To(value) => *field = value,
        }
    }

    /// Changes a field that may be absent.
    pub(super) fn optional(self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Reset => *field = None,
            Self::To(value) => *field = Some(value),
        }
    }

    /// Changes a field that is given by one of its words, and has a default when it is not given.
    pub(super) fn parsed<U: FromStr<Err = FieldError> + Default>(self, field: &mut U, errors: &mut Vec<FieldError>)
    where
        T: AsRef<str>,
    {
        match self {
            Self::Keep => {}
            Self::Reset => *field = U::default(),
            Self::To(word) => match word.as_ref().parse() {
                Ok(value) => *field = value,
                Err(error) => errors.push(error),
            },
        }
    }

    /// The same of another type.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Reset => Change::Reset,
            Self::To(value) => Change::To(map(value)),
        }
    }
}
