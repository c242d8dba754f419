//! Registries behind a proxy.

use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use carpel_image::Proxies;

use crate::support::build;
use crate::support::registry::{Certificates, Registry, Setup};
use crate::support::{Home, chain, pull};

/// A proxy that makes tunnels to one address, whatever host it is asked for.
struct Proxy {
    address: String,
    /// The heads of the requests it got.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let proxy = Proxy { address, asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (target, asked) = (target.clone(), Arc::clone(&asked));
                thread::spawn(move || tunnel(&client.unwrap(), &target, &asked));
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn tunnel(mut client: &TcpStream, target: &str, asked: &Mutex<Vec<String>>) {
    let head: Vec<String> = BufReader::with_capacity(1, client)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let is_allowed = !head.iter().any(|line| line.contains("forbidden.example"));
    asked.lock().unwrap().push(head.join("\n"));
    if !is_allowed {
        client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
        return;
    }
    let host = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ended = copy(&mut &*client, &mut &host);
            let _gone = host.shutdown(Shutdown::Write);
        });
        let _ended = copy(&mut &host, &mut &*client);
        let _gone = client.shutdown(Shutdown::Both);
    });
}

fn proxies(http: &str, no: &str) -> Proxies {
    Proxies::new(http.to_owned(), String::new(), no.to_owned()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_reached_through_the_proxy_only() {
    let mut home = Home::new();
    let registry = Registry::plain(home.folder.path());
    registry.push("a", "1", &build::small("proxied"));
    let proxy = Proxy::start(registry.host());
    // The host's name means something to the proxy alone.
    home.hosts("registry.example", "server = \"http://registry.example:5000\"\n");
    home.config.proxies = proxies(&format!("http://joe:hunter%202@{}", proxy.address), "");
    let images = home.open().await;
    pull(&images, "registry.example/a:1").await.unwrap();
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    for head in asked {
        assert!(head.starts_with("CONNECT registry.example:5000 HTTP/1.1"), "{head}");
        // `joe:hunter 2`
        assert!(head.to_lowercase().contains("proxy-authorization: basic am9lomh1bnrlciay"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_the_tunnel_to_the_registry() {
    let mut home = Home::new();
    Registry::plain(home.folder.path()).push("a", "1", &build::small("proxied"));
    let certificates = Certificates::make(&home.path("pki"));
    let (certificate, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let setup = Setup { tls: Some((&certificate, &key)), ..Setup::default() };
    let registry = Registry::start(home.folder.path(), &setup);
    let proxy = Proxy::start(registry.host());
    // Its certificate is for another name, and says so to us, not to the proxy.
    let host = |skip| format!("[host.\"https://registry.example\"]\nskip_verify = {skip}\n");
    let address = format!("http://{}", proxy.address);
    home.config.proxies = Proxies::new(String::new(), address, String::new()).unwrap();
    home.config.limits.attempts = 1;
    let images = home.open().await;
    home.hosts("registry.example", &host(true));
    pull(&images, "registry.example/a:1").await.unwrap();
    home.hosts("registry.example", &host(false));
    let error = chain(&pull(&images, "registry.example/a:2").await.unwrap_err());
    assert!(error.contains("certificate"), "{error}");
    assert!(proxy.asked().iter().all(|head| head.starts_with("CONNECT registry.example:443 ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_this_machine_and_listed_ones_are_asked_directly() {
    let mut home = Home::new();
    let registry = Registry::plain(home.folder.path());
    registry.push("a", "1", &build::small("direct"));
    let proxy = Proxy::start(registry.host());
    home.hosts("registry.example", "server = \"http://registry.example:5000\"\n");
    home.config.proxies = proxies(&format!("http://{}", proxy.address), "10.0.0.0/8,.example");
    home.config.limits.attempts = 1;
    let images = home.open().await;
    pull(&images, &format!("{}/a:1", registry.host())).await.unwrap();
    let error = pull(&images, "registry.example/a:1").await.unwrap_err();
    assert!(chain(&error).contains("registry.example"), "{}", chain(&error));
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_refusal_names_it_without_its_password() {
    let mut home = Home::new();
    let proxy = Proxy::start("127.0.0.1:1".to_owned());
    home.hosts("forbidden.example", "server = \"http://forbidden.example:5000\"\n");
    home.config.proxies = proxies(&format!("http://joe:hunter2@{}", proxy.address), "");
    home.config.limits.attempts = 1;
    let images = home.open().await;
    let error = chain(&pull(&images, "forbidden.example/a:1").await.unwrap_err());
    let wanted = format!("the proxy {} gives no way to forbidden.example:5000", proxy.address);
    assert!(error.contains(&wanted) && !error.contains("hunter2"), "{error}");
    assert!(!format!("{:?}", home.config).contains("hunter2"));
}

#[test]
fn addresses_that_are_no_proxys_are_refused() {
    let new = |http: &str, https: &str| Proxies::new(http.to_owned(), https.to_owned(), String::new());
    for good in ["", "http://proxy", "http://proxy:3128/", "http://joe:hunter2@[::1]:3128", "proxy:3128"] {
        assert!(new(good, good).is_ok(), "{good}");
    }
    for bad in ["https://proxy", "socks5://proxy:1080", "/proxy", "http://", "a b"] {
        assert!(new(bad, "").is_err() && new("", bad).is_err(), "{bad}");
    }
}
