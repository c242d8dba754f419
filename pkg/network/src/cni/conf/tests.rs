use serde_json::json;

use super::*;

fn problem(list: Value) -> Problem {
    parse_list(&list).unwrap_err()
}

#[test]
fn plugin_types_that_are_no_file_names_are_refused() {
    for kind in ["", ".", "..", "../../../../bin/sh", "/bin/sh", "a b", "a/b", "a\0b", "ü"] {
        let list = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": kind}]});
        assert_eq!(problem(list), Problem::PluginType(kind.into()));
    }
    for name in ["", "../x", ".x", "a/b", "a b"] {
        let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "p"}]});
        assert_eq!(problem(list), Problem::Name(name.into()));
    }
}

#[test]
fn versions_are_chosen_or_refused() {
    let list = |version: Value, versions: Value| {
        parse_list(&json!({"cniVersion": version, "cniVersions": versions, "name": "n",
            "plugins": [{"type": "p"}]}))
    };
    for (version, expect) in [("0.3.0", Version::V0_3_0), ("1.1.0", Version::V1_1_0)] {
        assert_eq!(list(json!(version), json!([])).unwrap().version, expect);
    }
    assert_eq!(list(json!("0.4.0"), json!(["1.1.0", "9.0.0"])).unwrap().version, Version::V1_1_0);
    for bad in ["", "0.2.0", "2.0.0", "1.1", "latest"] {
        assert_eq!(list(json!(bad), json!([])).unwrap_err(), Problem::Version(bad.into()));
    }
    assert_eq!(list(json!(1), json!([])).unwrap_err(), Problem::Field("cniVersion"));
}

#[test]
fn shapes_are_checked() {
    assert_eq!(problem(json!([])), Problem::NotAnObject);
    assert_eq!(problem(json!({"cniVersion": "1.0.0", "name": "n"})), Problem::NoPlugins);
    assert_eq!(problem(json!({"cniVersion": "1.0.0", "name": "n", "plugins": []})), Problem::NoPlugins);
    let many = vec![json!({"type": "p"}); PLUGINS_MAX + 1];
    assert_eq!(
        problem(json!({"cniVersion": "1.0.0", "name": "n", "plugins": many})),
        Problem::TooManyPlugins(PLUGINS_MAX + 1)
    );
    let wrong = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "p", "capabilities": 1}]});
    assert_eq!(problem(wrong), Problem::Field("capabilities"));
}

#[test]
fn the_lexically_first_usable_files_count() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let names = |max| {
        let mut broken = 0;
        let lists = load_dir(dir.path(), max, |_| broken += 1);
        (lists.map(|lists| lists.into_iter().map(|list| list.name).collect::<Vec<_>>()), broken)
    };
    assert!(matches!(names(1).0, Err(ConfError::None(_))));
    write("10-broken.conflist", "{");
    assert!(matches!(names(1).0, Err(ConfError::Json { .. })));
    write("20-one.conf", r#"{"cniVersion": "0.4.0", "name": "one", "type": "p"}"#);
    write("30-two.conflist", r#"{"cniVersion": "1.0.0", "name": "two", "plugins": [{"type": "p"}]}"#);
    write("05-not-a-conf.txt", "x");
    let (lists, broken) = names(1);
    assert_eq!((lists.unwrap(), broken), (vec!["one".to_owned()], 1));
    assert_eq!(names(0).0.unwrap(), ["one", "two"]);
    write("20-one.conf", &" ".repeat(CONF_MAX_BYTES as usize + 1));
    assert_eq!(names(0).0.unwrap(), ["two"]);
}

#[test]
fn plugins_of_the_network_s_own_folder_come_last() {
    let dir = tempfile::tempdir().unwrap();
    let list = |inlined: bool| {
        let text = json!({"cniVersion": "1.1.0", "name": "net", "loadOnlyInlinedPlugins": inlined,
            "plugins": [{"type": "first"}]});
        fs::write(dir.path().join("10.conflist"), text.to_string()).unwrap();
        let lists = load_dir(dir.path(), 0, |_| ()).unwrap();
        lists[0].plugins.iter().map(|plugin| plugin.kind.clone()).collect::<Vec<_>>()
    };
    fs::create_dir(dir.path().join("net")).unwrap();
    fs::write(dir.path().join("net/20-tune.conf"), r#"{"type": "tuning"}"#).unwrap();
    assert_eq!(list(false), ["first", "tuning"]);
    assert_eq!(list(true), ["first"]);
}
