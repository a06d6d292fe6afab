//! A changed configuration file is applied to new streams while open ones go on; a wrong one is refused.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tonic::transport::Channel;

use crate::support::epp::{Epp, Options, get};
use crate::support::ext_proc::{
    Answer, Exchange, connect, full_duplex, request_body, request_headers, response_body, response_headers,
};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;

type Client =
    envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient<
        Channel,
    >;

/// Two model servers: the first waits on `queue[0]` requests and runs `running[0]`, and so on.
async fn pool(queue: [u32; 2], running: [u32; 2]) -> Vec<SocketAddr> {
    let port = ports::free();
    let mut addresses = Vec::new();
    for i in 0..2 {
        let state = State {
            queue: queue[i],
            running: running[i],
            ..State::default()
        };
        let server = ModelServer::start(u8::try_from(i + 1).unwrap(), port, state).await;
        addresses.push(server.address);
    }
    addresses
}

const BODY: &str =
    r#"{"model":"m","prompt":"once upon a time there was a prompt of more than one block, told again"}"#;

/// Opens an exchange and has it routed: the exchange, still open, and its destination.
async fn routed(client: &Client, body: &str) -> (Exchange, SocketAddr) {
    let mut exchange = Exchange::open(client).await;
    let path = [(":path", "/v1/completions"), (":method", "POST")];
    exchange.send(full_duplex(request_headers(&path, false))).await;
    exchange.send(request_body(body, true)).await;
    let Answer::RequestHeaders((set, _), ..) = exchange.answer().await else {
        panic!("not routed")
    };
    let destination = set.iter().find(|(k, _)| k == "x-gateway-destination-endpoint");
    let to = destination.unwrap().1.parse().unwrap();
    assert!(matches!(exchange.answer().await, Answer::RequestBody(..)));
    (exchange, to)
}

/// The response goes by and the exchange ends well.
async fn answered(mut exchange: Exchange) {
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("done", true)).await;
    assert_eq!(exchange.answer().await, Answer::ResponseBody("done".into(), true));
    assert_eq!(exchange.next().await.unwrap(), None);
}

/// Hash of the configuration in force, as the metrics page has it.
async fn hash(epp: &Epp) -> String {
    let page = epp.page().await.unwrap();
    let line = page
        .lines()
        .find_map(|l| l.strip_prefix("inference_extension_config_info{hash=\""));
    line.unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_changed_configuration_serves_new_streams_and_open_ones_go_on() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let mut epp = Epp::start(&options, 2).await;
    let client = connect(epp.grpc).await;
    let (open, to) = routed(&client, BODY).await;
    assert_eq!(to, pool[0]);
    let before = hash(&epp).await;
    let changed = options.scored_by(&[("queue-scorer", -1.0)]);
    epp.configure(&changed.config(&epp.endpoints_file()));
    let line = epp.says("Configuration reloaded").await;
    assert!(
        line.contains("schedulingProfiles[default].plugins[queue-scorer].weight: 1.0 -> -1.0"),
        "{line}"
    );
    let after = hash(&epp).await;
    assert_ne!(before, after);
    assert!(line.contains(&before) && line.contains(&after), "{line}");
    let (new, to) = routed(&client, BODY).await;
    assert_eq!(
        to, pool[1],
        "the new weight counts for a new stream of the same connection"
    );
    answered(open).await;
    answered(new).await;
    epp.eventually("inference_extension_config_last_reload_successful 1")
        .await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_every_reason_and_the_running_one_kept() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let mut epp = Epp::start(&options, 2).await;
    let client = connect(epp.grpc).await;
    let before = hash(&epp).await;
    let good = options.config(&epp.endpoints_file());
    epp.configure(
        &good
            .replace("weight: 1", "weigth: 1")
            .replace("type: queue-scorer", "type: queue-scorer\n- type: que"),
    );
    let line = epp.says("Configuration refused: the running one is kept").await;
    assert!(
        line.contains("weigth") && line.contains("plugin type 'que'"),
        "{line}"
    );
    epp.eventually("inference_extension_config_last_reload_successful 0")
        .await;
    assert_eq!(hash(&epp).await, before);
    let (exchange, to) = routed(&client, BODY).await;
    assert_eq!(to, pool[0]);
    answered(exchange).await;
    epp.configure(&good);
    epp.eventually("inference_extension_config_last_reload_successful 1")
        .await;
    assert_eq!(hash(&epp).await, before);
}

