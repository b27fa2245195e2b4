//! Text of ours in files: a first line that says whose it is and what follows it, so that changes by others are seen.

use crate::error::{Error, ErrorKind, Result};
use crate::storage::blobs::Digest;

/// How the first line of ours begins; the digest of the lines that follow comes after it.
const BEGIN: &str = "# Written by 'magikrun setup'; 'magikrun setup --undo' removes it. ";
/// The last line of ours.
const END: &str = "# End of what 'magikrun setup' has written.";

/// `body` between its two lines.
pub fn mark(body: &str) -> String {
    format!("{BEGIN}{}\n{body}{END}\n", Digest::of(body.as_bytes()))
}

/// A text, split where ours is in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// What is before it; the whole text if it has nothing of ours.
    pub before: &'a str,
    /// Ours, with its two lines.
    pub ours: Option<&'a str>,
    /// What is after it.
    pub after: &'a str,
}

/// Finds what is ours. Fails if somebody has changed it: it is theirs then, too.
pub fn split(text: &str) -> Result<Split<'_>> {
    let Some(start) = text.find(BEGIN) else { return Ok(Split { before: text, ours: None, after: "" }) };
    let changed =
        || Error::new(ErrorKind::Usage, "what 'magikrun setup' wrote was changed since: remove it by hand");
    let end = text[start..].find(END).ok_or_else(changed)? + start;
    let after = text[end + END.len()..].strip_prefix('\n').ok_or_else(changed)?;
    let ours = &text[start..text.len() - after.len()];
    let (first, rest) = ours.split_once('\n').ok_or_else(changed)?;
    let body = rest.strip_suffix('\n').and_then(|rest| rest.strip_suffix(END)).ok_or_else(changed)?;
    if first[BEGIN.len()..] != Digest::of(body.as_bytes()).to_string() {
        return Err(changed());
    }
    Ok(Split { before: &text[..start], ours: Some(ours), after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_found_again_and_changes_are_seen() {
        let ours = mark("a = 1\n");
        let whole = format!("before\n{ours}after\n");
        let found = split(&whole).unwrap();
        assert_eq!(found, Split { before: "before\n", ours: Some(&ours), after: "after\n" });
        assert_eq!(split("x").unwrap(), Split { before: "x", ours: None, after: "" });
        for broken in
            [whole.replace("a = 1", "a = 2"), whole.replace(END, ""), ours[..ours.len() - 1].to_owned()]
        {
            assert!(split(&broken).unwrap_err().message().contains("by hand"), "{broken}");
        }
    }
}
