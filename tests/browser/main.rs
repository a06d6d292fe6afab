//! The explain page of the real `epp` in a real headless browser: it shows the pool live, opens decisions into their
//! scores by keyboard, escapes what comes from outside, and asks nobody else for anything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use base64::Engine;
use serde_json::json;

use support::browser::Browser;
use support::epp::{Epp, Options};
use support::model_server::{ModelServer, State};
use support::ports;
use support::sent::{PROMPT, respond, route};

/// Enter and Tab, as WebDriver writes them.
const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";

async fn start(pods: u8) -> (Epp, Vec<ModelServer>) {
    let port = ports::free();
    let (mut servers, mut addresses) = (Vec::new(), Vec::new());
    for i in 0..pods {
        let state = State {
            queue: u32::from(i) * 3,
            kv: 0.2 + f64::from(i) * 0.15,
            running: u32::from(i),
            adapters: vec![format!("adapter-{i}")],
            max_adapters: 4,
        };
        let server = ModelServer::start(i + 1, port, state).await;
        addresses.push(server.address);
        servers.push(server);
    }
    let epp = Epp::start(&Options::hermetic(&addresses), addresses.len()).await;
    (epp, servers)
}

fn address(epp: &Epp) -> String {
    format!("http://{}/debug/", epp.metrics)
}

/// Keeps a screenshot where `SCREENSHOTS` says, for the documentation.
async fn keep(browser: &Browser, name: &str) {
    let picture = base64::engine::general_purpose::STANDARD
        .decode(browser.screenshot().await)
        .unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        std::fs::write(Path::new(&folder).join(name), picture).unwrap();
    }
}

#[tokio::test]
async fn the_pool_is_shown_live_and_a_decision_opens_into_its_scores_by_keyboard() {
    let (epp, servers) = start(3).await;
    for i in 0..4 {
        let (exchange, _) = route(epp.grpc, &format!("request-{i}"), "llama", None).await;
        respond(exchange).await;
    }
    let browser = Browser::start().await;
    browser.open(&address(&epp)).await;
    browser
        .until("document.querySelectorAll('#endpoints tbody tr').length === 3")
        .await;
    browser
        .until("document.querySelectorAll('#decisions details').length === 4")
        .await;
    browser
        .until("document.getElementById('state').textContent === 'live'")
        .await;
    let row = "document.querySelectorAll('#endpoints tbody tr')[1]";
    let cell = |i: u32| format!("{row}.children[{i}].textContent");
    for (i, expected) in [
        (0, "pod-1-rank-0"),
        (1, &*servers[1].address.to_string()),
        (2, "healthy"),
        (3, "3"),
        (5, " 35 %"),
        (6, "adapter-1 of 4"),
        (9, "0"),
    ] {
        browser.until(&format!("{} === {expected:?}", cell(i))).await;
    }
    browser
        .until(&format!("{row}.children[7].className === 'n good'"))
        .await;
    // It follows what the model servers say, without a reload.
    servers[1].set(State {
        queue: 42,
        kv: 0.9,
        ..State::default()
    });
    browser
        .until(&format!("{} === '42' && {} === ' 90 %'", cell(3), cell(5)))
        .await;

    // From the last filter, Tab leads to the newest decision; Enter opens it.
    browser
        .script("document.getElementById('request-id').focus()")
        .await;
    browser.press(TAB).await;
    browser
        .until("document.activeElement.tagName === 'SUMMARY'")
        .await;
    browser.press(ENTER).await;
    let open = "document.querySelector('#decisions details[open]')";
    browser.until(&format!("{open} !== null")).await;
    let text = browser.script(&format!("return {open}.innerText")).await;
    let text = text.as_str().unwrap();
    for part in [
        "request-3",
        "→ pod-0-rank-0",
        "natural after",
        "won by",
        "queue-scorer × 1",
        "1.000 → 1.000",
        "✓ picked",
        "What would have put the runner-up level",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    browser
        .script(&format!("{open}.scrollIntoView({{block: 'center'}})"))
        .await;
    let ground = "return getComputedStyle(document.body).backgroundColor";
    browser.scheme("light").await;
    let light = browser.script(ground).await;
    keep(&browser, "debug-decision.png").await;
    browser.scheme("dark").await;
    assert_ne!(light, browser.script(ground).await, "dark is not light");
    browser.script("scrollTo(0, 0)").await;
    keep(&browser, "debug-page-dark.png").await;
    assert_eq!(
        browser.console().await,
        Vec::<String>::new(),
        "nothing is refused, nothing fails"
    );
    let asked = "return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)\
                 .filter(o => o !== location.origin)";
    assert_eq!(browser.script(asked).await, json!([]), "nobody else is asked");
    let html = browser.script("return document.documentElement.outerHTML").await;
    assert!(!html.as_str().unwrap().contains(PROMPT));
    browser.close().await;
}

#[tokio::test]
async fn what_clients_send_is_text() {
    let (epp, _servers) = start(1).await;
    let evil = "<img src=x onerror=document.title=1>";
    let (_exchange, _) = route(epp.grpc, evil, evil, None).await;
    let browser = Browser::start().await;
    browser.open(&address(&epp)).await;
    browser
        .until("document.querySelectorAll('#decisions details').length === 1")
        .await;
    let shown = format!("document.querySelector('#decisions code').textContent === {evil:?}");
    browser.until(&shown).await;
    browser
        .until("document.querySelectorAll('img').length === 0")
        .await;
    browser.until("document.title === 'epp: the pool now'").await;
    browser.close().await;
}

#[tokio::test]
async fn filters_narrow_pause_holds_and_an_epp_that_is_gone_is_said() {
    let (mut epp, _servers) = start(1).await;
    let (_a, _) = route(epp.grpc, "a", "llama", None).await;
    let (_b, _) = route(epp.grpc, "b", "mistral", None).await;
    let browser = Browser::start().await;
    browser.open(&address(&epp)).await;
    let shown = "[...document.querySelectorAll('#decisions code')].map(c => c.textContent).join()";
    browser.until(&format!("{shown} === 'b,a'")).await;
    let filter = |id: &str, value: &str| {
        format!(
            "const i = document.getElementById('{id}'); i.value = '{value}'; i.dispatchEvent(new Event('change'))"
        )
    };
    browser.script(&filter("model", "llama")).await;
    browser.until(&format!("{shown} === 'a'")).await;
    browser.script(&filter("endpoint", "nobody")).await;
    browser
        .until(&format!(
            "{shown} === '' && !document.getElementById('none').hidden"
        ))
        .await;
    browser.script(&filter("endpoint", "")).await;
    browser.until(&format!("{shown} === 'a'")).await;
    browser.script("document.getElementById('pause').focus()").await;
    browser.press(ENTER).await;
    browser
        .until("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
        .await;
    let (_c, _) = route(epp.grpc, "c", "llama", None).await;
    let held = browser.script(&format!("return {shown}")).await;
    assert_eq!(held, "a");
    browser.press(ENTER).await;
    browser.until(&format!("{shown} === 'c,a'")).await;
    epp.signal("KILL");
    epp.ended().await;
    browser
        .until("document.getElementById('state').textContent.startsWith('no answer')")
        .await;
    browser.close().await;
}