#[tokio::test]
async fn what_a_plugin_has_learned_outlives_a_change_that_leaves_it_alone() {
    let pool = pool([0, 0], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("prefix-cache-scorer", 1.0)]);
    let epp = Epp::start(&options, 2).await;
    let client = connect(epp.grpc).await;
    let (exchange, first) = routed(&client, BODY).await;
    answered(exchange).await;
    let changed = options.scored_by(&[("prefix-cache-scorer", 3.0), ("queue-scorer", 1.0)]);
    epp.configure(&changed.config(&epp.endpoints_file()));
    epp.says("Configuration reloaded").await;
    // By chance all would go to one endpoint once in four thousand runs.
    for _ in 0..12 {
        let (exchange, to) = routed(&client, BODY).await;
        assert_eq!(to, first, "the prompt is remembered");
        answered(exchange).await;
    }
}

#[tokio::test]
async fn another_engine_configuration_reaches_the_poller() {
    let pool = pool([0, 9], [9, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let epp = Epp::start(&options, 2).await;
    let client = connect(epp.grpc).await;
    let (exchange, to) = routed(&client, BODY).await;
    assert_eq!(to, pool[0]);
    answered(exchange).await;
    let mut changed = options.scored_by(&[("queue-scorer", 1.0)]);
    changed.plugins.push_str(
        "- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n    - {name: vllm, queuedRequestsSpec: \
         'vllm:num_requests_running', runningRequestsSpec: 'vllm:num_requests_waiting', kvUsageSpec: \
         'vllm:kv_cache_usage_perc'}\n",
    );
    epp.configure(&changed.config(&epp.endpoints_file()));
    epp.says("Configuration reloaded").await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let (exchange, to) = routed(&client, BODY).await;
        answered(exchange).await;
        if to == pool[1] {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the queues are still read as before"
        );
    }
}

#[tokio::test]
async fn another_source_of_endpoints_needs_a_restart() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let epp = Epp::start(&options, 2).await;
    epp.configure(&options.config(Path::new("/nonexistent/other.yaml")));
    let line = epp.says("Configuration refused").await;
    assert!(line.contains("restart epp"), "{line}");
}

#[tokio::test]
async fn reloading_can_be_switched_off() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool)
        .scored_by(&[("queue-scorer", 1.0)])
        .flag("--enable-config-reload=false");
    let mut epp = Epp::start(&options, 2).await;
    let before = hash(&epp).await;
    epp.configure(
        &options
            .config(&epp.endpoints_file())
            .replace("weight: 1", "weight: -1"),
    );
    // The endpoints file is followed by the same kind of watch; it changes later and is seen.
    std::fs::write(epp.endpoints_file(), "endpoints: []\n").unwrap();
    epp.says("Endpoints file reloaded").await;
    epp.eventually("inference_pool_ready_pods{name=\"test-pool\"} 0")
        .await;
    assert_eq!(hash(&epp).await, before);
    assert!(!epp.log().contains("Configuration"), "{}", epp.log());
}

/// Puts what `make` makes in place of the configuration file, in one step.
fn replace_configuration(epp: &Epp, make: impl FnOnce(&Path)) {
    let file = epp.config_file();
    let new = file.with_extension("new");
    make(&new);
    std::fs::rename(&new, &file).unwrap();
}

#[tokio::test]
async fn a_pipe_or_a_device_in_place_of_the_configuration_holds_up_nothing() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let mut epp = Epp::start(&options, 2).await;
    let before = hash(&epp).await;
    replace_configuration(&epp, |new| {
        assert!(Command::new("mkfifo").arg(new).status().unwrap().success());
    });
    epp.says("it is a named pipe, not a regular file").await;
    assert_eq!(hash(&epp).await, before);
    // Good, then wrong again: what is wrong is said once until it is good.
    epp.configure(&options.config(&epp.endpoints_file()));
    epp.says("to the same effect").await;
    replace_configuration(&epp, |new| symlink("/dev/zero", new).unwrap());
    epp.says("it is a device, not a regular file").await;
    epp.eventually("inference_extension_config_last_reload_successful 0")
        .await;
    let changed = Options::hermetic(&pool).scored_by(&[("queue-scorer", 2.0)]);
    epp.configure(&changed.config(&epp.endpoints_file()));
    epp.says("Configuration reloaded").await;
}

#[tokio::test]
async fn a_wrong_file_is_refused_without_a_word_of_what_it_holds() {
    let pool = pool([0, 9], [0, 0]).await;
    let options = Options::hermetic(&pool).scored_by(&[("queue-scorer", 1.0)]);
    let epp = Epp::start(&options, 2).await;
    let secrets = epp.config_file().with_file_name("secrets");
    std::fs::write(
        &secrets,
        "root:$6$hushhush:19000:0:99999:7:::\nuser:hushhush:19000:0:99999:7:::\n",
    )
    .unwrap();
    replace_configuration(&epp, |new| symlink(&secrets, new).unwrap());
    let line = epp.says("Configuration refused").await;
    assert!(line.contains("unknown field"), "{line}");
    let page = get(epp.metrics, "/debug/config").await.unwrap();
    for text in [epp.log(), page] {
        assert!(!text.contains("hushhush"), "{text}");
    }
}
