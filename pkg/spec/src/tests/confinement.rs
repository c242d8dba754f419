//! What keeps a container in: hidden paths, seccomp, AppArmor.

use carpel_shim_api::plan::ContainerPlan;

use super::fixture::{Fixture, apparmor};
use crate::capability::CONTAINERD_DEFAULT;
use crate::config::*;
use crate::input::*;
use crate::{PlanError, SeccompNeed, seccomp_need};

fn plan(change: impl FnOnce(&mut Fixture)) -> Result<ContainerPlan, PlanError> {
    let mut fixture = Fixture::new();
    change(&mut fixture);
    fixture.plan().map(|planned| planned.plan)
}

#[test]
fn paths_are_hidden_unless_nothing_was_asked_for() {
    let masked = plan(|_| {}).unwrap().masked_paths;
    for path in ["/proc/kcore", "/proc/interrupts", "/sys/devices/virtual/powercap"] {
        assert!(masked.iter().any(|masked| masked == path), "{path}");
    }
    let unmasked = plan(|fixture| {
        fixture.config.security.masked_paths.clear();
        fixture.config.security.readonly_paths.clear();
    });
    assert!(unmasked.unwrap().masked_paths.is_empty());
    for bad in ["/proc/../etc", "proc", "/"] {
        assert!(plan(|f| f.config.security.masked_paths.push(bad.into())).is_err(), "{bad}");
        assert!(plan(|f| f.config.security.readonly_paths.push(bad.into())).is_err(), "{bad}");
    }
}

#[test]
fn seccomp_follows_the_profile() {
    let length = |seccomp: SecurityProfile, profile: Option<&str>| {
        plan(|fixture| {
            fixture.config.security.seccomp = seccomp;
            fixture.profile = profile.map(|text| text.as_bytes().to_vec());
        })
        .map(|plan| plan.process.seccomp_bpf.len())
    };
    let localhost = || SecurityProfile::Localhost("/profiles/a.json".into());
    assert_eq!(length(SecurityProfile::Unconfined, None).unwrap(), 0);
    assert!(length(SecurityProfile::RuntimeDefault, None).unwrap() > 1000);
    assert!(length(localhost(), Some(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)).unwrap() > 0);
    assert!(matches!(length(localhost(), None), Err(PlanError::SeccompMissing { .. })));
    for bad in ["", "{}", "[]", "{\"defaultAction\":\"ALLOW\"}", &"[".repeat(100_000)] {
        assert!(matches!(length(localhost(), Some(bad)), Err(PlanError::SeccompProfile { .. })), "{bad:.30}");
    }
    let notify = r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
    assert!(matches!(length(localhost(), Some(notify)), Err(PlanError::SeccompCompile { .. })));
    let node = Fixture::new().node;
    let of = |security: &ContainerSecurity| seccomp_need(security, &node).unwrap();
    let default =
        ContainerSecurity { seccomp: SecurityProfile::RuntimeDefault, ..ContainerSecurity::default() };
    assert_eq!(of(&default), SeccompNeed::Default { capabilities: CONTAINERD_DEFAULT });
    assert_eq!(of(&ContainerSecurity { privileged: true, ..default }), SeccompNeed::Unconfined);
}

#[test]
fn apparmor_by_name_is_never_left_out() {
    let check = |asked: SecurityProfile, node: AppArmor| {
        plan(|fixture| {
            fixture.config.security.apparmor = asked;
            fixture.node.apparmor = node;
        })
        .map(|plan| plan.process.apparmor_profile)
    };
    let named = |name: &str| SecurityProfile::Localhost(name.into());
    assert_eq!(check(SecurityProfile::RuntimeDefault, AppArmor::Absent).unwrap(), "");
    assert_eq!(check(SecurityProfile::RuntimeDefault, apparmor()).unwrap(), "carpel-default");
    assert_eq!(check(SecurityProfile::Unconfined, apparmor()).unwrap(), "");
    assert_eq!(check(named("custom"), apparmor()).unwrap(), "custom");
    assert!(matches!(check(named("custom"), AppArmor::Absent), Err(PlanError::AppArmorAbsent { .. })));
    assert!(matches!(check(named("absent"), apparmor()), Err(PlanError::AppArmorNotLoaded { .. })));
    let without_parser = AppArmor::Enabled { default_profile: None, loaded: ["custom".to_owned()].into() };
    assert_eq!(check(SecurityProfile::RuntimeDefault, without_parser.clone()).unwrap(), "");
    assert_eq!(check(named("custom"), without_parser).unwrap(), "custom");
    let unloaded = AppArmor::Enabled { default_profile: Some("d".into()), loaded: [].into() };
    let refused = check(SecurityProfile::RuntimeDefault, unloaded);
    assert!(matches!(refused, Err(PlanError::AppArmorNotLoaded { profile }) if profile == "d"));
}

#[test]
fn a_privileged_container_is_in_no_apparmor_profile() {
    for asked in [SecurityProfile::RuntimeDefault, SecurityProfile::Localhost("custom".into())] {
        for node in [AppArmor::Absent, apparmor()] {
            let planned = plan(|fixture| {
                fixture.sandbox.security.privileged = true;
                fixture.config.security.privileged = true;
                fixture.config.security.apparmor = asked.clone();
                fixture.node.apparmor = node;
            });
            assert_eq!(planned.unwrap().process.apparmor_profile, "");
        }
    }
}
