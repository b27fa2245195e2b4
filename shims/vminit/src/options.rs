//! The command line.

use std::path::PathBuf;

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The specification.
    pub spec: PathBuf,
    /// Unix socket to listen on instead of vsock.
    pub listen: Option<PathBuf>,
}

/// Reads the arguments; `None` when only the version is wanted.
///
/// A kernel passes the words of its command line on that it does not know, as `nomodule` where it has no modules: they mean
/// nothing here.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { spec: PathBuf::from(vm_protocol::spec::PATH), listen: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} needs a path"));
        match arg.as_str() {
            "--spec" => options.spec = value()?,
            "--listen" => options.listen = Some(value()?),
            "--version" => return Ok(None),
            option if option.starts_with('-') => {
                return Err(format!("unknown argument '{}'", option.escape_debug()));
            }
            _ => {}
        }
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Option<Options>, String> {
        parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn arguments_are_few_and_others_are_refused_but_for_words_of_the_kernel() {
        let options = of(&["--spec", "/s", "--listen", "/l"]).unwrap().unwrap();
        assert_eq!((options.spec, options.listen), (PathBuf::from("/s"), Some(PathBuf::from("/l"))));
        assert_eq!(of(&[]).unwrap().unwrap().spec, PathBuf::from("/pod/spec.json"));
        assert!(of(&["--version"]).unwrap().is_none());
        of(&["--spec"]).unwrap_err();
        of(&["--x"]).unwrap_err();
        assert_eq!(of(&["nomodule", "--spec", "/s"]).unwrap().unwrap().spec, PathBuf::from("/s"));
    }
}
