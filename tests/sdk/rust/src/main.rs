//! The story of tests/support/sdks.py as posthog-rs tells it. Arguments: host, token, and a personal key or nothing.
//! Prints one line of JSON: everything that the SDK complained about, and what it said of flags.
use std::sync::{Arc, Mutex};

use posthog_rs::{ClientOptionsBuilder, Error, EvaluateFlagsOptions, Event};
use serde_json::{json, Value};

/// So often a batch is tried at most (the SDK's default); each flush is one try.
const ATTEMPTS: usize = 3;

fn event(name: &str, distinct_id: &str, properties: Value) -> Result<Event, Error> {
    let mut event = Event::new(name, distinct_id);
    for (name, value) in properties.as_object().expect("properties are an object") {
        event.insert_prop(name, value)?;
    }
    Ok(event)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (host, token, key) = (&arguments[0], &arguments[1], &arguments[2]);
    let complaints = Arc::new(Mutex::new(Vec::<String>::new()));
    let heard = Arc::clone(&complaints);
    let mut options = ClientOptionsBuilder::default();
    options
        .api_key(token.clone())
        .host(host)
        .on_error(move |error| heard.lock().expect("no panic").push(format!("{error:?}")));
    if !key.is_empty() {
        options.secret_key(key).enable_local_evaluation(true);
    }
    let client = posthog_rs::client(options.build()?);

    client.capture(event("viewed", "anon-1", json!({"$process_person_profile": false}))?);
    client.capture(event(
        "$identify",
        "ada",
        json!({"$anon_distinct_id": "anon-1", "$set": {"plan": "free"}, "$set_once": {"first_plan": "free"}}),
    )?);
    client.capture(event(
        "upgraded",
        "ada",
        json!({"$set": {"plan": "pro", "theme": "dark"}, "$set_once": {"first_plan": "pro"}}),
    )?);
    client.capture(event("tidied", "ada", json!({"$unset": ["theme"]}))?);
    client.alias("ada", "ada-2");
    client.group_identify("company", "acme", json!({"name": "Acme"}))?;
    let mut met = event("met", "ada", json!({}))?;
    met.add_group("company", "acme");
    client.capture(met);
    for _ in 0..ATTEMPTS {
        client.flush();
    }

    let flags = client.evaluate_flags("ada", EvaluateFlagsOptions::default())?;
    let one = flags.get_flag("beta").map(|value| format!("{value:?}"));
    let told = json!({"one": one, "all": flags.keys()});
    client.shutdown();
    let complaints = complaints.lock().expect("no panic").clone();
    println!("{}", json!({"complaints": complaints, "flags": told}));
    Ok(())
}
