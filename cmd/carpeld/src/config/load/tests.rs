use super::*;
use crate::config::{Bridge, Cni, DEFAULT_TOML, LogFormat};

fn load(files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    Config::load(Some(&dir.path().join("config.toml")), &Overrides::default())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(toml::from_str::<Config>(DEFAULT_TOML).unwrap(), Config::default());
    let given: Table = toml::from_str(DEFAULT_TOML).unwrap();
    let all: Table = toml::from_str(&Config::default().dump().unwrap()).unwrap();
    assert_eq!(given, all, "default.toml must name every key");
}

#[test]
fn the_commented_network_tables_are_the_defaults_too() {
    let text: String = DEFAULT_TOML
        .lines()
        .skip_while(|line| !line.starts_with("# [network.builtin]"))
        .map(|line| format!("{}\n", line.trim_start_matches('#').trim_start()))
        .collect();
    let config: Config = toml::from_str(&text).unwrap();
    assert_eq!(config.network.builtin, Some(Bridge::default()));
    assert_eq!(config.network.cni, Some(Cni::default()));
}

#[test]
fn drop_ins_merge_key_by_key_in_order() {
    let config = load(&[
        ("config.toml", "root = \"/a\"\n[log]\nlevel = \"warn\"\nformat = \"json\""),
        ("conf.d/20.toml", "[log]\nlevel = \"debug\""),
        ("conf.d/10.toml", "[log]\nlevel = \"trace\"\n[network.builtin]\nmtu = 1400"),
        ("conf.d/30.ignored", "nonsense"),
    ])
    .unwrap();
    assert_eq!(config.root, Path::new("/a"));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
    assert_eq!(config.network.builtin, Some(Bridge { mtu: 1400, ..Bridge::default() }));
}

#[test]
fn an_unknown_key_names_the_file_and_the_choices() {
    let error = load(&[("config.toml", ""), ("conf.d/x.toml", "[log]\nlevl = \"info\"")]).unwrap_err();
    let text = chain(&error);
    for part in ["x.toml", "levl", "`level`", "line 2"] {
        assert!(text.contains(part), "{part} missing in {text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, part) in [
        ("root = \"var\"", "absolute"),
        ("state = \"/var/lib/carpel\"", "tmpfs"),
        ("[network.builtin]\n[network.cni]", "keep one"),
        ("[network.builtin]\nsubnets = [\"10.0.0.0/99\"]", "10.0.0.0/99"),
        ("[cgroups]\ndriver = \"systemd\"\nparent = \"/pods\"", "a slice (name.slice)"),
        ("[cgroups]\ndriver = \"cgroupfs\"\nshims = \"a.slice\"", "cgroups.shims"),
        ("[runtime]\nlog_line_max_bytes = 5", "between"),
        ("[image]\nprogress_timeout_s = 0", "not be 0"),
    ] {
        let error = load(&[("config.toml", text)]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_command_line_beats_the_files() {
    let overrides = Overrides { root: Some("/elsewhere".into()), ..Overrides::default() };
    assert_eq!(Config::load(None, &overrides).unwrap().root, Path::new("/elsewhere"));
}

#[test]
fn a_named_file_must_exist() {
    let missing = Config::load(Some(Path::new("/nonexistent/config.toml")), &Overrides::default());
    assert!(matches!(missing, Err(ConfigError::Read { .. })));
}
