//! The id of what there is one of.

use std::{fmt, str::FromStr};

/// What a document is known by of which there is one, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OnlyOne;

impl fmt::Display for OnlyOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }
}

impl FromStr for OnlyOne {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == Self.to_string() { Ok(Self) } else { Err(format!("there is only one, which is not called {text}")) }
    }
}
