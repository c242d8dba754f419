//! Against a real bus (`dbus-daemon`, started by the test) and a systemd that the test plays: what happens
//! when it refuses, is slow to tell, or when the bus goes. A real systemd is asked by the end-to-end tests in
//! the virtual machine (`hack/vm test --driver systemd`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use carpel_systemd::{ConnectError, Scope, Started, Systemd, UnitError};
use tempfile::TempDir;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, object_server::SignalEmitter};

const SCOPE: Scope<'static> =
    Scope { unit: "carpel-1f.scope", slice: "carpel-pods.slice", description: "one", pid: 4711 };

/// A bus that ends with the test.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    fn start(folder: &Path) -> Bus {
        let socket = folder.join("bus");
        let _left = std::fs::remove_file(&socket);
        let config = folder.join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<busconfig><type>custom</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
                 <policy context='default'><allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>\
                 <allow own='*'/><allow user='*'/></policy></busconfig>",
                socket.display()
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the package dbus");
        let mut line = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        // Without the bus's identity, which a new one does not have.
        let address = line.trim().split(',').next().unwrap().to_owned();
        Bus { daemon, address }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.daemon.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ended = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

/// How systemd behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    /// Jobs end like this, before the answer that names them is sent.
    Ends(&'static str),
    Refuses(&'static str),
    NeverTells,
}

struct Manager {
    mood: Mood,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
    ScopeNotRunning(String),
}

impl Manager {
    async fn job(&self, told: &SignalEmitter<'_>, unit: &str) -> Result<OwnedObjectPath, Refusal> {
        let path = |number: u32| {
            OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).unwrap()
        };
        match self.mood {
            Mood::Refuses("UnitExists") => return Err(Refusal::UnitExists(unit.to_owned())),
            Mood::Refuses("NoSuchUnit") => return Err(Refusal::NoSuchUnit(unit.to_owned())),
            Mood::Refuses(why) => return Err(Refusal::ScopeNotRunning(why.to_owned())),
            Mood::NeverTells => {}
            Mood::Ends(result) => {
                // Another job of the same unit, and another unit's, are not the one that is waited for.
                Self::job_removed(told, 1, path(1), unit.to_owned(), "skipped".to_owned()).await?;
                Self::job_removed(told, 7, path(7), "x.scope".to_owned(), "skipped".to_owned()).await?;
                Self::job_removed(told, 7, path(7), unit.to_owned(), result.to_owned()).await?;
            }
        }
        Ok(path(7))
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn start_transient_unit(
        &self,
        #[zbus(signal_emitter)] told: SignalEmitter<'_>,
        name: &str,
        mode: &str,
        properties: Vec<(String, OwnedVariant)>,
        _auxiliary: Vec<(String, Vec<(String, OwnedVariant)>)>,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.seen.lock().unwrap().push(format!("{name} {mode} {properties:?}"));
        self.job(&told, name).await
    }

    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] told: SignalEmitter<'_>,
        name: &str,
        mode: &str,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.seen.lock().unwrap().push(format!("stop {name} {mode}"));
        self.job(&told, name).await
    }

    fn reset_failed_unit(&self, name: &str) -> Result<(), Refusal> {
        self.seen.lock().unwrap().push(format!("reset {name}"));
        Err(Refusal::NoSuchUnit(name.to_owned()))
    }

    fn subscribe(&self) {}

    #[zbus(signal)]
    async fn job_removed(
        told: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// A bus with a systemd on it, and what that was asked.
struct Stage {
    bus: Bus,
    _systemd: Connection,
    seen: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

async fn play(mood: Mood) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::start(folder.path());
    let (systemd, seen) = manager(&bus, mood).await;
    Stage { bus, _systemd: systemd, seen, folder }
}

async fn manager(bus: &Bus, mood: Mood) -> (Connection, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let manager = Manager { mood, seen: Arc::clone(&seen) };
    let connection = zbus::connection::Builder::address(bus.address.as_str())
        .serve_at("/org/freedesktop/systemd1", manager)
        .name("org.freedesktop.systemd1")
        .build()
        .await
        .unwrap();
    (connection, seen)
}

#[tokio::test]
async fn a_scope_is_asked_for_whole_and_waited_for() {
    let stage = play(Mood::Ends("done")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    assert_eq!(systemd.start_scope(SCOPE).await.unwrap(), Started::New);
    systemd.stop(SCOPE.unit).await.unwrap();
    let seen = stage.seen.lock().unwrap();
    assert!(seen[0].starts_with("carpel-1f.scope fail "), "{seen:?}");
    for part in ["carpel-pods.slice", "4711", "Delegate", "inactive-or-failed", "DefaultDependencies"] {
        assert!(seen[0].contains(part), "{part} in {seen:?}");
    }
    assert_eq!(seen[1..], ["stop carpel-1f.scope replace", "reset carpel-1f.scope"]);
}

#[tokio::test]
async fn what_systemd_answers_is_told_with_unit_and_slice() {
    let stage = play(Mood::Ends("timeout")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    let failed = systemd.start_scope(SCOPE).await.unwrap_err().to_string();
    assert!(failed.contains("carpel-1f.scope in slice carpel-pods.slice"), "{failed}");
    assert!(failed.contains("\"timeout\""), "{failed}");

    let stage = play(Mood::Refuses("out of cheese")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    let refused = systemd.start_scope(SCOPE).await.unwrap_err();
    let UnitError::Refused { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(source.to_string().contains("out of cheese"), "{source}");
}

#[tokio::test]
async fn a_unit_that_is_there_or_is_not_is_no_failure() {
    let stage = play(Mood::Refuses("UnitExists")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    assert_eq!(systemd.start_scope(SCOPE).await.unwrap(), Started::Exists);

    let stage = play(Mood::Refuses("NoSuchUnit")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    systemd.stop(SCOPE.unit).await.unwrap();
}

#[tokio::test]
async fn a_bus_that_comes_back_is_used_again() {
    let Stage { bus, _systemd: systemd_then, folder, .. } = play(Mood::Ends("done")).await;
    let systemd = Systemd::connect_at(&bus.address).await.unwrap();
    drop((bus, systemd_then));
    let lost = systemd.start_scope(SCOPE).await.unwrap_err();
    // The first call may meet the connection as it ends, and the next one finds none.
    assert!(!matches!(lost, UnitError::Timeout { .. }), "{lost:?}");
    let gone = systemd.start_scope(SCOPE).await.unwrap_err();
    assert!(matches!(gone, UnitError::Connect { source: ConnectError::Bus(_), .. }), "{gone:?}");
    let bus = Bus::start(folder.path());
    let (_manager, _seen) = manager(&bus, Mood::Ends("done")).await;
    assert_eq!(systemd.start_scope(SCOPE).await.unwrap(), Started::New);
}

#[tokio::test]
async fn a_bus_that_ends_while_a_job_is_waited_for_is_told() {
    let stage = play(Mood::NeverTells).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    let (seen, bus) = (Arc::clone(&stage.seen), &stage.bus);
    let asked = async {
        while seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        bus.signal("KILL");
    };
    let (started, ()) = tokio::join!(systemd.start_scope(SCOPE), asked);
    let lost = started.unwrap_err();
    assert!(matches!(lost, UnitError::Lost { .. } | UnitError::Refused { .. }), "{lost:?}");
}

#[tokio::test]
async fn a_bus_that_stands_still_holds_nobody_up() {
    let stage = play(Mood::Ends("done")).await;
    let systemd = Systemd::connect_at(&stage.bus.address).await.unwrap();
    stage.bus.signal("STOP");
    let late = systemd.start_scope(SCOPE).await.unwrap_err();
    assert!(matches!(late, UnitError::Timeout { .. } | UnitError::Refused { .. }), "{late:?}");
    assert!(matches!(Systemd::connect_at(&stage.bus.address).await, Err(ConnectError::Timeout)));
    stage.bus.signal("CONT");
    assert_eq!(systemd.start_scope(SCOPE).await.unwrap(), Started::New);
}

#[tokio::test]
async fn without_a_bus_or_a_systemd_there_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:path={}", folder.path().join("absent").display());
    assert!(matches!(Systemd::connect_at(&nowhere).await, Err(ConnectError::Bus(_))));
    let bus = Bus::start(folder.path());
    assert!(matches!(Systemd::connect_at(&bus.address).await, Err(ConnectError::Systemd(_))));
}
