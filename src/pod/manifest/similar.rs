//! Guessing what somebody meant who has misspelt a name.

/// Most letters that may be wrong, missing, or too many.
const MOST_WRONG: usize = 2;

/// The known name that is most like this one, if one is.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = |known: &str| distance(&name.to_lowercase(), &known.to_lowercase());
    let near = known.map(|known| (wrong(known), known));
    // Of a short name too little would be left.
    near.filter(|(wrong, known)| *wrong <= MOST_WRONG && wrong * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

/// How many letters must be changed, added or taken out to make one text of another (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (n, left) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, right) in to.chars().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[m + 1];
            row[m + 1] = changed.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_letters() {
        for (from, to, wrong) in
            [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("imge", "image", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(from, to), distance(to, from)), (wrong, wrong), "{from} {to}");
        }
    }

    #[test]
    fn what_is_like_nothing_is_not_guessed() {
        let known = || ["image", "imagePullPolicy", "tty"].into_iter();
        assert_eq!(nearest("imagepullPolcy", known()), Some("imagePullPolicy"));
        assert_eq!(nearest("image2", known()), Some("image"));
        assert_eq!(nearest("env", known()), None);
    }
}
