//! Which role each call needs: all of them in one place. What is not named here needs `admin`.

use axum::http::Method;
use sequin_actors::model::Role;

/// The role that a call needs, by its method and its path as the router has it.
pub(in crate::api) fn needed(method: &Method, path: &str) -> Role {
    // A HEAD is answered as the GET would be.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    match (method, path) {
        ("POST", "/v1/records") => Role::Publish,
        (
            "GET",
            "/v1/targets"
            | "/v1/targets/{target}"
            | "/v1/targets/{target}/setup-sql"
            | "/v1/consumers"
            | "/v1/consumers/{consumer}"
            | "/v1/consumers/{consumer}/create-table-sql"
            | "/v1/consumers/{consumer}/quarantine"
            | "/v1/providers"
            | "/v1/syncs"
            | "/v1/syncs/{sync}"
            | "/v1/tokens"
            | "/v1/tokens/{token}",
        )
        // They look, and change nothing.
        | ("POST", "/v1/targets/{target}/check" | "/v1/consumers/{consumer}/verify") => Role::Read,
        _ => Role::Admin,
    }
}

/// Whether a call may change what is set up, which the audit log tells. Publishing is not that.
pub(in crate::api) fn changes_something(method: &Method, path: &str) -> bool {
    !method.is_safe() && needed(method, path) == Role::Admin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_decided_needs_admin() {
        for (method, path) in [(Method::GET, "/v1/new"), (Method::POST, "/v1/targets"), (Method::PUT, "/v1/records")] {
            assert_eq!(needed(&method, path), Role::Admin);
        }
    }

    #[test]
    fn what_needs_admin_and_is_no_question_is_a_change() {
        assert!(changes_something(&Method::DELETE, "/v1/targets/{target}"));
        for (method, path) in [
            (Method::POST, "/v1/records"),
            (Method::POST, "/v1/consumers/{consumer}/verify"),
            (Method::GET, "/v1/audit"),
            (Method::HEAD, "/v1/targets"),
        ] {
            assert!(!changes_something(&method, path), "{method} {path}");
        }
    }
}
