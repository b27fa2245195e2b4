//! Sizes as people write them.

/// Bytes given as a number with an optional unit: `1024`, `512k`, `64M`, `1.5g`, `10MiB`; `-1` is unlimited. Units are
/// powers of 1024, as in runc.
pub fn parse(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size: '{text}' (a number, with k, m, g, t or p)");
    let trimmed = text.trim();
    if let Ok(number) = trimmed.parse::<i64>() {
        return if number >= -1 { Ok(number) } else { Err(wrong()) };
    }
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let number: f64 = trimmed[..digits].parse().map_err(|_| wrong())?;
    let unit = trimmed[digits..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1024", 1024),
            ("1k", 1024),
            ("64M", 64 << 20),
            ("1.5g", 3 << 29),
            ("1MiB", 1 << 20),
            ("-1", -1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "x", "1x", "-5", "1.2.3k", "9999999999p"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
