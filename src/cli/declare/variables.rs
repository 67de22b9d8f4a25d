//! `${VAR}` and `${VAR:-default}`: values that a file takes from the environment.

/// Puts values in the places of variables. `$${` stands for `${` itself.
pub(super) fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            expanded += before;
            expanded += "${";
            rest = &rest[start + 2..];
            continue;
        }
        expanded += &rest[..start];
        let (inside, after) =
            rest[start + 2..].split_once('}').ok_or("has a ${ without its }; $${ stands for ${ itself")?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err("takes ${VAR} or ${VAR:-default}; $${ stands for ${ itself".into());
        }
        match (variable(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => expanded += &value,
            (None, Some(default)) => expanded += default,
            (None, None) => {
                return Err(format!("the variable {name} is not set: set it, or write ${{{name}:-default}}"));
            }
        }
        rest = after;
    }
    Ok(expanded + rest)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A text that [`expand`] gives back as it is.
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "USER" => Some("ada".into()),
            "EMPTY" => Some(String::new()),
            "STRANGE" => Some("${USER} $${".into()),
            _ => None,
        }
    }

    #[test]
    fn a_variable_gives_its_value_or_its_default() {
        for (text, expected) in [
            ("${USER}", "ada"),
            ("a${USER}b${USER}c", "aadabadac"),
            ("${NOBODY:-x}", "x"),
            ("${NOBODY:-}", ""),
            ("${NOBODY:-a:-b $x}", "a:-b $x"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${STRANGE}", "${USER} $${"),
            ("$USER $ $$ {} }", "$USER $ $$ {} }"),
            ("$${USER}", "${USER}"),
            ("$$${USER}", "$${USER}"),
        ] {
            assert_eq!(expand(text, environment).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_an_error_that_says_so() {
        assert!(expand("x ${NOBODY}", environment).expect_err("not set").contains("NOBODY is not set"));
        for wrong in ["${", "${USER", "${}", "${1}", "${A B}", "${USER-x}"] {
            assert!(expand(wrong, environment).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_escaped_comes_back_as_it_was() {
        for text in ["${USER}", "$${USER}", "$", "pa$$word", "$$${", "${${"] {
            assert_eq!(expand(&escape(text), environment).as_deref(), Ok(text));
        }
    }
}
