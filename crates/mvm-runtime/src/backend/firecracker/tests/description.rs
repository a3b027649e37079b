//! Firecracker's own description of its API (Swagger 2), as far as requests are checked against it.

use serde_json::Value;

/// The description.
pub(super) struct Description(Value);

impl Description {
    pub(super) fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../../../tests/data/firecracker-api.json")).unwrap())
    }

    /// Whether there is such a request, and its body is what it says.
    pub(super) fn check_request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), String> {
        let operation = self.operation(path)?.get(method.to_lowercase()).ok_or("there is no such method")?;
        match (operation.get("body"), body) {
            (Some(schema), Some(body)) => self.check("", schema, body),
            (None, None) => Ok(()),
            _ => Err("it has a body where it should not, or none where it should".into()),
        }
    }

    /// The entry of a path; one with a parameter fits any last name.
    fn operation(&self, path: &str) -> Result<&Value, String> {
        let fits = |pattern: &str| match pattern.split_once('{') {
            Some((begin, _)) => path.strip_prefix(begin).is_some_and(|id| !id.is_empty() && !id.contains('/')),
            None => pattern == path,
        };
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().find(|(pattern, _)| fits(pattern)).map(|(_, v)| v).ok_or_else(|| "there is no such path".into())
    }

    /// Fields that the schema does not have are errors: Firecracker refuses them.
    fn check(&self, at: &str, schema: &Value, value: &Value) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            return self.check(at, &self.0["definitions"][name.rsplit('/').next().unwrap()], value);
        }
        let wrong = |what: String| Err(format!("{at}: {what}"));
        let right = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64() || value.is_i64(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            other => return wrong(format!("the description has the type {other:?}")),
        };
        if !right {
            return wrong(format!("{value} is no {}", schema["type"]));
        }
        if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            return wrong(format!("{value} is none of {}", schema["enum"]));
        }
        if let (Some(number), Some(most)) = (value.as_i64(), schema["maximum"].as_i64())
            && number > most
        {
            return wrong(format!("{number} is more than {most}"));
        }
        if let (Some(number), Some(least)) = (value.as_i64(), schema["minimum"].as_i64())
            && number < least
        {
            return wrong(format!("{number} is less than {least}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() {
                return wrong(format!("{name} is missing"));
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let Some(schema) = schema["properties"].get(name) else { return wrong(format!("{name} is unknown")) };
            self.check(&format!("{at}/{name}"), schema, value).map_err(|e| e.trim_start_matches('/').to_owned())?;
        }
        value.as_array().into_iter().flatten().try_for_each(|item| self.check(at, &schema["items"], item))
    }
}

#[test]
fn what_is_not_as_described_is_found() {
    let api = Description::read();
    for (method, path, body, words) in [
        ("PUT", "/nowhere", r#"{}"#, "no such path"),
        ("PUT", "/vm", r#"{"state":"Paused"}"#, "no such method"),
        ("PATCH", "/vm", r#"{}"#, "\"state\" is missing"),
        ("PATCH", "/vm", r#"{"state":"Gone"}"#, "is none of"),
        ("PATCH", "/vm", r#"{"state":"Paused","more":1}"#, "more is unknown"),
        ("PUT", "/vsock", r#"{"guest_cid":2,"uds_path":"v"}"#, "2 is less than 3"),
        ("PUT", "/vsock", r#"{"guest_cid":"3","uds_path":"v"}"#, "is no \"integer\""),
        ("PUT", "/drives/", r#"{"drive_id":"a","is_root_device":false}"#, "no such path"),
        (
            "PUT",
            "/snapshot/load",
            r#"{"snapshot_path":"s","mem_backend":{"backend_type":"File"}}"#,
            "\"backend_path\" is missing",
        ),
    ] {
        let body = serde_json::from_str(body).unwrap();
        let error = api.check_request(method, path, Some(&body)).unwrap_err();
        assert!(error.contains(words), "{method} {path} {body}: {error}");
    }
    assert!(api.check_request("PATCH", "/vm", None).is_err());
}
