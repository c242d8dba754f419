//! Volumes of the kinds that a kubelet has without a cluster.

use std::os::unix::fs::MetadataExt as _;

use carpel_e2e::kubelet::{container, images, pod, until};
use serde_json::{Value, json};

use crate::node::{Node, WAIT, host_path, read, sh};

pub(crate) fn checks() -> crate::Shared {
    crate::checks![
        empty_dirs_are_shared_and_go_with_the_pod,
        memory_dirs_have_their_size,
        host_paths_of_every_type,
        sub_paths_stay_inside,
        downward_files_are_filled,
        image_volumes_are_mounted_read_only,
        mounts_propagate_as_asked,
    ]
}

/// A script, the words that it ends with, and the volume mounts that it needs; returns all that it said.
fn told(node: &Node, name: &str, script: &str, mounts: Value, volumes: Value) -> (Value, String) {
    let mut main = sh("main", &format!("{{ {script}; }} 2>&1; echo the end; {WAIT}"));
    main["volumeMounts"] = mounts;
    main["env"] = json!([{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
    main["resources"] = json!({ "limits": { "cpu": "300m" }, "requests": { "cpu": "1m" } });
    node.kubelet().place(&pod(name, json!({ "containers": [main], "volumes": volumes })));
    let pod = node.kubelet().until_ready(name);
    let said = until("the container's last word", || {
        let said = node.kubelet().output(&pod, "main");
        if said.ends_with("the end\n") { Ok(said) } else { Err(said) }
    });
    (pod, said)
}

fn empty_dirs_are_shared_and_go_with_the_pod(node: &Node) {
    let mount = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let mut writer = sh("writer", &format!("echo written > /shared/file; {WAIT}"));
    let mut reader =
        sh("reader", &format!("until test -e /shared/file; do sleep 0.1; done; cat /shared/file; {WAIT}"));
    writer["volumeMounts"] = mount.clone();
    reader["volumeMounts"] = mount;
    let volumes = json!([{ "name": "shared", "emptyDir": {} }]);
    node.kubelet().place(&pod("empty-dir", json!({ "containers": [writer, reader], "volumes": volumes })));
    let pod = node.kubelet().until_ready("empty-dir");
    until("the file in the other container", || {
        let said = node.kubelet().output(&pod, "reader");
        if said == "written\n" { Ok(()) } else { Err(said) }
    });
    let folder = node.kubelet().volumes(&pod, "empty-dir");
    assert_eq!(read(&folder.join("shared/file")), "written\n");
    node.kubelet().remove("empty-dir");
    until("the end of the volume", || if folder.exists() { Err("it is there".to_owned()) } else { Ok(()) });
}

fn memory_dirs_have_their_size(node: &Node) {
    let (_, said) = told(
        node,
        "memory-dir",
        "grep ' /memory ' /proc/mounts; dd if=/dev/zero of=/memory/file bs=1M count=4; stat -c %s /memory/file",
        json!([{ "name": "memory", "mountPath": "/memory" }]),
        json!([{ "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "2Mi" } }]),
    );
    assert!(said.contains(" /memory tmpfs rw"), "{said}");
    assert!(
        said.contains("size=2048k") && said.contains("No space left") && said.contains("2097152"),
        "{said}"
    );
}

fn host_paths_of_every_type(node: &Node) {
    let folder = node.folder("host-paths");
    std::fs::write(folder.join("file"), "from the host").unwrap();
    std::fs::create_dir(folder.join("made-read-only")).unwrap();
    let typed = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": folder.join(path), "type": kind } });
    let (_, said) = told(
        node,
        "host-paths",
        "cat /file; echo; echo made > /new/inside; echo > /read-only/x; test -c /null && echo a device; echo > /null",
        json!([
            { "name": "file", "mountPath": "/file" },
            { "name": "new", "mountPath": "/new" },
            { "name": "read-only", "mountPath": "/read-only", "readOnly": true },
            { "name": "null", "mountPath": "/null" },
        ]),
        json!([
            typed("file", "file", "File"),
            typed("new", "new", "DirectoryOrCreate"),
            typed("read-only", "made-read-only", "Directory"),
            { "name": "null", "hostPath": { "path": "/dev/null", "type": "CharDevice" } },
        ]),
    );
    assert!(said.contains("from the host\n") && said.contains("a device\n"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(read(&folder.join("new/inside")), "made\n");
    assert!(!folder.join("made-read-only/x").exists());
}

fn sub_paths_stay_inside(node: &Node) {
    let (_, said) = told(
        node,
        "sub-path",
        "echo one > /one/file; cat /all/a/b/file; echo mine > /expanded/f; cat /all/sub-path-node/f",
        json!([
            { "name": "v", "mountPath": "/all" },
            { "name": "v", "mountPath": "/one", "subPath": "a/b" },
            { "name": "v", "mountPath": "/expanded", "subPathExpr": "$(POD)" },
        ]),
        json!([{ "name": "v", "emptyDir": {} }]),
    );
    assert_eq!(said, "one\nmine\nthe end\n");
    // A link that leads out of the volume is refused.
    let folder = node.folder("sub-path");
    std::os::unix::fs::symlink("/etc", folder.join("out")).unwrap();
    let mut main = sh("main", WAIT);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v", "subPath": "out" }]);
    node.kubelet()
        .place(&pod("sub-path-out", json!({ "containers": [main], "volumes": [host_path("v", &folder)] })));
    node.kubelet().until_pod("sub-path-out", "refused", |pod| {
        container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
}

fn downward_files_are_filled(node: &Node) {
    let items = json!([
        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        { "path": "deep/limit", "resourceFieldRef": { "containerName": "main", "resource": "limits.cpu", "divisor": "1m" } },
    ]);
    let (pod, said) = told(
        node,
        "downward",
        "for file in /down/labels /down/deep/limit; do cat $file; echo; done; ls -ln /down/..data/labels",
        json!([{ "name": "down", "mountPath": "/down" }]),
        json!([{ "name": "down", "downwardAPI": { "defaultMode": 0o440, "items": items } }]),
    );
    assert!(said.contains("app=\"downward\"\n300\n-r--r-----"), "{said}");
    let mount = node.kubelet().volumes(&pod, "downward-api").join("down");
    let above = std::fs::metadata(mount.parent().unwrap()).unwrap().dev();
    assert_ne!(std::fs::metadata(&mount).unwrap().dev(), above, "it is a tmpfs on the host too");
}

fn image_volumes_are_mounted_read_only(node: &Node) {
    let (_, said) = told(
        node,
        "image-volume",
        "cat /image/folder/file; echo; cat /part/file; echo; touch /image/new",
        json!([
            { "name": "image", "mountPath": "/image" },
            { "name": "image", "mountPath": "/part", "subPath": "folder" },
        ]),
        json!([{ "name": "image", "image": { "reference": images::FILES, "pullPolicy": "IfNotPresent" } }]),
    );
    assert_eq!(said.matches("from an image").count(), 2, "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}

fn mounts_propagate_as_asked(node: &Node) {
    // A shared mount of our own: the machine's root need not be one.
    let folder = node.folder("propagation");
    let path = folder.to_string_lossy().into_owned();
    carpel_e2e::kernel::run("mount", &["-t", "tmpfs", "carpel-e2e", &path]);
    carpel_e2e::kernel::run("mount", &["--make-shared", &path]);
    for name in ["in", "out"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    let mut main = sh(
        "main",
        &format!(
            "mount -t tmpfs inner /v/out && touch /v/out/from-inside; until test -e /v/in/from-outside; do sleep 0.1; done; echo seen; {WAIT}"
        ),
    );
    main["securityContext"] = json!({ "privileged": true });
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional" }]);
    node.kubelet()
        .place(&pod("propagation", json!({ "containers": [main], "volumes": [host_path("v", &folder)] })));
    let pod = node.kubelet().until_ready("propagation");
    until("the container's mount here", || {
        if folder.join("out/from-inside").exists() {
            Ok(())
        } else {
            Err(node.kubelet().output(&pod, "main"))
        }
    });
    let inner = folder.join("in").to_string_lossy().into_owned();
    carpel_e2e::kernel::run("mount", &["-t", "tmpfs", "outer", &inner]);
    std::fs::write(folder.join("in/from-outside"), "").unwrap();
    until("our mount in the container", || {
        let said = node.kubelet().output(&pod, "main");
        if said == "seen\n" { Ok(()) } else { Err(said) }
    });
    carpel_e2e::kernel::run("umount", &["--lazy", "--recursive", &path]);
}
