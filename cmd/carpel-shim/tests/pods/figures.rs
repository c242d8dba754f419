//! How long the verbs take. Prints, and asserts nothing: run it by name against the shipped build.

use std::time::{Duration, Instant};

use carpel_shim_api::message::request;

use crate::harness::{Pod, container, exec};

const ROUNDS: usize = 60;

struct Figures(&'static str, Vec<Duration>);

impl Figures {
    fn time<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        self.1.push(start.elapsed());
        result
    }

    fn print(&mut self) {
        self.1.sort();
        let at = |part: usize| self.1[(self.1.len() - 1) * part / 100];
        eprintln!("{:8} p50 {:?} p90 {:?} max {:?}", self.0, at(50), at(90), at(100));
    }
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let mut pod_start = Figures("sandbox", Vec::new());
    let mut pod = Pod::start();
    for _ in 0..5 {
        let fresh = pod_start.time(Pod::start);
        drop(fresh);
    }
    let [mut create, mut start, mut exec_time, mut stop, mut delete] =
        ["create", "start", "exec", "stop", "delete"].map(|name| Figures(name, Vec::new()));
    for round in 0..ROUNDS {
        let id = format!("c{round}");
        let request = pod.command(&id, &["/bin/sleep", "1000"]);
        create.time(|| pod.create(request));
        start.time(|| pod.start_container(&id));
        let exec_id = format!("e{round}");
        exec_time.time(|| {
            let asked = pod.daemon.send(request::Body::Exec(exec(&id, &exec_id, &["/bin/true"])), &[]);
            drop(pod.daemon.reply_to(asked));
            assert_eq!(pod.daemon.exec_exit_of(&exec_id), 0);
        });
        stop.time(|| {
            pod.kill(&id, 9);
            pod.daemon.exit_of(&id)
        });
        delete.time(|| pod.daemon.done(request::Body::Delete(container(&id))));
    }
    for figures in [&mut pod_start, &mut create, &mut start, &mut exec_time, &mut stop, &mut delete] {
        figures.print();
    }
    pod.shut_down();
}
