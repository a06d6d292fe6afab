//! A real headless Chromium, driven over the WebDriver protocol by ChromeDriver. `make browser` installs both.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::client;
use super::process::Process;

/// How Chromium starts: alone, and silent towards everything but the pages it is told to open.
const ARGUMENTS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Longest wait for the browser.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one window; ends when dropped.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    _driver: Process,
    folder: tempfile::TempDir,
}

impl Browser {
    /// Starts it.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("driver.log");
        let mut driver = Process::start("chromedriver", Command::new("chromedriver").arg("--port=0"), &log)
            .unwrap_or_else(|e| panic!("{e}: run `make browser`"));
        let port = |log: &str| {
            let (_, rest) = log.rsplit_once("started successfully on port ")?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok()
        };
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        driver
            .ready(LIMIT, async || port(&text()).is_some())
            .await
            .unwrap();
        let base = format!("http://127.0.0.1:{}", port(&text()).unwrap());
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ));
        arguments.push("--window-size=1200,900".into());
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let client = client();
        let answer = client
            .post(format!("{base}/session"))
            .json(&wanted)
            .send()
            .await
            .unwrap();
        let made: Value = answer.json().await.unwrap();
        let id = made["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("{made}"));
        Browser {
            session: format!("{base}/session/{id}"),
            client,
            _driver: driver,
            folder,
        }
    }

    /// Sends a command of the protocol and gives its value.
    pub async fn command(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}/{path}", self.session)).json(&body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.command("url", json!({"url": url})).await;
    }

    /// What a script returns.
    pub async fn script(&self, text: &str) -> Value {
        self.command("execute/sync", json!({"script": text, "args": []}))
            .await
    }

    /// Waits until a script returns true.
    pub async fn until(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.script(&format!("return {text}")).await != json!(true) {
            let page = self.script("return document.body.innerText").await;
            let now = tokio::time::Instant::now();
            assert!(
                now < deadline,
                "never true: {text}\n{}",
                page.as_str().unwrap_or("")
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Presses keys, as a person at the keyboard does, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let strokes = keys
            .chars()
            .flat_map(|k| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": k})));
        let actions = json!([{"type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>()}]);
        self.command("actions", json!({"actions": actions})).await;
    }

    /// Light or dark, as the person's system says.
    pub async fn scheme(&self, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": feature}});
        self.command("goog/cdp/execute", body).await;
    }

    /// What is in the window, as PNG in base64.
    pub async fn screenshot(&self) -> String {
        let answer = self
            .client
            .get(format!("{}/screenshot", self.session))
            .send()
            .await;
        let answer: Value = answer.unwrap().json().await.unwrap();
        answer["value"].as_str().unwrap().to_owned()
    }

    /// Lines of the console since the last call.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.command("se/log", json!({"type": "browser"})).await;
        lines.as_array().unwrap().iter().map(Value::to_string).collect()
    }

    /// Closes the window and ends the browser.
    pub async fn close(self) {
        let _ = self.client.delete(&self.session).send().await;
        drop(self.folder);
    }
}
