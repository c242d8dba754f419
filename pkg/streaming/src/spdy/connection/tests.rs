use super::*;
use crate::spdy::testing::Client;

fn pair() -> (Client<tokio::io::DuplexStream>, Connection) {
    let (client, server) = tokio::io::duplex(1 << 16);
    (Client::new(client), accept(server, Presence::unknown()))
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_each_way() {
    let (mut client, mut connection) = pair();
    client.open(1, "stdin").await;
    client.open(3, "stdout").await;
    let mut stdin = connection.next().await.unwrap();
    let stdout = connection.next().await.unwrap();
    assert_eq!((stdin.header("streamtype"), stdout.header("streamtype")), (Some("stdin"), Some("stdout")));
    stdin.accept().await;
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 2]);
    client.data(1, b"abc", false).await;
    client.data(1, b"", true).await;
    assert_eq!(stdin.incoming.next().await.as_deref(), Some(&b"abc"[..]));
    assert_eq!(stdin.incoming.next().await, None);
    stdout.outgoing.send(Bytes::from_static(b"out")).await.unwrap();
    assert_eq!(client.head().await, frame::data_head(3, 3, false));
    stdout.outgoing.end().await.unwrap();
    assert_eq!(client.head().await, frame::data_head(3, 0, true));
}

#[tokio::test]
async fn streams_are_bounded_and_wrong_ones_refused() {
    let (mut client, mut connection) = pair();
    client.open(2, "even").await;
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 3]);
    let mut kept = Vec::new();
    for number in 0..u32::try_from(STREAMS_MAX).unwrap() {
        client.open(number * 2 + 1, "x").await;
        kept.push(connection.next().await.unwrap());
    }
    client.open(100_001, "one too many").await;
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 3]);
}

#[tokio::test]
async fn a_broken_client_ends_the_connection_and_nothing_else() {
    let (mut client, mut connection) = pair();
    client.io.write_all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await.unwrap();
    connection.gone().await;
    assert!(connection.next().await.is_none());
}

#[tokio::test]
async fn a_ping_comes_back_and_a_farewell_ends_it() {
    let (mut client, connection) = pair();
    client.io.write_all(&frame::ping(7)).await.unwrap();
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 6]);
    let closing = tokio::spawn(connection.close());
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 7]);
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_reset_is_heard_of_even_after_the_client_has_ended_its_direction() {
    let (mut client, mut connection) = pair();
    client.open(1, "data").await;
    let mut stream = connection.next().await.unwrap();
    client.data(1, b"", true).await;
    assert_eq!(stream.incoming.next().await, None);
    assert!(!stream.reset.is_cancelled());
    client.io.write_all(&frame::reset(1, 5)).await.unwrap();
    stream.reset.cancelled().await;
}

#[tokio::test]
async fn ended_streams_make_room_for_others() {
    let (mut client, mut connection) = pair();
    for number in 0..3 * u32::try_from(STREAMS_MAX).unwrap() {
        client.open(number * 2 + 1, "x").await;
        client.data(number * 2 + 1, b"", true).await;
        // Dropped at once: neither side has to do with it any more.
        assert!(connection.next().await.is_some());
    }
}
