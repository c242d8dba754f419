use super::*;

/// A client's side of a connection, frame by frame.
struct Client {
    io: tokio::io::DuplexStream,
    headers: HeaderWriter,
}

impl Client {
    async fn open(&mut self, stream: u32, kind: &str) {
        let block = self.headers.write(&[("streamtype", kind)]).unwrap();
        let length = u32::try_from(10 + block.len()).unwrap();
        self.io.write_all(&[0x80, 3, 0, 1]).await.unwrap();
        self.io.write_u32(length).await.unwrap();
        self.io.write_u32(stream).await.unwrap();
        self.io.write_all(&[0; 6]).await.unwrap();
        self.io.write_all(&block).await.unwrap();
    }

    async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        self.io.write_all(&frame::data_head(stream, data.len(), fin)).await.unwrap();
        self.io.write_all(data).await.unwrap();
    }

    /// The head of the next frame, its payload passed over.
    async fn head(&mut self) -> [u8; 8] {
        let mut head = [0; 8];
        self.io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        head
    }
}

fn pair() -> (Client, Connection) {
    let (client, server) = tokio::io::duplex(1 << 16);
    (Client { io: client, headers: HeaderWriter::new() }, accept(server))
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
