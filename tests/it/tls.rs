//! TLS of the real `epp`: the certificate of a folder, followed when it changes; versions, ciphers, client certificates.

use std::path::Path;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use rustls::CipherSuite;
use tonic::transport::Channel;

use crate::support::epp::{Epp, Options};
use crate::support::ext_proc::{Answer, Exchange, request_headers, response_body, response_headers};
use crate::support::model_server::{ModelServer, State};
use crate::support::ports;
use crate::support::tls::{Authority, Offer, Pair, channel, client_config, handshake, shown};

async fn start(flags: &[String]) -> Epp {
    let server = ModelServer::start(1, ports::free(), State::default()).await;
    let mut options = Options::hermetic(&[server.address]).flag("--secure-serving=true");
    options.flags.extend_from_slice(flags);
    Epp::start(&options, 1).await
}

/// `epp` with the certificate of `folder`.
async fn with_folder(folder: &Path, flags: &[&str]) -> Epp {
    let mut all = vec![format!("--cert-path={}", folder.display())];
    all.extend(flags.iter().map(|f| (*f).to_owned()));
    start(&all).await
}

/// A request without a body, routed; its stream stays open.
async fn open_stream(channel: Channel) -> Exchange {
    let mut exchange = Exchange::open(&ExternalProcessorClient::new(channel)).await;
    exchange
        .send(request_headers(
            &[(":path", "/v1/models"), (":method", "GET")],
            true,
        ))
        .await;
    assert!(matches!(exchange.answer().await, Answer::RequestHeaders(..)));
    exchange
}

async fn finish(mut exchange: Exchange) {
    exchange
        .send(response_headers(&[(":status", "200")], false))
        .await;
    assert!(matches!(exchange.answer().await, Answer::ResponseHeaders(_)));
    exchange.send(response_body("x", true)).await;
    while exchange.next().await.unwrap().is_some() {}
}

/// Lays `pair` out as Kubernetes mounts a secret: real files behind a link that is swapped in one step.
fn mount(folder: &Path, version: &str, pair: &Pair) {
    pair.write(&folder.join(version));
    let next = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &next).unwrap();
    std::fs::rename(&next, folder.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let _ = std::os::unix::fs::symlink(format!("..data/{file}"), folder.join(file));
    }
}

/// Waits until new handshakes get `pair`.
async fn serves(epp: &Epp, pair: &Pair) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while shown(epp.grpc).await != pair.der {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not served:\n{}",
            epp.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_swapped_secret_is_served_to_new_handshakes_and_open_streams_go_on() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (first, second) = (authority.issue("first.test"), authority.issue("second.test"));
    mount(folder.path(), "..2026_01", &first);
    let mut epp = with_folder(folder.path(), &["--enable-cert-reload"]).await;
    assert_eq!(shown(epp.grpc).await, first.der);
    let open = open_stream(channel(epp.grpc, &Offer::default()).await.unwrap()).await;
    mount(folder.path(), "..2026_02", &second);
    serves(&epp, &second).await;
    finish(open).await;
    epp.eventually("inference_extension_certificate_reloads_total{result=\"success\"} 1")
        .await;
    finish(open_stream(channel(epp.grpc, &Offer::default()).await.unwrap()).await).await;
}

#[tokio::test]
async fn a_wrong_pair_is_refused_and_the_old_one_kept() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (first, second) = (authority.issue("first.test"), authority.issue("second.test"));
    first.write(folder.path());
    let mut epp = with_folder(folder.path(), &["--enable-cert-reload"]).await;
    std::fs::write(folder.path().join("tls.crt"), &second.certificate).unwrap();
    let line = epp.says("Certificate refused: the old one is kept").await;
    assert!(line.contains("cannot be used together"), "{line}");
    assert_eq!(shown(epp.grpc).await, first.der);
    epp.eventually("inference_extension_certificate_reloads_total{result=\"failure\"} 1")
        .await;
    std::fs::write(folder.path().join("tls.key"), &second.key).unwrap();
    serves(&epp, &second).await;
}

#[tokio::test]
async fn without_the_flag_the_certificate_of_the_start_is_kept() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (first, second) = (authority.issue("first.test"), authority.issue("second.test"));
    first.write(folder.path());
    let epp = with_folder(folder.path(), &[]).await;
    second.write(folder.path());
    // The endpoints file is followed by the same kind of watch; it changes later and is seen.
    std::fs::write(epp.endpoints_file(), "endpoints: []\n").unwrap();
    epp.says("Endpoints file reloaded").await;
    assert_eq!(shown(epp.grpc).await, first.der);
}

#[tokio::test]
async fn clients_must_show_a_certificate_of_the_authority_where_one_is_named() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("clients.pem");
    std::fs::write(&file, &authority.certificate).unwrap();
    let epp = start(&[
        format!("--client-ca-file={}", file.display()),
        "--enable-cert-reload".into(),
    ])
    .await;
    let (known, stranger) = (
        authority.issue("envoy.test"),
        Authority::new().issue("envoy.test"),
    );
    let offer = |identity| Offer {
        identity,
        ..Offer::default()
    };
    finish(open_stream(channel(epp.grpc, &offer(Some(&known))).await.unwrap()).await).await;
    for refused in [None, Some(&stranger)] {
        // The server answers after the client believes the handshake done: the first call fails at the latest.
        if let Ok(channel) = channel(epp.grpc, &offer(refused)).await {
            let mut client = ExternalProcessorClient::new(channel);
            let answer = client.process(tokio_stream::pending()).await;
            assert!(answer.is_err(), "a client without a known certificate was served");
        }
    }
    // Another authority takes over, without a restart.
    let next = Authority::new();
    std::fs::write(&file, &next.certificate).unwrap();
    epp.says("Certificate reloaded").await;
    let known = next.issue("envoy.test");
    finish(open_stream(channel(epp.grpc, &offer(Some(&known))).await.unwrap()).await).await;
}

#[tokio::test]
async fn the_oldest_version_is_that_of_the_flag() {
    let old = client_config(&Offer {
        versions: &[&rustls::version::TLS12],
        ..Offer::default()
    });
    let epp = start(&[]).await;
    handshake(epp.grpc, old.clone()).await.unwrap();
    let epp = start(&["--tls-min-version=1.3".into()]).await;
    handshake(epp.grpc, old)
        .await
        .expect_err("TLS 1.2 is not offered");
    handshake(epp.grpc, client_config(&Offer::default()))
        .await
        .unwrap();
}

#[tokio::test]
async fn only_the_named_cipher_suites_are_offered() {
    let epp = start(&["--tls-cipher-suites=TLS_AES_128_GCM_SHA256".into()]).await;
    let with = |suites| {
        client_config(&Offer {
            suites,
            ..Offer::default()
        })
    };
    let io = handshake(epp.grpc, with(&[])).await.unwrap();
    let chosen = io.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(chosen, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let other = with(&[CipherSuite::TLS13_CHACHA20_POLY1305_SHA256]);
    handshake(epp.grpc, other)
        .await
        .expect_err("that suite is not offered");
}

#[tokio::test]
async fn without_a_folder_the_certificate_is_self_signed_and_without_tls_there_is_none() {
    let epp = start(&[]).await;
    let der = shown(epp.grpc).await;
    assert!(der.windows(13).any(|w| w == b"Inference Ext"));
    let epp = start(&["--secure-serving=false".into()]).await;
    handshake(epp.grpc, client_config(&Offer::default()))
        .await
        .expect_err("plaintext");
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", epp.grpc)).unwrap();
    finish(open_stream(plain.connect().await.unwrap()).await).await;
}
