//! Which schemas of tools are taken (simulator.md §7.3). Called when a request with tools is read.

use serde_json::{Map, Value};

/// What a schema may say; beyond the reference's first version the keys its later versions take.
const SCHEMA_KEYS: [&str; 20] = [
    "type",
    "description",
    "enum",
    "properties",
    "items",
    "required",
    "additionalProperties",
    "minItems",
    "maxItems",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "title",
    "$schema",
];

/// Checks a function: name and description are texts where they are there, and its schema. Other keys are passed over.
///
/// # Errors
/// What is wrong and where.
pub fn check_function(at: &str, function: &Value) -> Result<(), String> {
    let object = function
        .as_object()
        .ok_or_else(|| format!("{at} must be an object"))?;
    for key in ["name", "description"] {
        if object.get(key).is_some_and(|v| !v.is_string() && !v.is_null()) {
            return Err(format!("{at}.{key} must be a string"));
        }
    }
    let parameters = object
        .get("parameters")
        .ok_or_else(|| format!("{at}.parameters is missing"))?;
    check(&format!("{at}.parameters"), parameters)
}

/// Checks one schema and those in it.
fn check(at: &str, schema: &Value) -> Result<(), String> {
    let object = schema
        .as_object()
        .ok_or_else(|| format!("{at} must be an object"))?;
    known(at, object, &SCHEMA_KEYS)?;
    let kind = match object.get("type") {
        None => return Err(format!("{at}.type is missing")),
        Some(kind) => kind
            .as_str()
            .ok_or_else(|| format!("{at}.type must be a string"))?,
    };
    shapes(at, object)?;
    match kind {
        "object" => {
            let properties = object
                .get("properties")
                .ok_or_else(|| format!("{at}.properties is missing"))?;
            let properties = properties
                .as_object()
                .ok_or_else(|| format!("{at}.properties must be an object"))?;
            let each = |(name, schema): (&String, &Value)| check(&format!("{at}.properties.{name}"), schema);
            properties.iter().try_for_each(each)?;
        }
        "array" => {
            let items = object
                .get("items")
                .ok_or_else(|| format!("{at}.items is missing"))?;
            check(&format!("{at}.items"), items)?;
        }
        "string" | "number" | "integer" | "boolean" | "null" => {}
        other => {
            return Err(format!(
                "{at}.type must be object, array, string, number, integer, boolean or null, not \"{other}\""
            ));
        }
    }
    object
        .get("enum")
        .map_or(Ok(()), |members| check_enum(at, kind, members))
}

fn known(at: &str, object: &Map<String, Value>, keys: &[&str]) -> Result<(), String> {
    match object.keys().find(|k| !keys.contains(&k.as_str())) {
        Some(key) => Err(format!(
            "{at} has an unknown key \"{key}\"; known are {}",
            keys.join(", ")
        )),
        None => Ok(()),
    }
}

/// The keys that must have a certain form wherever they stand.
fn shapes(at: &str, object: &Map<String, Value>) -> Result<(), String> {
    let wrong = |key: &str, what: &str| Err(format!("{at}.{key} must be {what}"));
    for (key, value) in object {
        match key.as_str() {
            "description" if !value.is_string() => return wrong(key, "a string"),
            "minItems" | "maxItems" if value.as_u64().is_none() => {
                return wrong(key, "a whole number, 0 or more");
            }
            "additionalProperties" if !value.is_boolean() => return wrong(key, "true or false"),
            "required"
                if !value
                    .as_array()
                    .is_some_and(|list| list.iter().all(Value::is_string)) =>
            {
                return wrong(key, "a list of strings");
            }
            "minimum" | "maximum" if !value.is_number() => return wrong(key, "a number"),
            _ => {}
        }
    }
    Ok(())
}

