//! Makes up calls: which tools, how often, with which arguments (simulator.md §7.1, §7.2). Called by `reply`.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Map, Number, Value};

use super::{Ranges, Tool};
use crate::simulator::api::ToolChoice;
use crate::simulator::tokenizer::{Tokenizer, Tokens};

/// Values of one call at most, however deep its schema and long its arrays.
const MAX_VALUES: usize = 20_000;

/// Tokens of a call beside its arguments.
const TOKENS_OF_A_CALL: usize = 3;

const WORDS: [&str; 12] = [
    "harbour", "lantern", "maple", "granite", "violet", "compass", "orchard", "ribbon", "thunder", "velvet",
    "willow", "zephyr",
];

/// A call that was made up.
#[derive(Clone, Debug)]
pub struct Call {
    /// Tool.
    pub name: String,
    /// Ten digits that tell calls apart; each protocol puts its own prefix before them.
    pub number: u64,
    /// Arguments as JSON text, cut into tokens.
    pub arguments: Tokens,
}

impl Call {
    /// Tokens it counts for.
    pub fn tokens(&self) -> usize {
        TOKENS_OF_A_CALL + self.arguments.len()
    }
}

/// The calls of one choice; empty: answer with a text.
///
/// # Errors
/// A named tool is not offered, or a schema cannot be filled.
pub fn make(
    tools: &[Tool],
    choice: &ToolChoice,
    ranges: &Ranges,
    tokenizer: &Tokenizer,
    rng: &mut SmallRng,
) -> Result<Vec<Call>, String> {
    if tools.is_empty() {
        return Ok(Vec::new());
    }
    let pool: Vec<&Tool> = match choice {
        ToolChoice::Named(name) => {
            let named = tools.iter().find(|t| t.name == *name);
            let missing = || {
                format!("tool with name '{name}' requested in tool_choice but not found in the tools list")
            };
            vec![named.ok_or_else(missing)?]
        }
        _ => tools.iter().collect(),
    };
    let least = match choice {
        ToolChoice::None => return Ok(Vec::new()),
        ToolChoice::Auto | ToolChoice::Custom => 0,
        ToolChoice::Required | ToolChoice::Named(_) => 1,
    };
    let count = match ranges.extra_call {
        _ if matches!(choice, ToolChoice::Named(_)) => 1,
        None => rng.random_range(least..=pool.len()),
        Some(chance) => {
            let mut count = least;
            while count < pool.len() && rng.random_range(0..100) < chance {
                count += 1;
            }
            count
        }
    };
    let mut call = |_| -> Result<Call, String> {
        let tool = pool[rng.random_range(0..pool.len())];
        let arguments = arguments(&tool.parameters, ranges, rng)?;
        Ok(Call {
            name: tool.name.clone(),
            number: rng.random_range(0..10_000_000_000),
            arguments: tokenizer.cut(arguments.to_string()),
        })
    };
    (0..count).map(&mut call).collect()
}

struct Filler<'a> {
    ranges: &'a Ranges,
    rng: &'a mut SmallRng,
    left: usize,
}

