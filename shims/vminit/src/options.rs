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
/// A kernel passes on what it does not know: as the first process of a machine, this program is started without any
/// argument that it could misunderstand.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { spec: PathBuf::from(vm_protocol::spec::PATH), listen: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} needs a path"));
        match arg.as_str() {
            "--spec" => options.spec = value()?,
            "--listen" => options.listen = Some(value()?),
            "--version" => return Ok(None),
            _ => return Err(format!("unknown argument '{}'", arg.escape_debug())),
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
    fn arguments_are_few_and_others_are_refused() {
        let options = of(&["--spec", "/s", "--listen", "/l"]).unwrap().unwrap();
        assert_eq!((options.spec, options.listen), (PathBuf::from("/s"), Some(PathBuf::from("/l"))));
        assert_eq!(of(&[]).unwrap().unwrap().spec, PathBuf::from("/pod/spec.json"));
        assert!(of(&["--version"]).unwrap().is_none());
        of(&["--spec"]).unwrap_err();
        of(&["x"]).unwrap_err();
    }
}
