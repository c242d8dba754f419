//! SELinux labels: who says which part, and what can be none.

use super::fixture::{Fixture, selinux};
use crate::config::SelinuxOption;
use crate::error::PlanError;
use crate::input::{Selinux, SelinuxContexts};
use crate::selinux::{Labels, asked_level, of_pod, sensitivity, shared};

/// `user:role:type:level`, parts of which may be empty.
fn option(text: &str) -> SelinuxOption {
    let mut parts = text.splitn(4, ':').map(str::to_owned);
    let mut part = || parts.next().unwrap();
    SelinuxOption { user: part(), role: part(), type_: part(), level: part() }
}

/// A node's contexts with something changed.
fn changed(change: impl FnOnce(&mut SelinuxContexts)) -> Selinux {
    let Selinux::Enabled(mut contexts) = selinux() else { panic!("it is on") };
    change(&mut contexts);
    Selinux::Enabled(contexts)
}

fn labels(fixture: &Fixture) -> Result<(String, String), PlanError> {
    let plan = fixture.plan()?.plan;
    Ok((plan.process.selinux_label, plan.mount_label))
}

#[test]
fn each_part_is_the_containers_or_the_pods_or_the_policys() {
    for (of_container, of_pod, process, mount) in [
        ("", "", "system_u:system_r:container_t:s0:c3,c7", "system_u:object_r:container_file_t:s0:c3,c7"),
        (
            "",
            ":::s0:c1,c2",
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        (":::s0", ":::s0:c1,c2", "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"),
        ("::web_t:", ":r:x_t:", "system_u:r:web_t:s0:c3,c7", "system_u:object_r:container_file_t:s0:c3,c7"),
        ("u:r:t:s1-s2:c0.c1023", "", "u:r:t:s1-s2:c0.c1023", "u:object_r:container_file_t:s1-s2:c0.c1023"),
    ] {
        let mut fixture = Fixture::new();
        fixture.node.selinux = selinux();
        fixture.selinux_level = Some("s0:c3,c7");
        fixture.config.security.selinux = (!of_container.is_empty()).then(|| option(of_container));
        fixture.sandbox.security.selinux = (!of_pod.is_empty()).then(|| option(of_pod));
        let expected = (process.to_owned(), mount.to_owned());
        assert_eq!(labels(&fixture).unwrap(), expected, "{of_container:?}, {of_pod:?}");
    }
}

#[test]
fn a_privileged_container_is_confined_only_if_it_asks_for_that() {
    let without_type = changed(|contexts| contexts.privileged = None);
    for (node, asked, process) in [
        (selinux(), "", "system_u:system_r:spc_t:s0"),
        (selinux(), ":::s0:c1", "system_u:system_r:spc_t:s0:c1"),
        (selinux(), "::container_t:", "system_u:system_r:container_t:s0"),
        (without_type.clone(), "", ""),
        (without_type, "::web_t:", "system_u:system_r:web_t:s0:c3,c7"),
    ] {
        let mut fixture = Fixture::new().privileged();
        fixture.node.selinux = node;
        fixture.selinux_level = Some("s0:c3,c7");
        fixture.config.security.selinux = (!asked.is_empty()).then(|| option(asked));
        let (label, mount) = labels(&fixture).unwrap();
        assert_eq!(label, process, "{asked:?}");
        let level = if asked == ":::s0:c1" { "s0:c1" } else { "s0:c3,c7" };
        assert_eq!(mount, format!("system_u:object_r:container_file_t:{level}"));
    }
}

#[test]
fn without_selinux_or_containers_in_its_policy_there_are_no_labels() {
    for (node, asked, refused) in [
        (Selinux::Absent, "::spc_t:", false),
        (Selinux::WithoutContainers, "", false),
        (Selinux::WithoutContainers, "::spc_t:", true),
    ] {
        let mut fixture = Fixture::new();
        fixture.node.selinux = node.clone();
        fixture.config.security.selinux = (!asked.is_empty()).then(|| option(asked));
        match labels(&fixture) {
            Ok(labels) => assert_eq!((labels, refused), (Default::default(), false), "{node:?} {asked}"),
            Err(error) => {
                assert!(matches!(error, PlanError::SelinuxWithoutContainers) && refused, "{node:?} {asked}");
            }
        }
    }
}

#[test]
fn a_policy_without_levels_has_labels_without_them() {
    let mut fixture = Fixture::new();
    fixture.node.selinux = changed(|contexts| {
        contexts.process.level.clear();
        contexts.file.level.clear();
        contexts.privileged = None;
    });
    let expected =
        ("system_u:system_r:container_t".to_owned(), "system_u:object_r:container_file_t".to_owned());
    assert_eq!(labels(&fixture).unwrap(), expected);
}

#[test]
fn what_cannot_be_part_of_a_label_is_refused_everywhere() {
    let bad = [
        "a b:::",
        ":a\n::",
        "::a/b:",
        ":::s0,c4,c5",
        ":::s0 s1",
        ":::c1",
        ":::s",
        ":::s0:",
        ":::s0:c1,",
        ":::s0:c5.c1",
        ":::s0:c1024",
        ":::s0-",
        ":::s0:c1\"",
        ":::s99999",
        ":::s+1",
    ];
    for text in bad {
        let mut fixture = Fixture::new();
        fixture.config.security.selinux = Some(option(text));
        assert!(matches!(fixture.plan(), Err(PlanError::SelinuxPart { .. })), "{text:?}");
        let mut fixture = Fixture::new();
        fixture.sandbox.security.selinux = Some(option(text));
        let refused = of_pod(&fixture.sandbox, &Selinux::Absent, None);
        assert!(matches!(refused, Err(PlanError::SelinuxPart { .. })), "{text:?}");
    }
    for good in ["s0", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0-s15:c0.c3,c9"] {
        let mut fixture = Fixture::new();
        fixture.config.security.selinux = Some(option(&format!(":::{good}")));
        assert!(fixture.plan().is_ok(), "{good}");
    }
}

#[test]
fn a_pods_own_label_is_that_of_its_containers() {
    let mut fixture = Fixture::new();
    let of = |fixture: &Fixture| of_pod(&fixture.sandbox, &selinux(), Some("s0:c3,c7")).unwrap();
    assert_eq!(asked_level(fixture.sandbox.security.selinux.as_ref()), None);
    let chosen = Labels {
        process: "system_u:system_r:container_t:s0:c3,c7".to_owned(),
        mount: "system_u:object_r:container_file_t:s0:c3,c7".to_owned(),
    };
    assert_eq!(of(&fixture), chosen);
    fixture.sandbox.security.selinux = Some(option("::web_t:s0:c1,c2"));
    assert_eq!(asked_level(fixture.sandbox.security.selinux.as_ref()), Some("s0:c1,c2"));
    assert_eq!(of(&fixture).process, "system_u:system_r:web_t:s0:c1,c2");
}

#[test]
fn a_shared_label_has_no_categories() {
    for (label, expected) in [
        ("u:r:t:s0:c1,c2", "u:r:t:s0"),
        ("u:r:t:s1-s2:c0.c1023", "u:r:t:s1"),
        ("u:r:t:s0", "u:r:t:s0"),
        ("u:r:t", "u:r:t"),
        ("", ""),
    ] {
        assert_eq!(shared(label), expected);
    }
    assert_eq!(sensitivity("s0-s0:c0.c1023"), "s0");
}
