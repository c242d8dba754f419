use super::*;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("carpel-record-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn pod_json(version: u32) -> String {
    let id = "ab".repeat(32);
    format!(
        r#"{{"version":{version},"id":"{id}","phase":"ready","boot_id":"x","created_at_ns":5,
            "config":{{"metadata":{{"name":"n","namespace":"s","uid":"u","attempt":1}},"hostname":"h",
            "log_directory":null,"dns":null,"port_mappings":[],"labels":{{"a":"b"}},"annotations":{{}},
            "cgroup_parent":null,"namespaces":{{"network":"Pod","ipc":"Pod","pid":"Container"}},
            "security":{{"privileged":false,"run_as_user":null,"run_as_group":null,"supplemental_groups":[],
            "readonly_rootfs":false,"selinux":null,"seccomp":"Unconfined"}},"sysctls":{{}},"overhead":null,
            "resources":null,"runtime_handler":""}},"ips":["10.0.0.2"],"netns":"/run/netns/x","shim_pid":7}}"#
    )
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let folder = folder("round");
    let path = folder.join("pod.json");
    std::fs::write(&path, pod_json(1)).unwrap();
    let record: PodRecord = read(&path).unwrap();
    assert_eq!(record.config.metadata.name, "n");
    assert_eq!(record.phase, PodPhase::Ready);
    write(&path, &record).unwrap();
    let again: PodRecord = read(&path).unwrap();
    assert_eq!(format!("{again:?}"), format!("{record:?}"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no temporary file stays");
    remove(&path).unwrap();
    remove(&path).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_torn_newer_or_foreign_is_refused() {
    let folder = folder("bad");
    let path = folder.join("pod.json");
    let whole = pod_json(1);
    let cases = [
        String::new(),
        whole[..whole.len() / 2].to_owned(),
        pod_json(2),
        whole.replace(&"ab".repeat(32), "../../etc"),
        "[]".to_owned(),
    ];
    for content in cases {
        std::fs::write(&path, &content).unwrap();
        assert!(read::<PodRecord>(&path).is_err(), "{content}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn exits_keep_their_words() {
    for reason in [
        ExitReason::Completed,
        ExitReason::Error,
        ExitReason::OomKilled,
        ExitReason::StartError,
        ExitReason::Unknown,
    ] {
        let exit = Exit { code: 3, reason, message: "m".into(), started_at_ns: 1, finished_at_ns: 2 };
        let text = serde_json::to_string(&ExitOnRecord::from(&exit)).unwrap();
        let back: ExitOnRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(Exit::from(back), exit);
    }
}

#[test]
fn a_record_without_a_phase_is_of_a_container_that_was_made() {
    assert_eq!(ContainerPhase::default(), ContainerPhase::Created);
    assert_eq!(serde_json::to_string(&ContainerPhase::Creating).unwrap(), "\"creating\"");
}

#[test]
fn what_was_decided_last_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    let writes = Writes::default();
    let first = writes.decide(path.clone(), 1);
    let second = writes.decide(path.clone(), 2);
    let third = writes.decide(path.clone(), 3);
    second.make().unwrap();
    first.make().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "2");
    third.make().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "3");
}

#[test]
fn writes_at_the_same_time_tear_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    std::thread::scope(|scope| {
        for digit in ["1", "2", "3", "4"] {
            let path = &path;
            scope.spawn(move || {
                for length in 1..200 {
                    write(path, &digit.repeat(length * 50)).unwrap();
                    let seen: String = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                    assert!(seen.bytes().all(|byte| byte == seen.as_bytes()[0]));
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}
