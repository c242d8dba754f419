use std::collections::HashSet;

use super::*;

fn selinux(level: &str) -> Selinux {
    let process = SelinuxOption { level: level.to_owned(), ..SelinuxOption::default() };
    Selinux::Enabled(Box::new(SelinuxContexts { process: process.clone(), file: process, privileged: None }))
}

#[test]
fn contexts_are_those_of_the_policys_file() {
    let text =
        "# process = \"a:b:c:s0\"\nprocess = \"u:r:web_t:s0-s0:c0.c1023\"\n\nfile=u:object_r:web_file_t\n";
    let (process, file) = contexts_of(text);
    assert_eq!(
        (text_of(&process).as_str(), process.level.as_str()),
        ("u:r:web_t:s0-s0:c0.c1023", "s0-s0:c0.c1023")
    );
    assert_eq!((text_of(&file).as_str(), file.level.as_str()), ("u:object_r:web_file_t", ""));
    let (process, file) = contexts_of("");
    assert_eq!([text_of(&process).as_str(), text_of(&file).as_str()], DEFAULTS.map(|(_, context)| context));
    // What else Debian's has is neither's.
    let others = "ro_file=\"u:object_r:ro_t:s0\"\nsandbox_kvm_process = \"u:r:kvm_t:s0\"\n";
    assert_eq!(contexts_of(others), contexts_of(""));
    assert_eq!(
        value_of("SELINUX=enforcing\n# SELINUXTYPE=mls\nSELINUXTYPE=targeted\n", "SELINUXTYPE"),
        Some("targeted")
    );
    assert_eq!(parse("u:r"), None);
}

#[test]
fn no_two_pods_have_the_same_level_until_one_is_gone() {
    let levels = Levels::default();
    let chosen: Vec<Level> =
        (0..5000).map(|_| levels.choose(&selinux("s0-s0:c0.c1023")).unwrap().unwrap()).collect();
    let distinct: HashSet<&str> = chosen.iter().map(Level::as_str).collect();
    assert_eq!(distinct.len(), chosen.len());
    for level in &distinct {
        let (one, other) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
        assert!(
            one.parse::<u32>().unwrap() < other.parse().unwrap()
                && other.parse::<u32>().unwrap() < CATEGORIES
        );
    }
    // One that two have is taken until both are gone.
    let text = chosen[0].as_str().to_owned();
    let again = levels.reserve(&text);
    drop(chosen);
    let taken = |levels: &Levels| levels.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(taken(&levels), [text]);
    drop(again);
    assert_eq!(taken(&levels), [""; 0]);
}

#[test]
fn every_pair_of_categories_can_be_had_but_those_that_containers_ask_for() {
    let levels = Levels::default();
    let others: HashSet<String> = from(0, "s0").filter(|text| text != "s0:c17,c940").collect();
    let kept: Vec<Level> = others.iter().map(|text| levels.reserve(text)).collect();
    let asks = |level: &str| levels.reserve_asked(parse(&format!(":::{level}")).as_ref());
    assert!(asks("").is_none() && levels.reserve_asked(None).is_none());
    // As OpenShift writes levels: it means the same as `s0:c17,c940`.
    let container = asks("s0:c940,c17");
    let again = asks("s0:c17,c940,c17");
    drop(container);
    assert!(levels.choose(&selinux("s0")).unwrap().is_none(), "another container has it");
    drop(again);
    let last = levels.choose(&selinux("s0")).unwrap().unwrap();
    assert_eq!(last.as_str(), "s0:c17,c940");
    assert!(levels.choose(&selinux("s0")).unwrap().is_none(), "all are taken");
    drop(kept);
    // What is no pair is only itself.
    for level in ["s0", "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c1,c4.c7"] {
        assert_eq!(canonical(level), level);
    }
}

#[test]
fn a_node_without_levels_gives_none() {
    let levels = Levels::default();
    for selinux in [Selinux::Absent, Selinux::WithoutContainers, selinux("")] {
        assert!(levels.choose(&selinux).unwrap().is_none());
    }
}

#[test]
fn a_file_is_labelled_where_its_file_system_can() {
    let path = std::env::temp_dir().join(format!("carpel-selinux-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let label = "system_u:object_r:container_file_t:s0";
    set(&file, "").unwrap();
    set(&file, label).unwrap();
    let mut buffer = [0u8; 128];
    let length = rustix::fs::getxattr(&path, ATTRIBUTE, &mut buffer[..]).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(buffer[..length].strip_suffix(b"\0").unwrap_or(&buffer[..length]), label.as_bytes());
    set(File::open("/proc/self/status").unwrap(), label).unwrap();
}
