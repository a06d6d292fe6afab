//! A structural schema of a CRD at work: types, ranges, patterns, unknown fields, defaults, CEL rules.

use serde_json::{Value, json};

/// What is wrong with `value`, after the schema's defaults are put in.
pub fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut value = value.clone();
    defaulted(schema, &mut value);
    let mut out = Vec::new();
    check(schema, &value, "", &mut out);
    out
}

fn defaulted(schema: &Value, value: &mut Value) {
    let Some(properties) = schema["properties"].as_object() else {
        if let Some(items) = value.as_array_mut() {
            items.iter_mut().for_each(|i| defaulted(&schema["items"], i));
        }
        return;
    };
    let Some(object) = value.as_object_mut() else {
        return;
    };
    for (name, schema) in properties {
        if let Some(default) = schema.get("default") {
            object.entry(name).or_insert_with(|| default.clone());
        }
        if let Some(inner) = object.get_mut(name) {
            defaulted(schema, inner);
        }
    }
}

fn check(schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if schema["type"] != json!(kind) {
        out.push(format!("{at}: is {kind}, not {}", schema["type"]));
        return;
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        out.push(format!("{at}: not one of {values:?}"));
    }
    let bound = |key: &str, n: usize, above: bool, out: &mut Vec<String>| {
        if let Some(limit) = schema[key].as_u64().map(|l| usize::try_from(l).unwrap())
            && (if above { n > limit } else { n < limit })
        {
            out.push(format!("{at}: {key}"));
        }
    };
    match value {
        Value::Number(n) => {
            let n = n.as_i64().unwrap();
            if schema["minimum"].as_i64().is_some_and(|m| n < m)
                || schema["maximum"].as_i64().is_some_and(|m| n > m)
            {
                out.push(format!("{at}: out of range"));
            }
        }
        Value::String(s) => {
            bound("minLength", s.len(), false, out);
            bound("maxLength", s.len(), true, out);
            let pattern = schema["pattern"].as_str().map(|p| regex::Regex::new(p).unwrap());
            if pattern.is_some_and(|p| !p.is_match(s)) {
                out.push(format!("{at}: pattern"));
            }
        }
        Value::Array(items) => {
            bound("minItems", items.len(), false, out);
            bound("maxItems", items.len(), true, out);
            for (i, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{at}[{i}]"), out);
            }
        }
        Value::Object(fields) => {
            bound("minProperties", fields.len(), false, out);
            bound("maxProperties", fields.len(), true, out);
            let required = schema["required"].as_array().into_iter().flatten();
            for name in required.filter(|n| !fields.contains_key(n.as_str().unwrap())) {
                out.push(format!("{at}.{}: is required", name.as_str().unwrap()));
            }
            for (name, field) in fields {
                let place = format!("{at}.{name}");
                match (schema["properties"].get(name), schema.get("additionalProperties")) {
                    (Some(schema), _) | (None, Some(schema)) => check(schema, field, &place, out),
                    // Metadata is the server's own business.
                    (None, None) if at == ".metadata" => {}
                    (None, None) => out.push(format!("{place}: is unknown")),
                }
            }
        }
        _ => {}
    }
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let program = cel::Program::compile(rule["rule"].as_str().unwrap()).unwrap();
        let mut context = cel::Context::default();
        context.add_variable("self", value.clone()).unwrap();
        // The server evaluates rules only on what has the right shape; so does it here, by failing otherwise.
        if !program
            .execute(&context)
            .is_ok_and(|v| v == cel::Value::Bool(true))
        {
            out.push(format!("{at}: {}", rule["message"].as_str().unwrap()));
        }
    }
}
