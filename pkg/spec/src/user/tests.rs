use carpel_shim_api::plan::user_plan::{Group, User};

use super::*;

fn image(text: &str) -> Result<(User, Option<Group>), UserProblem> {
    match plan_user(&ContainerSecurity::default(), text) {
        Ok(plan) => Ok((plan.user.unwrap(), plan.group)),
        Err(PlanError::User { problem, .. }) => Err(problem),
        Err(other) => panic!("{text:?}: {other}"),
    }
}

fn name(text: &str) -> User {
    User::Name(text.to_owned())
}

#[test]
fn users_of_images() {
    for (text, expect) in [
        ("", (User::Uid(0), None)),
        ("0", (User::Uid(0), None)),
        ("1", (User::Uid(1), None)),
        ("2147483648", (User::Uid(1 << 31), None)),
        ("4294967294", (User::Uid(u32::MAX - 1), None)),
        ("1000:1000", (User::Uid(1000), Some(Group::Gid(1000)))),
        ("1000:wheel", (User::Uid(1000), Some(Group::GroupName("wheel".to_owned())))),
        ("root", (name("root"), None)),
        ("www-data:33", (name("www-data"), Some(Group::Gid(33)))),
        ("_apt", (name("_apt"), None)),
        ("machine$", (name("machine$"), None)),
    ] {
        assert_eq!(image(text), Ok(expect), "{text:?}");
    }
}

#[test]
fn hostile_users_of_images() {
    use UserProblem::{Colons, Empty, LeadingZero, NotAName, OutOfRange};
    for (text, expect) in [
        ("00", LeadingZero),
        ("007", LeadingZero),
        ("+0", NotAName),
        ("-1", NotAName),
        ("1:", Empty),
        (":1", Empty),
        (":", Empty),
        ("1:2:3", Colons),
        ("4294967295", OutOfRange),
        ("4294967296", OutOfRange),
        ("99999999999999999999", OutOfRange),
        ("1000:4294967297", OutOfRange),
        (" 0", NotAName),
        ("0 ", NotAName),
        ("0x0", NotAName),
        ("root\n", NotAName),
        ("root\0", NotAName),
        ("1e3", NotAName),
        ("../root", NotAName),
        ("a/b", NotAName),
        ("$", NotAName),
        ("\u{661}", NotAName),
        (&"a".repeat(257), NotAName),
    ] {
        assert_eq!(image(text), Err(expect), "{text:?}");
    }
}

#[test]
fn what_was_asked_for_beats_the_image() {
    let ask = |run_as, run_as_group| {
        let security = ContainerSecurity { run_as, run_as_group, ..ContainerSecurity::default() };
        plan_user(&security, "7:8").map(|plan| (plan.user.unwrap(), plan.group))
    };
    assert_eq!(ask(None, None).unwrap(), (User::Uid(7), Some(Group::Gid(8))));
    assert_eq!(ask(Some(RunAs::Uid(5)), None).unwrap(), (User::Uid(5), None), "not the image's group");
    assert_eq!(ask(Some(RunAs::Uid(5)), Some(6)).unwrap(), (User::Uid(5), Some(Group::Gid(6))));
    assert_eq!(ask(Some(RunAs::Name("bin".into())), None).unwrap(), (name("bin"), None));
    assert_eq!(ask(Some(RunAs::Name("1000".into())), None).unwrap(), (User::Uid(1000), None));
    for refused in [
        ask(None, Some(6)),
        ask(Some(RunAs::Uid(u32::MAX)), None),
        ask(Some(RunAs::Uid(1)), Some(u32::MAX)),
        ask(Some(RunAs::Name("4294967296".into())), None),
        ask(Some(RunAs::Name("bin:0".into())), None),
        ask(Some(RunAs::Name(String::new())), None),
    ] {
        assert!(refused.is_err());
    }
}

#[test]
fn supplemental_groups_are_kept_once_each() {
    let security = ContainerSecurity {
        supplemental_groups: vec![9, 3, 9, 0],
        supplemental_groups_policy: GroupsPolicy::Strict,
        ..ContainerSecurity::default()
    };
    let plan = plan_user(&security, "").unwrap();
    assert_eq!(plan.supplemental_groups, [9, 3, 0]);
    assert!(!plan.merge_image_groups);
    let none = ContainerSecurity { supplemental_groups: vec![u32::MAX], ..ContainerSecurity::default() };
    assert!(plan_user(&none, "").is_err());
}
