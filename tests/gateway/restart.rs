//! A gateway that dies without a word and is started again at the same place.

use std::net::Ipv4Addr;

use quinn::ConnectionError;

use super::setup::{any_certificate, soon};
use crate::process::Process;

async fn ended_by_reset(flags: &[&str]) {
    let first = Process::with(tempfile::tempdir().unwrap(), flags);
    let (place, certs) = (first.secure(), first.dir().join("certs"));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let dialled = endpoint.connect_with(any_certificate(), place, "localhost").unwrap();
    let connection = soon(dialled).await.unwrap();
    let (mut upward, _downward) = connection.open_bi().await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    std::fs::create_dir(kept.path().join("certs")).unwrap();
    for file in std::fs::read_dir(certs).unwrap() {
        let file = file.unwrap();
        let copy = kept.path().join("certs").join(file.file_name());
        std::fs::copy(file.path(), copy).unwrap();
    }
    first.signal("KILL");
    drop(first);
    let listen = place.to_string();
    let _second = Process::with(kept, &[flags, &["--listen", &listen]].concat());
    // What is said next is answered with the end of it, however often it has to be said.
    upward.write_all(b"hello").await.unwrap();
    let ended = soon(connection.closed()).await;
    assert!(matches!(ended, ConnectionError::Reset), "not by a reset: {ended}");
}

#[tokio::test]
async fn connections_of_before_are_ended_at_once() {
    ended_by_reset(&[]).await;
}

#[tokio::test]
async fn so_where_connection_ids_name_the_node() {
    ended_by_reset(&["--set", "quic.server_id=0a0b"]).await;
}
