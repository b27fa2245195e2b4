//! What `--version` prints after the program's name.

/// Highest version of the OCI runtime specification that is implemented.
pub const SPEC_VERSION: &str = "1.3.0";
/// Lowest version of the OCI runtime specification that is accepted.
pub const SPEC_VERSION_MIN: &str = "1.0.0";
/// The commit that this program was built from.
pub const COMMIT: &str = env!("MAGIKRUN_COMMIT");
/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the libseccomp that is linked in.
pub fn libseccomp() -> String {
    libseccomp::ScmpVersion::current()
        .map(|v| format!("{}.{}.{}", v.major, v.minor, v.micro))
        .unwrap_or_default()
}

/// The text: callers read the first line, and some the line `spec:`.
pub fn text() -> String {
    format!("version {VERSION}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}\nlibseccomp: {}", libseccomp())
}
