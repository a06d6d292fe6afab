//! Flags of `inference-sim` that take several words, and how they are taken out of the command line (simulator.md
//! §1.1). Called by `settings`.

use std::ffi::OsString;

/// Flags that take several words: `--x a b c` up to the next word that begins with `--`.
pub const LISTS: [&str; 5] = [
    "served-model-name",
    "lora-modules",
    "failure-types",
    "fake-metrics",
    "config",
];

/// Boolean flags with a twin that turns them off: `--no-x` is `--x=false`.
const TWINS: [&str; 4] = [
    "enable-sleep-mode",
    "mm-encoder-only",
    "enforce-eager",
    "enable-prefix-caching",
];

/// Values of one list flag, in order; `None`: not given.
pub type List = Option<Vec<String>>;

/// Takes the list flags out of `args`: `--x=v` is one value, `--x v1 v2` all words up to the next `--`.
pub fn take_lists(args: Vec<OsString>) -> (Vec<OsString>, [List; LISTS.len()]) {
    let mut rest = Vec::with_capacity(args.len());
    let mut lists: [List; LISTS.len()] = Default::default();
    let mut taking: Option<usize> = None;
    for arg in args {
        let word = arg.to_str().unwrap_or("");
        if let Some(twin) = word.strip_prefix("--no-").filter(|n| TWINS.contains(n)) {
            taking = None;
            rest.push(format!("--{twin}=false").into());
            continue;
        }
        if let Some(name) = word.strip_prefix("--") {
            let (name, value) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
            taking = LISTS.iter().position(|l| *l == name);
            if let Some(i) = taking {
                let values = value.filter(|v| !v.is_empty()).map(str::to_owned);
                lists[i] = Some(values.into_iter().collect());
                if value.is_some() {
                    taking = None;
                }
                continue;
            }
        } else if let Some(list) = taking.and_then(|i| lists[i].as_mut()) {
            if !word.is_empty() {
                list.push(word.to_owned());
            }
            continue;
        }
        rest.push(arg);
    }
    (rest, lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_at_the_next_flag() {
        let args = "--model m --served-model-name a b --no-enforce-eager --port 1 --lora-modules={\"name\":\"x\"} stray --config c";
        let (rest, lists) = take_lists(args.split(' ').map(OsString::from).collect());
        assert_eq!(
            rest,
            ["--model", "m", "--enforce-eager=false", "--port", "1", "stray"]
        );
        assert_eq!(lists[0].as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(lists[1].as_deref(), Some(&["{\"name\":\"x\"}".to_owned()][..]));
        assert_eq!(
            (lists[2].clone(), lists[4].as_ref().map(Vec::len)),
            (None, Some(1))
        );
    }
}