/// Arguments that fit a schema.
fn arguments(schema: &Value, ranges: &Ranges, rng: &mut SmallRng) -> Result<Value, String> {
    let mut filler = Filler {
        ranges,
        rng,
        left: MAX_VALUES,
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    filler.object(properties, schema, ranges.optional_parameter)
}

impl Filler<'_> {
    fn object(
        &mut self,
        properties: Option<&Map<String, Value>>,
        schema: &Value,
        chance: u32,
    ) -> Result<Value, String> {
        let required = schema.get("required").and_then(Value::as_array);
        let mut object = Map::new();
        for (name, property) in properties.into_iter().flatten() {
            let must = required.is_some_and(|list| list.iter().any(|r| r.as_str() == Some(name)));
            if must || self.rng.random_range(0..100) < chance {
                object.insert(name.clone(), self.value(property)?);
            }
        }
        Ok(Value::Object(object))
    }

    fn value(&mut self, schema: &Value) -> Result<Value, String> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| format!("the schema of a tool asks for more than {MAX_VALUES} values"))?;
        if let Some(members) = schema
            .get("enum")
            .and_then(Value::as_array)
            .filter(|m| !m.is_empty())
        {
            return Ok(members[self.rng.random_range(0..members.len())].clone());
        }
        match schema.get("type").and_then(Value::as_str).unwrap_or("") {
            "string" => Ok(Value::from(WORDS[self.rng.random_range(0..WORDS.len())])),
            "integer" => {
                let bound =
                    |key: &str, default: i64| schema.get(key).and_then(Value::as_i64).unwrap_or(default);
                let (low, high) = self.ranges.integer;
                let (low, high) = (bound("minimum", low), bound("maximum", high));
                Ok(Value::from(self.rng.random_range(low..=high.max(low))))
            }
            "number" => {
                let bound =
                    |key: &str, default: f64| schema.get(key).and_then(Value::as_f64).unwrap_or(default);
                let (low, high) = self.ranges.number;
                let (low, high) = (bound("minimum", low), bound("maximum", high));
                // A mix of both ends, which does not overflow where their difference would.
                let share: f64 = self.rng.random();
                let number = low * (1.0 - share) + high.max(low) * share;
                Ok(Number::from_f64(number).map_or(Value::from(0), Value::Number))
            }
            "boolean" => Ok(Value::from(self.rng.random_bool(0.5))),
            "null" => Ok(Value::Null),
            "array" => self.array(schema),
            "object" => {
                let properties = schema.get("properties").and_then(Value::as_object);
                self.object(properties, schema, self.ranges.optional_field)
            }
            other => Err(format!("tool parameters of type {other} are not supported")),
        }
    }

    fn array(&mut self, schema: &Value) -> Result<Value, String> {
        let bound = |key: &str| {
            schema
                .get(key)
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
        };
        let (least, most) = (bound("minItems"), bound("maxItems"));
        let low = least.unwrap_or_else(|| self.ranges.array.0.min(most.unwrap_or(usize::MAX)));
        let high = most.unwrap_or_else(|| self.ranges.array.1.max(low));
        if low > high {
            return Err(format!("minItems ({low}) is greater than maxItems({high})"));
        }
        let length = self.rng.random_range(low..=high);
        let null = Value::Null;
        let items = schema.get("items").unwrap_or(&null);
        let mut array = Vec::new();
        for _ in 0..length {
            array.push(self.value(items)?);
        }
        Ok(Value::Array(array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use serde_json::json;

    fn tool(name: &str, parameters: Value) -> Tool {
        Tool {
            name: name.into(),
            parameters,
        }
    }

    fn run(tools: &[Tool], choice: &ToolChoice, ranges: &Ranges, seed: u64) -> Result<Vec<Call>, String> {
        make(
            tools,
            choice,
            ranges,
            &Tokenizer::Simple,
            &mut SmallRng::seed_from_u64(seed),
        )
    }

    fn filled(schema: Value, ranges: &Ranges, seed: u64) -> Result<Value, String> {
        let calls = run(&[tool("f", schema)], &ToolChoice::Required, ranges, seed)?;
        Ok(serde_json::from_str(calls[0].arguments.text()).unwrap())
    }

    #[test]
    fn how_often_is_said_by_the_choice() {
        let tools = [tool("a", json!({})), tool("b", json!({}))];
        let mut counts = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let calls = |choice| run(&tools, &choice, &Ranges::default(), seed).unwrap();
            assert!(calls(ToolChoice::None).is_empty());
            assert!((1..=2).contains(&calls(ToolChoice::Required).len()));
            let named = calls(ToolChoice::Named("b".into()));
            assert!(named.len() == 1 && named[0].name == "b");
            counts.insert(calls(ToolChoice::Auto).len());
        }
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        let error = run(&tools, &ToolChoice::Named("c".into()), &Ranges::default(), 1).unwrap_err();
        assert_eq!(
            error,
            "tool with name 'c' requested in tool_choice but not found in the tools list"
        );
    }

    #[test]
    fn extra_calls_follow_their_chance() {
        let tools: Vec<Tool> = (0..3).map(|i| tool(&format!("t{i}"), json!({}))).collect();
        for (chance, required, auto) in [(0, 1, 0), (100, 3, 3)] {
            let ranges = Ranges {
                extra_call: Some(chance),
                ..Ranges::default()
            };
            for seed in 0..20 {
                assert_eq!(
                    run(&tools, &ToolChoice::Required, &ranges, seed).unwrap().len(),
                    required
                );
                assert_eq!(run(&tools, &ToolChoice::Auto, &ranges, seed).unwrap().len(), auto);
            }
        }
    }

    #[test]
    fn every_type_is_filled_within_its_range() {
        let schema = json!({"type": "object", "required": ["i", "n", "b", "s", "e", "a", "o", "z"], "properties": {
            "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"}, "s": {"type": "string"},
            "e": {"type": "string", "enum": ["x", "y"]}, "z": {"type": "null"},
            "a": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "array", "items": {"type": "integer"}}},
            "o": {"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"]}}});
        let ranges = Ranges {
            integer: (7, 7),
            number: (1.0, 2.0),
            array: (1, 2),
            ..Ranges::default()
        };
        for seed in 0..50 {
            let v = filled(schema.clone(), &ranges, seed).unwrap();
            assert_eq!(v["i"], 7);
            assert!((1.0..=2.0).contains(&v["n"].as_f64().unwrap()));
            assert!(v["b"].is_boolean() && v["s"].is_string() && v["z"].is_null());
            assert!(["x", "y"].contains(&v["e"].as_str().unwrap()));
            let outer = v["a"].as_array().unwrap();
            assert!((2..=3).contains(&outer.len()));
            assert!(
                outer
                    .iter()
                    .all(|inner| (1..=2).contains(&inner.as_array().unwrap().len()))
            );
            assert_eq!(v["o"]["k"], 7);
        }
    }

    #[test]
    fn optional_values_follow_their_chances() {
        let schema = json!({"type": "object", "required": ["o"], "properties": {"p": {"type": "integer"},
            "o": {"type": "object", "properties": {"q": {"type": "integer"}}}}});
        for (parameter, field) in [(0, 0), (100, 0), (0, 100), (100, 100)] {
            let ranges = Ranges {
                optional_parameter: parameter,
                optional_field: field,
                ..Ranges::default()
            };
            for seed in 0..20 {
                let v = filled(schema.clone(), &ranges, seed).unwrap();
                assert_eq!(
                    (v.get("p").is_some(), v["o"].get("q").is_some()),
                    (parameter == 100, field == 100)
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_filled_is_said() {
        let one = |p: Value| {
            filled(
                json!({"type": "object", "required": ["p"], "properties": {"p": p}}),
                &Ranges::default(),
                1,
            )
        };
        let crossed = json!({"type": "array", "items": {"type": "integer"}, "minItems": 5, "maxItems": 2});
        assert_eq!(
            one(crossed).unwrap_err(),
            "minItems (5) is greater than maxItems(2)"
        );
        let huge = json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000_000u64});
        assert!(one(huge).unwrap_err().contains("more than 20000 values"));
        assert_eq!(
            one(json!({"type": "date"})).unwrap_err(),
            "tool parameters of type date are not supported"
        );
    }
}
