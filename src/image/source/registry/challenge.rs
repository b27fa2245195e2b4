//! What a registry asks for with `WWW-Authenticate`: RFC 9110, "WWW-Authenticate"; the token protocol of docker's registry.

use std::collections::HashMap;

/// A way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Address of that server.
        realm: String,
        /// What the token is for.
        service: String,
        /// What it allows; empty if the registry does not say.
        scope: String,
    },
}

/// Parses the values of the headers; a token is preferred.
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let found: Vec<Challenge> = headers.filter_map(one).collect();
    let bearer = found.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(found.first()).cloned()
}

fn one(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    let mut take = |name: &str| parameters.remove(name).unwrap_or_default();
    let realm = take("realm");
    (!realm.is_empty()).then(|| Challenge::Bearer { realm, service: take("service"), scope: take("scope") })
}

/// `name="value", name=value`: quoted values may have commas and escapes.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut chars = text.chars().peekable();
    while chars.peek().is_some() {
        let name: String = chars.by_ref().take_while(|c| *c != '=').collect();
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                value.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
            }
            let _ = chars.by_ref().take_while(|c| *c != ',').count();
        } else {
            value = chars.by_ref().take_while(|c| *c != ',').collect();
        }
        found.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: &str, scope: &str| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.to_owned(),
            scope: scope.to_owned(),
        };
        for (headers, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/token\",service=\"s\",scope=\"repository:a/b:pull,push\""],
                Some(bearer("https://a/token", "s", "repository:a/b:pull,push")),
            ),
            (&["bearer realm=https://a , service=\"q\\\"uote\""], Some(bearer("https://a", "q\"uote", ""))),
            (&["Basic realm=x", "Bearer realm=\"r\""], Some(bearer("r", "", ""))),
            (&["Bearer service=\"s\""], None),
            (&["Negotiate"], None),
            (&["Bearer realm=\""], None),
            (&[], None),
        ] {
            assert_eq!(parse(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
