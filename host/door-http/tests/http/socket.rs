//! The door on a real socket: ports, keep-alive, limits while reading, and stopping.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use pelton_core::door::Door;
use pelton_core::testing::conformance::eventually;
use pelton_door_http::{BindError, HttpDoor, HttpOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{Server, options, server};

/// How long a test waits for what has to happen.
const SOON: Duration = Duration::from_secs(10);

struct Running {
    server: Server,
    address: SocketAddr,
    door: JoinHandle<std::io::Result<()>>,
}

async fn start() -> Running {
    let server = server().await;
    let door = HttpDoor::bind(options(None)).unwrap();
    let address = door.local_addr();
    let door = tokio::spawn(Box::new(door).run(server.broker.clone(), server.stop.subscribe()));
    Running { server, address, door }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Ends the door, which has to happen soon.
    async fn stopped(self) {
        self.server.stop.send_replace(true);
        within(self.door).await.unwrap().unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it took too long")
}

/// Reads one response with a Content-Length: its head and body.
async fn read_response(stream: &mut TcpStream) -> (StatusCode, String) {
    let mut text = Vec::new();
    loop {
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(text[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length =
                head.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            while text.len() < end + 4 + length {
                assert_ne!(within(stream.read_buf(&mut text)).await.unwrap(), 0, "the response was cut short");
            }
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            return (status, String::from_utf8(text[end + 4..].to_vec()).unwrap());
        }
        let count = within(stream.read_buf(&mut text)).await.unwrap();
        assert_ne!(count, 0, "the connection was closed after {:?}", text.escape_ascii().to_string());
    }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.is_ok_and(|count| count == 0)
}

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = HttpDoor::bind(options(None)).unwrap();
    let taken = HttpOptions { listen: first.local_addr(), ..options(None) };
    let error = HttpDoor::bind(taken).err().unwrap();
    let address = first.local_addr();
    assert_eq!(
        error.to_string(),
        format!("{address} is in use by another process; stop it or set [http] listen / --listen")
    );
}

#[tokio::test]
async fn only_loopback_without_a_token() {
    let anywhere = HttpOptions { listen: "0.0.0.0:0".parse().unwrap(), ..options(None) };
    assert!(matches!(HttpDoor::bind(anywhere.clone()), Err(BindError::TokenRequired(_))));
    assert!(HttpDoor::bind(HttpOptions { token: Some("secret".into()), ..anywhere }).is_ok());
    let foreign = HttpOptions { listen: "192.0.2.1:0".parse().unwrap(), ..options(Some("secret")) };
    assert!(matches!(HttpDoor::bind(foreign), Err(BindError::NotOurs(_))));
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let running = start().await;
    let mut stream = running.connect().await;
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        assert_eq!(read_response(&mut stream).await.0, StatusCode::OK);
    }
    running.stopped().await;
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_though_it_is_never_finished() {
    let running = start().await;
    let mut stream = running.connect().await;
    stream
        .write_all(b"POST /v1/topics/orders.new HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\nsome")
        .await
        .unwrap();
    let (status, body) = read_response(&mut stream).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    drop(stream);
    running.stopped().await;
}

#[tokio::test]
async fn a_sender_of_too_much_gets_to_read_the_answer() {
    let running = start().await;
    let mut stream = running.connect().await;
    stream
        .write_all(b"POST /v1/topics/orders.new HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n")
        .await
        .unwrap();
    within(stream.write_all(&vec![b'x'; 8_000_000])).await.expect("all of it is taken");
    assert_eq!(read_response(&mut stream).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    running.stopped().await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let running = start().await;
    let mut stream = running.connect().await;
    let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    // It may be refused before all of it was sent.
    let _ = stream.write_all(head.as_bytes()).await;
    assert_eq!(read_response(&mut stream).await.0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    running.stopped().await;
}

#[tokio::test]
async fn stopping_lets_a_request_finish_and_takes_no_more() {
    let running = start().await;
    let mut busy = running.connect().await;
    let mut idle = running.connect().await;
    idle.write_all(GET).await.unwrap();
    read_response(&mut idle).await;
    // Half of a request: it has begun, and ends after the stop.
    busy.write_all(b"POST /v1/topics/orders.new HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    let mut polling = running.connect().await;
    let poll = b"POST /v1/queues/orders/lease HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n{\"wait\":\"60s\"}";
    polling.write_all(poll).await.unwrap();
    idle.write_all(GET).await.unwrap();
    read_response(&mut idle).await;
    running.server.stop.send_replace(true);
    assert_eq!(read_response(&mut polling).await, (StatusCode::OK, "{\"messages\":[]}".to_owned()));
    assert!(is_closed(&mut idle).await);
    busy.write_all(b"cd").await.unwrap();
    assert_eq!(read_response(&mut busy).await.0, StatusCode::OK);
    assert!(is_closed(&mut busy).await);
    assert!(TcpStream::connect(running.address).await.is_err(), "nobody listens any more");
    running.stopped().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_connections_that_said_nothing() {
    let running = start().await;
    let mut silent = running.connect().await;
    let mut seen = running.connect().await;
    seen.write_all(GET).await.unwrap();
    read_response(&mut seen).await;
    running.stopped().await;
    assert!(is_closed(&mut silent).await);
}

/// Sends a lease call with this body.
async fn ask_for_leases(stream: &mut TcpStream, body: &str) {
    let head = format!("POST /v1/queues/orders/lease HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
}

async fn figure(server: &Server, name: &str) -> u64 {
    server.get("/v1/queues/orders").await.ok()[name].as_u64().unwrap()
}

#[tokio::test]
async fn hanging_up_in_the_middle_of_an_answer_gives_all_leases_back() {
    let running = start().await;
    // More than the system buffers for two sockets.
    let data = format!(",\"data\":\"{}\"", "x".repeat(60 * 1024));
    for id in 0..270 {
        running.server.publish("orders.new", &id.to_string(), &data).await;
    }
    let mut stream = running.connect().await;
    ask_for_leases(&mut stream, "{\"max\":1000}").await;
    within(stream.read_exact(&mut [0; 1000])).await.unwrap();
    assert_eq!(figure(&running.server, "leased").await, 270);
    drop(stream);
    eventually("all are given back", async || figure(&running.server, "leased").await == 0).await;
    assert_eq!(figure(&running.server, "ready").await, 270);
    let again = running.server.post("/v1/queues/orders/lease", "{}").await.ok();
    assert_eq!(again["messages"][0]["attempt"], 1, "no attempt was counted");
    running.stopped().await;
}

#[tokio::test]
async fn whoever_hangs_up_while_waiting_takes_nothing() {
    let running = start().await;
    let mut stream = running.connect().await;
    ask_for_leases(&mut stream, "{\"wait\":\"60s\"}").await;
    stream.shutdown().await.unwrap();
    assert!(is_closed(&mut stream).await);
    running.server.publish("orders.new", "1", "").await;
    assert_eq!(running.server.lease(1).await.len(), 1);
    running.stopped().await;
}

#[tokio::test]
async fn leases_outlive_the_connection_that_they_were_received_on() {
    let running = start().await;
    running.server.publish("orders.new", "1", "").await;
    let mut stream = running.connect().await;
    ask_for_leases(&mut stream, "{}").await;
    let (status, body) = read_response(&mut stream).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    stream.shutdown().await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert_eq!(figure(&running.server, "leased").await, 1);
    let leased: serde_json::Value = serde_json::from_str(&body).unwrap();
    let token = &leased["messages"][0]["token"];
    let body = serde_json::json!({"settlements": [{"token": token, "outcome": "ack"}]}).to_string();
    running.server.post("/v1/queues/orders/settle", body).await.ok();
    running.stopped().await;
}
