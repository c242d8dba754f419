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

#[tokio::test(start_paused = true)]
async fn a_client_that_stays_after_the_farewell_is_left() {
    let (mut client, mut connection) = pair();
    client.open(1, "x").await;
    let stream = connection.next().await.unwrap();
    let closed = tokio::time::timeout(2 * FAREWELL, connection.close()).await;
    closed.expect("the client cannot hold the connection");
    drop((client, stream));
}

#[tokio::test]
async fn windows_are_opened_wide_and_those_of_a_client_that_has_some_heeded() {
    let (mut client, mut connection) = pair();
    let (head, settings) = client.frame().await;
    assert_eq!((&head[..4], &settings[..]), (&[0x80, 3, 0, 4][..], &frame::settings(0x7fff_ffff)[8..]));
    let (head, update) = client.frame().await;
    assert_eq!((&head[..4], &update[..]), (&[0x80, 3, 0, 9][..], &[0, 0, 0, 0, 0x7f, 0xfe, 0xff, 0xff][..]));

    client.io.write_all(&frame::settings(10)).await.unwrap();
    client.open(1, "stdout").await;
    client.open(3, "stderr").await;
    let (stdout, stderr) = (connection.next().await.unwrap(), connection.next().await.unwrap());
    let sending = tokio::spawn(async move {
        stdout.outgoing.send(Bytes::from(vec![7; 25])).await.unwrap();
        stdout.outgoing.end().await.unwrap();
    });
    assert_eq!(client.frame().await.0, frame::data_head(1, 10, false));
    // Another stream is not held up.
    stderr.outgoing.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(client.frame().await.0, frame::data_head(3, 1, false));
    client.io.write_all(&frame::window_update(1, 12)).await.unwrap();
    assert_eq!(client.frame().await.0, frame::data_head(1, 12, false));
    client.io.write_all(&frame::settings(13)).await.unwrap();
    assert_eq!(client.frame().await.0, frame::data_head(1, 3, false));
    assert_eq!(client.frame().await.0, frame::data_head(1, 0, true));
    sending.await.unwrap();
    // Too wide for a stream is that stream's end, too wide for the connection is the connection's.
    client.io.write_all(&frame::window_update(3, 0x7fff_ffff)).await.unwrap();
    let (head, reset) = client.frame().await;
    assert_eq!((&head[..4], &reset[..]), (&[0x80, 3, 0, 3][..], &[0, 0, 0, 3, 0, 0, 0, 7][..]));
    stderr.reset.cancelled().await;
    client.io.write_all(&frame::window_update(0, 0x7fff_ffff)).await.unwrap();
    connection.gone().await;
}

#[tokio::test]
async fn whoever_sends_on_a_stream_that_is_broken_off_sends_to_nobody() {
    let (mut client, mut connection) = pair();
    client.io.write_all(&frame::settings(0)).await.unwrap();
    client.open(1, "stdout").await;
    let stream = connection.next().await.unwrap();
    let sending = tokio::spawn(async move { stream.outgoing.send(Bytes::from_static(b"x")).await });
    tokio::task::yield_now().await;
    client.io.write_all(&frame::reset(1, 5)).await.unwrap();
    sending.await.unwrap().unwrap();
    client.io.write_all(&frame::ping(1)).await.unwrap();
    assert_eq!(client.head().await[..4], [0x80, 3, 0, 6]);
}
