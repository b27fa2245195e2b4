//! Quantities of the Kubernetes API: `500m`, `64Mi`, `1.5G`, `1e3`.

use super::types::Quantity;

/// Suffixes and the power of the base that they stand for: base 10 first, then base 2.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Largest quantity in thousandths: what a 64 bit number holds, as in Kubernetes.
const MAX_MILLI: f64 = i64::MAX as f64 * 1000.0;

impl Quantity {
    /// The quantity in thousandths, rounded up; `None` when it is none.
    pub fn milli(&self) -> Option<i128> {
        let text = self.0.as_str();
        let digits =
            text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        let factor = match (DECIMAL.iter().find(|(name, _)| *name == suffix), suffix.strip_prefix(['e', 'E']))
        {
            (Some((_, power)), _) => 10f64.powi(*power),
            (None, Some(power)) if !power.is_empty() => 10f64.powi(power.parse::<i8>().ok()?.into()),
            _ => 2f64.powi(BINARY.iter().find(|(name, _)| *name == suffix)?.1 as i32),
        };
        let milli = number * factor * 1000.0;
        if !milli.is_finite() || milli.abs() > MAX_MILLI {
            return None;
        }
        // What binary fractions cannot express must not be rounded up to the next thousandth.
        let rounded = milli.round();
        Some(if (milli - rounded).abs() < 1e-6 { rounded as i128 } else { milli.ceil() as i128 })
    }

    /// The quantity in whole units, rounded up; `None` when it is none, or negative.
    pub fn value(&self) -> Option<u64> {
        let milli = self.milli()?;
        u64::try_from(milli.div_ceil_euclid(1000)).ok()
    }
}

/// Division that rounds up, for negative numbers too.
trait DivCeil {
    fn div_ceil_euclid(self, by: i128) -> i128;
}

impl DivCeil for i128 {
    fn div_ceil_euclid(self, by: i128) -> i128 {
        -((-self).div_euclid(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("1", 1000),
            ("500m", 500),
            ("0.1", 100),
            ("1.5Gi", 1_610_612_736_000),
            ("64Mi", 67_108_864_000),
            ("1k", 1_000_000),
            ("2e3", 2_000_000),
            ("2E", 2_000_000_000_000_000_000_000),
            ("1E3", 1_000_000),
            ("100n", 1),
            ("-1", -1000),
        ] {
            assert_eq!(Quantity(text.to_owned()).milli(), Some(milli), "{text}");
        }
        for text in ["", "m", "1x", "Mi", "1 Gi", "1ee3", "10Ei", "."] {
            assert_eq!(Quantity(text.to_owned()).milli(), None, "{text}");
        }
        assert_eq!(Quantity("1100m".to_owned()).value(), Some(2));
        assert_eq!(Quantity("-1".to_owned()).value(), None);
    }
}
