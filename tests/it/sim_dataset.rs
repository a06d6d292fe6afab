//! Answers of the simulator from a dataset (simulator.md §16.7), and with a model's own tokenizer.

use std::process::Command;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use rusqlite::{Connection, params};
use serde_json::json;
use sha2::Digest;

use crate::support::ports;
use crate::support::sim::Sim;

/// A dataset with one answer of three tokens to "known" and one of five to something else.
fn dataset(path: &std::path::Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "CREATE TABLE llmd (id INTEGER PRIMARY KEY, prompt_hash BLOB, gen_tokens JSON, n_gen_tokens INTEGER)",
    )
    .unwrap();
    for (prompt, tokens) in [
        ("known", "[\"a \",\"b \",\"c\"]"),
        ("other", "[\"v \",\"w \",\"x \",\"y \",\"z\"]"),
    ] {
        let text = format!("### user:\n{prompt}\n");
        let hash = sha2::Sha256::digest(text.as_bytes());
        let n = i64::try_from(tokens.matches(',').count() + 1).unwrap();
        db.execute(
            "INSERT INTO llmd (prompt_hash, gen_tokens, n_gen_tokens) VALUES (?1, ?2, ?3)",
            params![hash.as_slice(), tokens, n],
        )
        .unwrap();
    }
}

#[tokio::test]
async fn known_prompts_have_their_answers_and_others_any() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.sqlite3");
    dataset(&path);
    for in_memory in ["--dataset-in-memory=false", "--dataset-in-memory"] {
        let sim = Sim::start(&[
            "--model",
            "m",
            "--dataset-path",
            path.to_str().unwrap(),
            in_memory,
        ])
        .await;
        let ask = async |prompt: &str, more: serde_json::Value| {
            let mut chat = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
            let mut text = json!({"model": "m", "prompt": prompt});
            for (key, value) in more.as_object().unwrap() {
                chat[key] = value.clone();
                text[key] = value.clone();
            }
            let (_, chat) = sim.json("/v1/chat/completions", &chat).await;
            let (_, text) = sim.json("/v1/completions", &text).await;
            let of = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
            let reason = of(&text["choices"][0]["finish_reason"]);
            assert_eq!(of(&chat["choices"][0]["finish_reason"]), reason);
            (
                of(&chat["choices"][0]["message"]["content"]),
                of(&text["choices"][0]["text"]),
                reason,
            )
        };
        for (limit, said, reason) in [
            (10, "a b c", "stop"),
            (3, "a b c", "length"),
            (2, "a b ", "length"),
        ] {
            let (chat, text, ended) = ask("known", json!({"max_tokens": limit})).await;
            assert_eq!(
                (chat.as_str(), text.as_str(), ended.as_str()),
                (said, said, reason),
                "{limit}"
            );
        }
        let (chat, _, _) = ask("nobody knows", json!({"max_tokens": 4})).await;
        assert_eq!(chat, "a b c", "the only row that fits");
        let (chat, _, reason) = ask("known", json!({"max_tokens": 9, "ignore_eos": true})).await;
        assert!(
            chat.starts_with("a b c") && chat.len() > 5 && reason == "length",
            "padded: {chat}"
        );
    }
}

/// Serves bytes at `/good`, nothing at `/empty`.
async fn server(bytes: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/good", get(move || async move { bytes }))
        .route("/empty", get(|| async { StatusCode::OK }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_dataset_is_downloaded_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    dataset(&original);
    let url = server(std::fs::read(&original).unwrap()).await;
    let path = folder.path().join("new/folder/d.sqlite3");
    let good = format!("{url}/good");
    let args = [
        "--model",
        "m",
        "--dataset-path",
        path.to_str().unwrap(),
        "--dataset-url",
        &good,
    ];
    let sim = Sim::start(&args).await;
    let (_, answer) = sim
        .json("/v1/completions", &json!({"model": "m", "prompt": "known"}))
        .await;
    assert_eq!(answer["choices"][0]["text"], "a b c");
    for (what, text) in [
        ("missing", "dataset download bad status: 404"),
        ("empty", "downloaded file is empty"),
    ] {
        let target = folder.path().join(what);
        let (from, to) = (format!("{url}/{what}"), target.to_str().unwrap().to_owned());
        let port = ports::free().to_string();
        let run = move || {
            Command::new(env!("CARGO_BIN_EXE_inference-sim"))
                .args([
                    "--model",
                    "m",
                    "--port",
                    &port,
                    "--dataset-path",
                    &to,
                    "--dataset-url",
                    &from,
                ])
                .env("NO_PROXY", "127.0.0.1")
                .output()
                .unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && error.contains(text),
            "{what}: {error}"
        );
        assert!(!target.exists());
    }
}

#[tokio::test]
async fn a_damaged_answer_is_an_error_of_its_request_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.sqlite3");
    dataset(&path);
    let db = Connection::open(&path).unwrap();
    db.execute("UPDATE llmd SET gen_tokens = '{' WHERE id = 1", [])
        .unwrap();
    drop(db);
    let sim = Sim::start(&["--model", "m", "--dataset-path", path.to_str().unwrap()]).await;
    let (status, error) = sim
        .json("/v1/completions", &json!({"model": "m", "prompt": "known"}))
        .await;
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        status == 500 && message.starts_with("row 1 of the dataset: "),
        "{error}"
    );
    let (status, _) = sim
        .json("/v1/completions", &json!({"model": "m", "prompt": "other"}))
        .await;
    assert_eq!(status, 200);
    sim.until("vllm:num_requests_running{model_name=\"m\"} 0").await;
}

#[tokio::test]
async fn a_models_own_tokenizer_counts_and_its_ids_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("models--org--words/snapshots/1");
    std::fs::create_dir_all(&cache).unwrap();
    let words = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "red": 7, "fox!": 9}, "unk_token": "[UNK]"}});
    std::fs::write(cache.join("tokenizer.json"), words.to_string()).unwrap();
    let folder = folder.path().to_str().unwrap();
    let args = [
        "--model",
        "org/words",
        "--tokenizers-cache-dir",
        folder,
        "--mode",
        "echo",
    ];
    let sim = Sim::start(&args).await;
    let (_, cut) = sim.json("/tokenize", &json!({"prompt": "red fox! runs"})).await;
    assert_eq!(cut["tokens"], json!([7, 9, 0]));
    let body = json!({"model": "org/words", "prompt": "red fox! runs"});
    let (_, answer) = sim.json("/v1/completions", &body).await;
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["usage"]["prompt_tokens"]),
        (&json!("red fox! runs"), &json!(3))
    );
    let dummy = Sim::start(&[&args[..], &["--force-dummy-tokenizer"]].concat()).await;
    let (_, cut) = dummy.json("/tokenize", &json!({"prompt": "red fox! runs"})).await;
    assert_eq!(cut["count"], 4);
}
