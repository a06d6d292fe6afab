//! What people write to name a series: `name` or `name{label=value,…}`, in two grammars. Flags of v0.5.0 take
//! everything literally (runtime.md §4.2); configurations take a PromQL-style selector whose values may be
//! quoted (§5.4).

/// A family, and labels a series of it must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSpec {
    /// Exact name of the family.
    pub name: String,
    /// Labels that must be there with these values.
    pub labels: Vec<(String, String)>,
}

/// Why a metric spec was refused. Each variant carries the text at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Braces missing, out of order, or with nothing between them.
    #[error("invalid metric spec string: {0}, missing or malformed label block")]
    LabelBlock(String),
    /// A part between commas is not `label=value`.
    #[error("invalid label pair: {0}")]
    Pair(String),
    /// A pair with nothing on one side.
    #[error("empty label name or value in pair: {0}")]
    EmptyPair(String),
    /// Text after the closing brace.
    #[error("invalid characters after label section in: {0}")]
    Trailing(String),
    /// No name before the labels.
    #[error("empty metric name in spec: {0}")]
    EmptyName(String),
    /// A name no metric can have.
    #[error(
        "invalid metric name in spec: {0} (letters, digits, '_' and ':' only, not starting with a digit)"
    )]
    Name(String),
    /// `!=`, `=~` or `!~`.
    #[error("only = is supported between label and value: {0}")]
    Operator(String),
    /// A quoted value that never ends.
    #[error("unterminated quote in metric spec: {0}")]
    Quote(String),
}

impl MetricSpec {
    /// Reads a flag of v0.5.0. The empty string means that the metric is not scraped. Quotes are part of what
    /// they surround; any character is allowed in a name.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse_flag(text: &str) -> Result<Option<Self>, SpecError> {
        if text.is_empty() {
            return Ok(None);
        }
        let spec = text.trim();
        let malformed = || SpecError::LabelBlock(text.into());
        let (name, block) = match (spec.find('{'), spec.find('}')) {
            (None, None) => (spec, None),
            (Some(open), Some(close)) if open + 1 < close => {
                if close + 1 != spec.len() {
                    return Err(SpecError::Trailing(text.into()));
                }
                (&spec[..open], Some(&spec[open + 1..close]))
            }
            _ => return Err(malformed()),
        };
        let labels = block.map_or(Ok(Vec::new()), |b| b.split(',').map(literal_pair).collect())?;
        Ok(Some(MetricSpec {
            name: named(name, text)?,
            labels,
        }))
    }

    /// Reads a spec of a configuration. The empty string means that the metric is not scraped. Values may be
    /// bare or in double, single or back quotes, the first two with backslash escapes.
    ///
    /// # Errors
    /// The first mistake. Matchers other than `=` are refused, where the reference drops them silently.
    pub fn parse(text: &str) -> Result<Option<Self>, SpecError> {
        if text.is_empty() {
            return Ok(None);
        }
        let spec = text.trim();
        let (name, labels) = match spec.split_once('{') {
            Some((name, block)) => (name, selector(block, text)?),
            None if spec.contains('}') => return Err(SpecError::LabelBlock(text.into())),
            None => (spec, Vec::new()),
        };
        let name = named(name, text)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(SpecError::Name(text.into()));
        }
        Ok(Some(MetricSpec { name, labels }))
    }
}

fn named(name: &str, text: &str) -> Result<String, SpecError> {
    match name.trim() {
        "" => Err(SpecError::EmptyName(text.into())),
        name => Ok(name.into()),
    }
}

fn literal_pair(part: &str) -> Result<(String, String), SpecError> {
    let (label, value) = match part.split_once('=') {
        Some((label, value)) if !value.contains('=') => (label.trim(), value.trim()),
        _ => return Err(SpecError::Pair(part.into())),
    };
    if label.is_empty() || value.is_empty() {
        return Err(SpecError::EmptyPair(part.into()));
    }
    Ok((label.into(), value.into()))
}

/// Reads the pairs after `{`, to the end of the spec.
fn selector(mut rest: &str, text: &str) -> Result<Vec<(String, String)>, SpecError> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return match after.trim() {
                "" => Ok(labels),
                _ => Err(SpecError::Trailing(text.into())),
            };
        }
        let (label, after) = label_name(rest, text)?;
        let (value, after) = label_value(after.trim_start(), rest, text)?;
        labels.push((label, value));
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after,
            None if rest.starts_with('}') => rest,
            None if rest.is_empty() => return Err(SpecError::LabelBlock(text.into())),
            None => return Err(SpecError::Pair(rest.into())),
        };
    }
}

/// The label's name, and what follows its `=`.
fn label_name<'a>(rest: &'a str, text: &str) -> Result<(String, &'a str), SpecError> {
    let end = rest
        .find(['=', '!', ',', '}'])
        .ok_or_else(|| SpecError::LabelBlock(text.into()))?;
    let (label, after) = (rest[..end].trim(), &rest[end..]);
    let part = || rest.split([',', '}']).next().unwrap_or(rest).to_owned();
    if ["!=", "!~", "=~"].iter().any(|op| after.starts_with(op)) {
        return Err(SpecError::Operator(part()));
    }
    let value = after.strip_prefix('=').ok_or_else(|| SpecError::Pair(part()))?;
    if label.is_empty() {
        return Err(SpecError::EmptyPair(part()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !label.chars().all(plain) || label.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(SpecError::Pair(part()));
    }
    Ok((label.into(), value))
}

/// The value at the start of `rest`, and what follows it. `pair` is where its pair starts, for messages.
fn label_value<'a>(rest: &'a str, pair: &str, text: &str) -> Result<(String, &'a str), SpecError> {
    let part = || pair.split([',', '}']).next().unwrap_or(pair).to_owned();
    let (value, after) = match rest.chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => quoted(&rest[1..], quote, text)?,
        _ => {
            let end = rest
                .find([',', '}'])
                .ok_or_else(|| SpecError::LabelBlock(text.into()))?;
            let bare = rest[..end].trim();
            if bare.contains(['=', '"', '\'', '`', '{']) {
                return Err(SpecError::Pair(part()));
            }
            (bare.to_owned(), &rest[end..])
        }
    };
    if value.is_empty() {
        return Err(SpecError::EmptyPair(part()));
    }
    Ok((value, after))
}

fn quoted<'a>(rest: &'a str, quote: char, text: &str) -> Result<(String, &'a str), SpecError> {
    let mut value = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((value, &rest[at + c.len_utf8()..])),
            '\\' if quote != '`' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c)) => value.push(c),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err(SpecError::Quote(text.into()))
}
