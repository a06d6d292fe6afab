//! The time of a log line, in UTC, in the encodings of `--zap-time-encoding`.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// How the time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// Seconds since 1970, with a fraction.
    Epoch,
    /// Milliseconds since 1970, with a fraction.
    Millis,
    /// Nanoseconds since 1970.
    Nanos,
    /// `2026-01-02T03:04:05.678Z`
    Iso8601,
    /// `2026-01-02T03:04:05Z`
    #[default]
    Rfc3339,
    /// `2026-01-02T03:04:05.678901234Z`, zeros at the end left out.
    Rfc3339Nano,
}

impl TimeFormat {
    /// Is it written as a number, without quotes in JSON?
    pub fn numeric(self) -> bool {
        matches!(self, TimeFormat::Epoch | TimeFormat::Millis | TimeFormat::Nanos)
    }

    /// `at` in this encoding. Times before 1970 are written as 1970.
    pub fn write(self, at: SystemTime) -> String {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        match self {
            TimeFormat::Epoch => format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
            TimeFormat::Millis => format!("{}.{:06}", since.as_millis(), since.subsec_nanos() % 1_000_000),
            TimeFormat::Nanos => since.as_nanos().to_string(),
            TimeFormat::Iso8601 => format!("{}.{:03}Z", date(at), since.subsec_millis()),
            TimeFormat::Rfc3339 => format!("{}Z", date(at)),
            TimeFormat::Rfc3339Nano => {
                let fraction = format!(".{:09}", since.subsec_nanos());
                format!(
                    "{}{}Z",
                    date(at),
                    fraction.trim_end_matches('0').trim_end_matches('.')
                )
            }
        }
    }
}

fn date(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at.max(UNIX_EPOCH));
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!(
        "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}",
        u8::from(month)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_encoding_of_one_moment() {
        let at = UNIX_EPOCH + Duration::new(1_767_323_045, 120_034_000);
        let table = [
            (TimeFormat::Epoch, "1767323045.120034000"),
            (TimeFormat::Millis, "1767323045120.034000"),
            (TimeFormat::Nanos, "1767323045120034000"),
            (TimeFormat::Iso8601, "2026-01-02T03:04:05.120Z"),
            (TimeFormat::Rfc3339, "2026-01-02T03:04:05Z"),
            (TimeFormat::Rfc3339Nano, "2026-01-02T03:04:05.120034Z"),
        ];
        for (format, want) in table {
            assert_eq!(format.write(at), want, "{format:?}");
        }
        assert_eq!(TimeFormat::Rfc3339Nano.write(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        assert_eq!(
            TimeFormat::Rfc3339.write(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00Z"
        );
    }
}