fn check_enum(at: &str, kind: &str, members: &Value) -> Result<(), String> {
    let fits = |member: &Value| match kind {
        "string" => member.is_string(),
        "number" => member.is_number(),
        "integer" => member.is_i64() || member.is_u64(),
        "boolean" => member.is_boolean(),
        _ => false,
    };
    if matches!(kind, "null" | "object" | "array") {
        return Err(format!("{at}.enum is not allowed for type {kind}"));
    }
    match members.as_array() {
        Some(list) if !list.is_empty() && list.iter().all(fits) => Ok(()),
        _ => Err(format!(
            "{at}.enum must be a list of members of type {kind}, at least one"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn function(parameters: &Value) -> Value {
        json!({"name": "f", "description": "d", "parameters": parameters})
    }

    fn property(schema: &Value) -> Result<(), String> {
        let parameters = json!({"type": "object", "properties": {"p": schema}});
        check_function("f", &function(&parameters))
    }

    #[test]
    fn good_schemas_are_taken() {
        for schema in [
            json!({"type": "string", "enum": ["a", "b"], "description": "x"}),
            json!({"type": "integer", "enum": [1]}),
            json!({"type": "null"}),
            json!({"type": "array", "items": {"type": "array", "items": {"type": "number"}}, "minItems": 1, "maxItems": 2}),
            json!({"type": "object", "properties": {"q": {"type": "boolean"}}, "required": ["q"], "additionalProperties": false}),
            json!({"type": "number", "minimum": 1, "title": "t", "default": 3}),
        ] {
            assert_eq!(property(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn a_function_needs_a_schema_alone() {
        let parameters = json!({"type": "object", "properties": {}});
        for function in [
            json!({"parameters": parameters}),
            json!({"name": null, "description": null, "parameters": parameters}),
            json!({"name": "n", "strict": true, "extra": 1, "parameters": {"type": "string"}}),
        ] {
            assert_eq!(check_function("f", &function), Ok(()), "{function}");
        }
    }

    #[test]
    fn bad_schemas_are_refused_with_their_place() {
        let rows = [
            (
                json!({"description": "x"}),
                "f.parameters.properties.p.type is missing",
            ),
            (json!({"type": "date"}), "not \"date\""),
            (json!({"type": "string", "enum": [1]}), "members of type string"),
            (
                json!({"type": "integer", "enum": [1.5]}),
                "members of type integer",
            ),
            (
                json!({"type": "null", "enum": [null]}),
                "not allowed for type null",
            ),
            (
                json!({"type": "array"}),
                "f.parameters.properties.p.items is missing",
            ),
            (
                json!({"type": "object"}),
                "f.parameters.properties.p.properties is missing",
            ),
            (
                json!({"type": "array", "items": {"type": "array"}}),
                "p.items.items is missing",
            ),
            (json!({"type": "string", "colour": 1}), "unknown key \"colour\""),
            (
                json!({"type": "array", "items": {"type": "string"}, "minItems": -1}),
                "minItems must be",
            ),
            (
                json!({"type": "object", "properties": {}, "required": [1]}),
                "required must be",
            ),
            (json!(3), "p must be an object"),
        ];
        for (schema, text) in rows {
            let error = property(&schema).unwrap_err();
            assert!(error.contains(text), "{schema}: {error}");
        }
        for (function, text) in [
            (
                json!({"name": 1, "parameters": {"type": "object", "properties": {}}}),
                "f.name must be a string",
            ),
            (
                json!({"description": [], "parameters": {"type": "object", "properties": {}}}),
                "f.description must be a string",
            ),
            (
                json!({"name": "n", "description": "d"}),
                "f.parameters is missing",
            ),
            (
                json!({"name": "n", "description": "d", "parameters": {"type": "date"}}),
                "not \"date\"",
            ),
        ] {
            assert!(
                check_function("f", &function).unwrap_err().contains(text),
                "{function}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in r#"[\[\]{}":,a-z0-9 ]{0,60}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = property(&value);
                let _ = check_function("f", &value);
            }
        }
    }
}
