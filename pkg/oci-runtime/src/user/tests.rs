use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use carpel_shim_api::plan::UserPlan;
use carpel_shim_api::plan::user_plan::{Group, User as WantedUser};

use super::{HOME_MAX_BYTES, Identity, UserError, parse_id, resolve};
use crate::root::Root;

/// A root folder that goes with the test.
struct Image(PathBuf);

impl Image {
    fn new(test: &str, passwd: &str, group: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("carpel-user-{test}-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).expect("make the root");
        fs::write(dir.join("etc/passwd"), passwd).expect("write passwd");
        fs::write(dir.join("etc/group"), group).expect("write group");
        Self(dir)
    }

    fn resolve(&self, plan: &UserPlan) -> Result<Identity, UserError> {
        resolve(&Root::new(File::open(&self.0).expect("open the root").into()), plan, None)
    }

    fn replace(&self, file: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::remove_file(&path).expect("remove");
        path
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn uid(uid: u32) -> UserPlan {
    UserPlan { user: Some(WantedUser::Uid(uid)), ..UserPlan::default() }
}

fn name(name: &str) -> UserPlan {
    UserPlan { user: Some(WantedUser::Name(name.to_owned())), ..UserPlan::default() }
}

const PASSWD_TEXT: &str = "root:x:0:0:r:/root:/bin/sh\nweb:x:33:34:w:/srv/www:/bin/sh\n\
    broken:x:+5:5::/x:\nwide:x:4294967296:0::/x:\n4294967296:x:0:0::/root:\n1234:x:0:0::/root:\nshort\n";
const GROUP_TEXT: &str = "root:x:0:\nweb:x:34:\nlog:x:40:root,web\nbad:x:-1:web\nops:x:41:web,\n";

#[test]
fn numbers_take_group_and_home_from_the_image() {
    let image = Image::new("numbers", PASSWD_TEXT, GROUP_TEXT);
    let web = image.resolve(&uid(33)).expect("resolved");
    assert_eq!((web.user.uid, web.user.gid), (33, 34));
    assert_eq!(web.home.as_deref(), Some(b"/srv/www".as_slice()));
    let unknown = image.resolve(&uid(5000)).expect("resolved");
    assert_eq!((unknown.user.uid, unknown.user.gid, unknown.home), (5000, 0, None));
    let nothing = image.resolve(&UserPlan::default()).expect("resolved");
    assert_eq!((nothing.user.uid, nothing.user.gid), (0, 0));
}

#[test]
fn a_number_is_never_a_name() {
    let image = Image::new("never", PASSWD_TEXT, GROUP_TEXT);
    // The image has users of these names with uid 0.
    assert_eq!(image.resolve(&uid(1234)).expect("resolved").user.uid, 1234);
    for digits in ["4294967296", "1234", "0", ""] {
        assert!(matches!(image.resolve(&name(digits)), Err(UserError::Name(_))), "{digits}");
    }
    assert!(matches!(image.resolve(&uid(u32::MAX)), Err(UserError::NoId(_))));
}

#[test]
fn names_that_are_absent_or_have_no_proper_id_are_refused() {
    let image = Image::new("absent", PASSWD_TEXT, GROUP_TEXT);
    for bad in ["broken", "wide"] {
        assert!(matches!(image.resolve(&name(bad)), Err(UserError::BadId { .. })), "{bad}");
    }
    for absent in ["nobody", "short", "root\n", " root", "+0", "-1", "0x0"] {
        assert!(image.resolve(&name(absent)).is_err(), "{absent:?}");
    }
    let plan = UserPlan { group: Some(Group::GroupName("nogroup".to_owned())), ..uid(33) };
    assert!(matches!(image.resolve(&plan), Err(UserError::NoGroup(_))));
}

#[test]
fn ids_are_digits_in_range() {
    for bad in ["", "+0", "-1", " 0", "0 ", "0x0", "4294967295", "4294967296", "99999999999999999999", "1\n"]
    {
        assert_eq!(parse_id(bad.as_bytes()), None, "{bad:?}");
    }
    assert_eq!(parse_id(b"00"), Some(0));
    assert_eq!(parse_id(b"4294967294"), Some(u32::MAX - 1));
}

#[test]
fn groups_are_merged_or_exactly_those_asked_for() {
    let image = Image::new("groups", PASSWD_TEXT, GROUP_TEXT);
    let strict = UserPlan { supplemental_groups: vec![50, 34, 50], ..name("web") };
    assert_eq!(image.resolve(&strict).expect("resolved").user.groups, [34, 50]);
    let merged = UserPlan { merge_image_groups: true, ..strict.clone() };
    assert_eq!(image.resolve(&merged).expect("resolved").user.groups, [34, 50, 40, 41]);
    let by_uid = UserPlan { user: Some(WantedUser::Uid(33)), ..merged.clone() };
    assert_eq!(image.resolve(&by_uid).expect("resolved").user.groups, [34, 50, 40, 41]);
    let other_primary = UserPlan { group: Some(Group::GroupName("ops".to_owned())), ..strict };
    assert_eq!(image.resolve(&other_primary).expect("resolved").user.groups, [41, 50, 34]);
}

#[test]
fn files_that_are_no_files_are_refused_without_being_opened() {
    let image = Image::new("fifo", PASSWD_TEXT, GROUP_TEXT);
    let path = image.replace("etc/passwd");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .expect("mkfifo");
    assert!(matches!(image.resolve(&name("root")), Err(UserError::NotRegular(_))));
    fs::remove_file(&path).expect("remove");
    symlink("/proc/kmsg", &path).expect("link");
    // The link's target is looked for inside the root, where there is no such thing.
    assert!(matches!(image.resolve(&name("root")), Err(UserError::NoUser(_))));
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("mkdir");
    assert!(matches!(image.resolve(&name("root")), Err(UserError::NotRegular(_))));
}

#[test]
fn huge_files_and_lines_are_refused() {
    let image = Image::new("huge", "", "");
    let file = File::create(image.0.join("etc/passwd")).expect("create");
    file.set_len(10 << 30).expect("make it sparse");
    assert!(matches!(image.resolve(&uid(1)), Err(UserError::TooLarge(_))));
    file.set_len(5 << 20).expect("shrink it");
    assert!(matches!(image.resolve(&uid(1)), Err(UserError::LineTooLong(_))));
    let members = "u,".repeat(40_000);
    fs::write(image.0.join("etc/passwd"), "u:x:1:1::/:\n").expect("write");
    fs::write(image.0.join("etc/group"), format!("g:x:7:{members}\n")).expect("write");
    let plan = UserPlan { merge_image_groups: true, ..name("u") };
    assert!(matches!(image.resolve(&plan), Err(UserError::LineTooLong(_))));
}

#[test]
fn too_many_groups_are_refused() {
    use std::fmt::Write;
    let mut group = String::new();
    for gid in 0..1100 {
        writeln!(group, "g{gid}:x:{gid}:u").expect("to a string");
    }
    let image = Image::new("many", "u:x:1:1::/:\n", &group);
    let plan = UserPlan { merge_image_groups: true, ..name("u") };
    assert!(matches!(image.resolve(&plan), Err(UserError::Groups)));
}

#[test]
fn home_is_a_line_of_the_file_and_nothing_more() {
    let image = Image::new("home", "u:x:1:1::/h\\nroot::\nv:x:2:2::relative:\n", "");
    assert_eq!(image.resolve(&uid(1)).expect("resolved").home.as_deref(), Some(b"/h\\nroot".as_slice()));
    assert_eq!(image.resolve(&uid(2)).expect("resolved").home, None);
    for (length, is_path) in [(HOME_MAX_BYTES - 1, true), (HOME_MAX_BYTES, false)] {
        let home = "/".repeat(length);
        let image = Image::new(&format!("home-{length}"), &format!("u:x:1:1::{home}:\n"), "");
        let found = image.resolve(&uid(1)).expect("resolved").home;
        assert_eq!(found, is_path.then(|| home.into_bytes()));
    }
}
