//! Logs: served, and rotated at 64 KiB as the node's configuration says.

use carpel_e2e::kubelet::{pod, until};
use serde_json::json;

use crate::node::{Node, WAIT, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![logs_are_served, logs_are_rotated_without_loss]
}

fn logs_are_served(node: &Node) {
    let script = format!("for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done; {WAIT}");
    node.kubelet().place(&pod("logs", json!({ "containers": [sh("main", &script)] })));
    node.kubelet().until_ready("logs");
    let all = until("ten lines", || {
        let said = node.kubelet().read_secure("/containerLogs/default/logs-node/main")?;
        if said.lines().count() == 10 { Ok(said) } else { Err(said) }
    });
    assert!(all.contains("out 1\n") && all.contains("err 5\n"), "{all}");
    let tail = node
        .kubelet()
        .read_secure("/containerLogs/default/logs-node/main?tailLines=2&timestamps=true")
        .unwrap();
    assert_eq!(tail.lines().count(), 2, "{tail}");
    assert!(
        tail.lines().all(|line| line.starts_with("20") && line.contains(" err ") || line.contains(" out ")),
        "{tail}"
    );
}

fn logs_are_rotated_without_loss(node: &Node) {
    // A burst past the limit, time for a rotation, and so on; fewer files than the kubelet keeps.
    let script = format!(
        "n=0; for burst in 1 2 3; do i=0; while [ $i -lt 1500 ]; do n=$((n+1)); i=$((i+1)); echo \"line $n of a log that is rotated\"; done; sleep 6; done; echo the end; {WAIT}"
    );
    node.kubelet().place(&pod("rotated", json!({ "containers": [sh("main", &script)] })));
    let pod = node.kubelet().until_ready("rotated");
    let folder = node.kubelet().log_folder(&pod, "main");
    let said = until("all lines in rotated files", || {
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
        files.sort();
        let mut said = String::new();
        // `0.log.<time>` and `0.log.<time>.gz` sort by age, and `0.log` is the newest though it sorts first.
        for file in
            files.iter().filter(|file| file.file_name().unwrap() != "0.log").chain([&folder.join("0.log")])
        {
            let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
            let text = if file.extension().is_some_and(|kind| kind == "gz") {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text)
                    .map_err(|error| error.to_string())?;
                text
            } else {
                String::from_utf8_lossy(&bytes).into_owned()
            };
            said += &text;
        }
        if said.contains("the end") && files.len() >= 3 { Ok(said) } else { Err(format!("{files:?}")) }
    });
    let numbers: Vec<u32> = said
        .lines()
        .filter_map(|line| line.split_once(" line ")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(numbers, (1..=4500).collect::<Vec<_>>(), "every line once and in order");
}
