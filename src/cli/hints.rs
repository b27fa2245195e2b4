//! What people type who come from other programs, and what it is called here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of docker and podman.
const COMMANDS: [(&str, &str); 17] = [
    ("attach", "pod attach"),
    ("cp", "pod cp"),
    ("images", "image list"),
    ("info", "doctor"),
    ("inspect", "state' or 'magikrun image inspect"),
    ("load", "image load"),
    ("login", "image login"),
    ("logout", "image logout"),
    ("logs", "pod logs"),
    ("play", "pod run"),
    ("pull", "image pull"),
    ("push", "image push"),
    ("rm", "delete"),
    ("rmi", "image rm"),
    ("save", "image save"),
    ("stop", "kill"),
    ("tag", "image tag"),
];

/// Options of `docker run` and `podman run`.
const OPTIONS: [(&str, &str); 8] = [
    ("-i", "standard input is always that of the caller"),
    ("--interactive", "standard input is always that of the caller"),
    ("--name", "the name is the first argument"),
    ("--network", "'--host-network', or a pod, which has more"),
    ("-p", "pods have ports: 'hostPort' in a manifest for 'magikrun pod run'"),
    ("--privileged", "pods can be: 'securityContext' in a manifest for 'magikrun pod run'"),
    ("--publish", "pods have ports: 'hostPort' in a manifest for 'magikrun pod run'"),
    ("--rm", "a container of 'magikrun run' is deleted when it ends, unless '--keep' is given"),
];

/// A hint for a command line that is wrong; none if there is none.
pub fn hint(e: &clap::Error) -> Option<String> {
    let value = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let find = |table: &[(&str, &'static str)], word: &str| {
        table.iter().find(|(known, _)| *known == word).map(|(_, hint)| *hint)
    };
    match e.kind() {
        ErrorKind::InvalidSubcommand => {
            let hint = find(&COMMANDS, value(ContextKind::InvalidSubcommand)?)?;
            Some(format!("try 'magikrun {hint}'"))
        }
        ErrorKind::UnknownArgument => {
            let word = value(ContextKind::InvalidArg)?.split('=').next()?;
            find(&OPTIONS, word).map(str::to_owned)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_options_of_others_are_answered_with_ours() {
        let said = |args: &[&str]| {
            let e = crate::cli::command().try_get_matches_from(args).unwrap_err();
            hint(&e).unwrap_or_default()
        };
        assert_eq!(said(&["magikrun", "pull", "busybox"]), "try 'magikrun image pull'");
        assert!(said(&["magikrun", "run", "--rm", "x"]).contains("--keep"));
        assert!(said(&["magikrun", "run", "-p", "80:80", "x"]).contains("hostPort"));
        assert_eq!(said(&["magikrun", "run", "--nonsense", "x"]), "");
    }

    #[test]
    fn hints_name_commands_that_exist_and_none_that_are_ours_already() {
        let root = crate::cli::command();
        for (word, hint) in COMMANDS {
            assert!(root.find_subcommand(word).is_none(), "{word}");
            for command in format!("magikrun {hint}").split('\'').filter(|part| part.starts_with("magikrun "))
            {
                let mut words = command.split(' ').skip(1);
                assert!(words.try_fold(&root, |at, word| at.find_subcommand(word)).is_some(), "{command}");
            }
        }
    }
}
