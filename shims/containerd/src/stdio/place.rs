//! Names of streams: FIFOs, files and programs.

use super::logger;
use crate::error::{Error, Result};
use std::path::PathBuf;

/// What the name of a stream means.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Nowhere,
    /// A FIFO, or a file that exists.
    Path(PathBuf),
    /// A file, which is made if need be.
    File(PathBuf),
    /// A program that reads the output, and its arguments.
    Program(PathBuf, Vec<String>),
}

/// Reads the name of a stream.
pub fn place(name: &str) -> Result<Place> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(if name.is_empty() { Place::Nowhere } else { Place::Path(name.into()) });
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(logger::decode(path));
    match scheme {
        "fifo" => Ok(Place::Path(path)),
        "file" => Ok(Place::File(path)),
        "binary" => Ok(Place::Program(path, logger::query_arguments(query))),
        _ => Err(Error::invalid(format!("cannot use '{name}' for output: unknown scheme '{scheme}'"))),
    }
}

/// The file that standard input comes from.
pub fn input(name: &str) -> Result<Option<PathBuf>> {
    Ok(match place(name)? {
        Place::Path(path) => Some(path),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams_are_fifos_files_or_programs() {
        assert_eq!(place("").unwrap(), Place::Nowhere);
        assert_eq!(place("/run/f").unwrap(), Place::Path("/run/f".into()));
        assert_eq!(place("file:///a%20b").unwrap(), Place::File("/a b".into()));
        let args = vec!["id".to_owned(), "a b".to_owned(), "flag".to_owned(), String::new()];
        let program = Place::Program("/bin/log".into(), args);
        assert_eq!(place("binary:///bin/log?id=a%20b&flag").unwrap(), program);
        assert!(place("http://x").is_err());
    }
}
