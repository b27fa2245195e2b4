//! `magikrun completion`: clap's scripts, with ids and names of what exists added to them.

use crate::error::Result;
use clap::Command;
use clap_complete::Shell;
use std::fmt::Write as _;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// What arguments of a name stand for, and the command that lists all of them.
const LISTS: [(&str, &str); 3] = [
    ("CONTAINER-ID", "magikrun list --quiet 2>/dev/null"),
    ("IMAGE", "magikrun image list 2>/dev/null | sed \"1d; s/ .*//\""),
    ("POD", "magikrun pod list --quiet 2>/dev/null"),
];
/// Commands whose argument is an id that does not exist yet.
const NEW: [&str; 3] = ["create", "restore", "run"];

/// `magikrun completion`
pub fn run(args: &Args) -> Result<()> {
    super::print(script(args.shell).trim_end())
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "magikrun", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let commands = commands();
    match shell {
        Shell::Bash => script + &bash(&commands),
        Shell::Fish => script + &fish(&commands),
        Shell::Zsh => zsh(&script, &commands),
        _ => script,
    }
}

/// A command that takes what a list has: the words of the command, and the list.
type Listed = (Vec<String>, &'static str);

fn commands() -> Vec<Listed> {
    let mut found = Vec::new();
    collect(&super::command(), &mut Vec::new(), &mut found);
    // Those of groups first: `exec` is a command of two.
    found.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
    found
}

fn collect(command: &Command, words: &mut Vec<String>, found: &mut Vec<Listed>) {
    let first = command.get_positionals().next().and_then(|arg| arg.get_value_names()?.first());
    let list = LISTS.iter().find(|(name, _)| first.is_some_and(|first| first == name));
    if let Some((_, list)) = list.filter(|_| !NEW.contains(&command.get_name())) {
        found.push((words.clone(), list));
    }
    for below in command.get_subcommands() {
        words.push(below.get_name().to_owned());
        collect(below, words, found);
        words.pop();
    }
}

/// A function around clap's, which adds what the list of the command has.
fn bash(commands: &[Listed]) -> String {
    let mut cases = String::new();
    for (words, list) in commands {
        let _ = writeln!(cases, "        *' {} '*) list=$({list}) ;;", words.join(" "));
    }
    format!(
        "
_magikrun_lists() {{
    local words='' word list=''
    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        [[ $word == -* ]] || words+=\" $word\"
    done
    case \"$words \" in
{cases}    esac
    _magikrun \"$@\"
    [[ $2 == -* ]] || COMPREPLY+=($(compgen -W \"$list\" -- \"$2\"))
}}
complete -F _magikrun_lists -o bashdefault -o default magikrun
"
    )
}

fn fish(commands: &[Listed]) -> String {
    let mut lines = String::from("\n");
    for (words, list) in commands {
        let seen: Vec<String> =
            words.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        // Groups have commands of the same names.
        let alone = if words.len() == 1 { "not __fish_seen_subcommand_from image pod; and " } else { "" };
        let _ = writeln!(lines, "complete -c magikrun -n '{alone}{}' -f -a '({list})'", seen.join("; and "));
    }
    lines
}

/// clap's script with a function in place of the files that it offers for such an argument.
fn zsh(script: &str, commands: &[Listed]) -> String {
    let mut out = String::new();
    let mut functions = String::new();
    for (name, list) in LISTS {
        let function = format!("_magikrun_{}", name.to_lowercase().replace('-', "_"));
        let _ = writeln!(
            functions,
            "{function}() {{\n    local -a all\n    all=(${{(f)\"$({list})\"}})\n    compadd -a all\n}}"
        );
    }
    let helps = helps(commands);
    for line in script.lines() {
        let known =
            helps.iter().find(|(help, _)| line.contains(help.as_str()) && line.contains(":_default'"));
        match known {
            Some((_, function)) => out.push_str(&line.replace(":_default'", &format!(":{function}'"))),
            None => out.push_str(line),
        }
        out.push('\n');
        // Functions must stand before the end of the file, which calls the first of them.
        if line.starts_with("autoload") {
            out.push_str(&functions);
        }
    }
    out
}

/// How zsh's script describes such arguments, and the function that completes them.
fn helps(commands: &[Listed]) -> Vec<(String, String)> {
    let root = super::command();
    let mut found = Vec::new();
    for (words, list) in commands {
        let command = words.iter().try_fold(&root, |command, word| command.find_subcommand(word));
        let argument = command.and_then(|command| command.get_positionals().next());
        let Some(help) = argument.and_then(clap::Arg::get_help) else { continue };
        let Some((name, _)) = LISTS.iter().find(|(_, known)| known == list) else { continue };
        let function = format!("_magikrun_{}", name.to_lowercase().replace('-', "_"));
        found.push((format!("-- {}", help.to_string().replace(':', "\\:")), function));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(words: &str) -> Option<&'static str> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        commands().into_iter().find(|(known, _)| *known == words).map(|(_, list)| list)
    }

    #[test]
    fn commands_that_take_what_exists_are_found_in_the_command_line() {
        for words in ["start", "exec", "delete", "update"] {
            assert_eq!(list_of(words), Some(LISTS[0].1), "{words}");
        }
        assert_eq!(list_of("image rm"), Some(LISTS[1].1));
        assert_eq!(list_of("pod stop"), Some(LISTS[2].1));
        for words in ["create", "run", "restore", "list", "spec"] {
            assert_eq!(list_of(words), None, "{words}");
        }
    }

    #[test]
    fn every_script_has_the_lists() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let script = script(shell);
            for (_, list) in LISTS {
                assert!(
                    script.contains(list.split(' ').take(2).collect::<Vec<_>>().join(" ").as_str()),
                    "{shell}: {list}"
                );
            }
        }
        assert!(script(Shell::Zsh).contains(":_magikrun_container_id'"));
    }
}
