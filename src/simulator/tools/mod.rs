//! Tool calls (simulator.md §7): which tools a request may offer ([`schema`]), and the calls that are made up for
//! them ([`calls`]). Called by the chat, responses and messages endpoints.

pub mod calls;
pub mod schema;

use serde_json::Value;
use serde_json::value::RawValue;

/// Longest list of tools read, bytes.
const MAX_BYTES: usize = 1 << 20;
/// Tools of one request at most.
const MAX_TOOLS: usize = 1_024;

/// A tool that can be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, checked or not.
    pub parameters: Value,
}

/// What generated arguments are like.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges {
    /// Least and greatest whole number.
    pub integer: (i64, i64),
    /// Least and greatest number.
    pub number: (f64, f64),
    /// Least and greatest length of an array.
    pub array: (usize, usize),
    /// Chance that an optional parameter is there, percent.
    pub optional_parameter: u32,
    /// Chance that an optional field of a nested object is there, percent.
    pub optional_field: u32,
    /// Chance of each call beyond the first that must be, percent; `None`: any number up to that of the tools.
    pub extra_call: Option<u32>,
    /// Take tools whose schema says what is not understood.
    pub skip_validation: bool,
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges {
            integer: (0, 100),
            number: (0.0, 100.0),
            array: (1, 5),
            optional_parameter: 50,
            optional_field: 50,
            extra_call: None,
            skip_validation: false,
        }
    }
}

/// Reads the `tools` of a chat: objects with a `function`, whatever their type, as the reference takes them. A function
/// without a name has an empty one.
///
/// # Errors
/// What is wrong with them, for a 400.
pub fn read(raw: &RawValue, skip_validation: bool) -> Result<Vec<Tool>, String> {
    let tools = listed(raw)?;
    if tools.len() > MAX_TOOLS {
        return Err(format!("more than {MAX_TOOLS} tools"));
    }
    tools
        .iter()
        .enumerate()
        .map(|(i, tool)| read_one(i, tool, skip_validation))
        .collect()
}

fn read_one(i: usize, tool: &Value, skip_validation: bool) -> Result<Tool, String> {
    let at = format!("tools[{i}]");
    let function = tool
        .get("function")
        .ok_or_else(|| format!("{at}.function is missing"))?;
    if !skip_validation {
        schema::check_function(&format!("{at}.function"), function)?;
    }
    Ok(Tool {
        name: function
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        parameters: function.get("parameters").cloned().unwrap_or(Value::Null),
    })
}

fn listed(raw: &RawValue) -> Result<Vec<Value>, String> {
    if raw.get().len() > MAX_BYTES {
        return Err(format!("tools are larger than {MAX_BYTES} bytes"));
    }
    serde_json::from_str(raw.get()).map_err(|e| format!("tools must be a list: {e}"))
}

/// The tools of type `kind` in a list, with their schemas under `key`; others (web search, say) cannot be called here and
/// are passed over.
///
/// # Errors
/// The list is too large or none, or a tool has no name.
pub fn offered(raw: &RawValue, kind: &str, key: &str) -> Result<Vec<Tool>, String> {
    let tools = listed(raw)?;
    let own = tools.iter().filter(|t| t.get("type").is_none_or(|k| k == kind));
    own.enumerate()
        .map(|(i, tool)| named(&format!("tools[{i}]"), tool, key))
        .collect()
}

/// A tool of an object with a name and a schema under `key`.
///
/// # Errors
/// It has no name.
fn named(at: &str, function: &Value, key: &str) -> Result<Tool, String> {
    let name = function
        .get("name")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty());
    Ok(Tool {
        name: name
            .ok_or_else(|| format!("{at}.name must be a string that is not empty"))?
            .to_owned(),
        parameters: function.get(key).cloned().unwrap_or(Value::Null),
    })
}
