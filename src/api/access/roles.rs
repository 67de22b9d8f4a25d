//! Which role each call needs: all of them in one place.

use axum::http::Method;
use sequin_actors::model::Role::{self, Admin, Publish, Read};

/// The calls that need less than `admin`. What is not here needs that.
const LESS_THAN_ADMIN: [(Method, &str, Role); 23] = [
    (Method::POST, "/v1/records", Publish),
    (Method::PUT, "/v1/syncs/{sync}/collections/{collection}/version", Publish),
    (Method::POST, "/v1/syncs/{sync}/collections/{collection}/version/activate", Publish),
    (Method::GET, "/metrics", Read),
    (Method::GET, "/v1/targets", Read),
    (Method::GET, "/v1/targets/{target}", Read),
    (Method::GET, "/v1/targets/{target}/setup-sql", Read),
    (Method::POST, "/v1/targets/{target}/check", Read),
    (Method::GET, "/v1/consumers", Read),
    (Method::GET, "/v1/consumers/{consumer}", Read),
    (Method::GET, "/v1/consumers/{consumer}/create-table-sql", Read),
    (Method::POST, "/v1/consumers/{consumer}/verify", Read),
    (Method::GET, "/v1/consumers/{consumer}/views-sql", Read),
    (Method::GET, "/v1/consumers/{consumer}/quarantine", Read),
    (Method::GET, "/v1/providers", Read),
    (Method::GET, "/v1/syncs", Read),
    (Method::GET, "/v1/syncs/{sync}", Read),
    (Method::GET, "/v1/nodes", Read),
    (Method::GET, "/v1/incidents", Read),
    (Method::GET, "/v1/incidents/{incident}", Read),
    (Method::GET, "/v1/alerting", Read),
    (Method::GET, "/v1/tokens", Read),
    (Method::GET, "/v1/tokens/{token}", Read),
];

/// The role that a call needs, by its method and its path as the router has it.
pub(in crate::api) fn needed(method: &Method, path: &str) -> Role {
    // A HEAD is answered as the GET would be.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let found = LESS_THAN_ADMIN.iter().find(|(of, at, _)| at == &path && of == method);
    found.map_or(Admin, |(.., role)| *role)
}

/// Whether a call may change what is set up, which the audit log tells. Publishing is not that.
pub(in crate::api) fn changes_something(method: &Method, path: &str) -> bool {
    !method.is_safe() && needed(method, path) == Admin && !path.ends_with("/compare-secrets")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::openapi::calls;

    #[test]
    fn what_nobody_has_decided_needs_admin() {
        for (method, path) in [(Method::GET, "/v1/new"), (Method::POST, "/v1/targets"), (Method::PUT, "/v1/records")] {
            assert_eq!(needed(&method, path), Admin);
        }
    }

    #[test]
    fn every_call_that_looks_is_for_readers_but_those_that_are_named_here() {
        let looks = calls().into_iter().filter(|(method, path)| method.is_safe() && path.starts_with("/v1/"));
        let for_admins: Vec<_> = looks.filter(|(method, path)| needed(method, path) != Read).collect();
        assert_eq!(for_admins, [(Method::GET, "/v1/audit".to_owned())], "decide who may call the others");
    }

    #[test]
    fn every_call_that_a_role_is_given_for_is_there() {
        let calls: BTreeSet<_> = calls().into_iter().map(|(method, path)| (method.to_string(), path)).collect();
        for (method, path, _) in LESS_THAN_ADMIN {
            assert!(calls.contains(&(method.to_string(), path.into())), "{method} {path}");
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
