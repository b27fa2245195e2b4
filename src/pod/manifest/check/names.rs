//! The rules for names in the Kubernetes API: RFC 1123 labels and subdomains.

use crate::pod::manifest::findings::Findings;

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A DNS label: at most 63 lower case letters, digits and hyphens.
pub fn dns_label(path: &str, name: &str, findings: &mut Findings) {
    if !is_label(name) {
        findings.error(
            path,
            format!(
                "'{name}' must be 1 to 63 lower case letters, digits or '-', with '-' neither first nor last"
            ),
        );
    }
}

/// Labels with dots between them, at most 253 characters.
pub fn dns_subdomain(path: &str, name: &str, findings: &mut Findings) {
    if name.len() > 253 || !name.split('.').all(is_label) {
        findings.error(
            path,
            format!("'{name}' must be lower case letters, digits, '-' and '.', at most 253, as a DNS name"),
        );
    }
}

/// The key of a value in a config map or secret; it becomes a file name.
pub fn data_key(key: &str, findings: &mut Findings) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || key.len() > 253 || !key.chars().all(allowed) || key == "." || key.starts_with("..") {
        findings
            .error(&format!("data.{key}"), "a key must be letters, digits, '-', '_' and '.', at most 253");
    }
}

/// One of a few words.
pub fn one_of(path: &str, value: &str, allowed: &[&str], findings: &mut Findings) {
    if !allowed.contains(&value) {
        findings.error(path, format!("'{value}' must be one of {}", allowed.join(", ")));
    }
}

/// No value may occur twice.
pub fn unique(values: impl Iterator<Item = (String, String)>, findings: &mut Findings) {
    let mut seen = std::collections::BTreeSet::new();
    for (path, value) in values {
        if !seen.insert(value.clone()) {
            findings.error(&path, format!("'{value}' occurs twice"));
        }
    }
}

/// A path without `..`; with `relative`, it must not start with a slash either.
pub fn inner_path(path: &str, value: &str, findings: &mut Findings) {
    if value.starts_with('/') || value.split('/').any(|part| part == "..") || value.contains('\0') {
        findings.error(path, format!("'{value}' must be a relative path without '..'"));
    }
}
