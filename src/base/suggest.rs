//! "Did you mean …": the nearest known name to a mistyped one.

/// The candidate closest to `given`, if one is close enough to be a plausible typing mistake
/// (Damerau–Levenshtein distance of at most a third of the longer name, ignoring case and dashes).
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = fold(given);
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&given, &fold(c)), c))
        .filter(|(d, c)| *d * 3 <= given.chars().count().max(c.chars().count()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// ` (did you mean "x"?)`, or nothing when no candidate is near.
pub fn hint<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, candidates)
        .map(|c| format!(" (did you mean \"{c}\"?)"))
        .unwrap_or_default()
}

fn fold(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = [
            "queue-scorer",
            "kv-cache-utilization-scorer",
            "prefix-cache-scorer",
        ];
        assert_eq!(nearest("queu-scorer", known), Some("queue-scorer"));
        assert_eq!(nearest("prefixCacheScorer", known), Some("prefix-cache-scorer"));
        assert_eq!(nearest("zebra", known), None);
    }
}
