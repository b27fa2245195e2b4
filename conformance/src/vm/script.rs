//! The shell script that runs a job in the guest.

use crate::environment::Job;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// The ordinary user in the guest, and its uid.
pub(super) const USER: (&str, u32) = ("rig", 1000);

/// Shows what the host has at a path, which it may not change.
const BIND: &str = r#"bind() {
    grep -qF " $1 " /proc/self/mounts && return
    if [ -d "/host$1" ]; then mkdir -p "$1"; else mkdir -p "$(dirname "$1")" && : >>"$1"; fi
    mount --bind -o ro "/host$1" "$1"
}
"#;

/// The script; `user` runs the job in a unit of that user's systemd.
pub(super) fn of(job: &Job, user: Option<(&str, u32)>) -> String {
    let mut text = format!("set -e\n{BIND}");
    for path in &job.needs {
        let _ = writeln!(text, "bind {}", quoted(path.as_os_str()));
    }
    let directory = quoted(job.directory.as_os_str());
    // The working directory may be written to, so it is a copy.
    let _ = writeln!(
        text,
        r#"if ! [ -d {directory} ]; then mkdir -p "$(dirname {directory})"; cp -a /host{directory} {directory}; fi"#
    );
    let _ = writeln!(text, "cd {directory}");
    let assignments = job.env.iter().map(|(name, value)| format!("{}={}", quoted(name), quoted(value)));
    let prefix = user.map(|(name, uid)| as_user(name, uid)).unwrap_or_default();
    let argv = job.argv.iter().map(|word| quoted(word));
    let _ = writeln!(text, "exec {prefix}env {}", assignments.chain(argv).collect::<Vec<_>>().join(" "));
    text
}

/// What precedes a command that runs in a unit of the systemd of a user.
fn as_user(name: &str, uid: u32) -> String {
    format!(
        "sh -ec 'systemctl start user@{uid}.service\nexec setpriv --reuid={name} --regid={name} --init-groups \
         env HOME=/home/{name} USER={name} XDG_RUNTIME_DIR=/run/user/{uid} \
         systemd-run --user --quiet --pipe --wait --collect --same-dir --property=Delegate=yes \"$@\"' sh "
    )
}

/// A word for the shell, whatever is in it.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", String::from_utf8_lossy(word.as_bytes()).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn words_reach_the_command_as_they_are() {
        let job = Job {
            argv: ["sh", "-c", r#"printf '%s|' "$@" "$X""#, "sh", "it's", "a $b"].map(Into::into).to_vec(),
            env: vec![("X".into(), "v w".into())],
            directory: "/".into(),
            needs: Vec::new(),
            limit: Duration::ZERO,
        };
        let output =
            std::process::Command::new("sh").arg("-c").arg(of(&job, None)).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's|a $b|v w|");
    }
}
