//! HTTP/2 connections: a quiet one stays, a silent one ends.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that begins one answer over HTTP/2, and drops out of the connection without closing it when it is told to.
async fn server() -> (u16, oneshot::Sender<()>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (hush, hushed) = oneshot::channel();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let body = respond.send_response(Response::new(()), false).unwrap();
        tokio::select! {
            _ = connection.accept() => {}
            _ = hushed => {}
        }
        // Open, and nobody reads or writes.
        std::future::pending::<()>().await;
        drop((connection, body));
    });
    (port, hush)
}

#[tokio::test]
async fn a_quiet_connection_stays_and_a_silent_one_ends() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (port, hush) = server().await;
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
    config.accept_invalid_certs = true;
    let transport = Transport::new(&config, Arc::new(Contact::default())).unwrap();
    let request = Request::get(format!("https://127.0.0.1:{port}/api/v1/pods?watch=true"));
    let request = request.body(Body::empty()).unwrap();
    let response = transport.0.clone().send(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let mut body = response.into_body();
    // Nothing is told for longer than a silent connection lives, and pings are answered.
    let quiet = tokio::time::timeout(connection::SILENCE + Duration::from_secs(2), body.frame()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    hush.send(()).unwrap();
    let ended = body.frame().await.unwrap().unwrap_err();
    let text = crate::kubernetes::innermost(&*ended);
    assert!(text.contains("nothing came from the API server"), "{text}");
}
