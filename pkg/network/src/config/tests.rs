use super::*;

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

#[test]
fn subnets_are_read_strictly() {
    for (text, expect) in [
        ("10.88.0.0", ParseSubnetError::NoPrefix("10.88.0.0".into())),
        ("10.88.0/16", ParseSubnetError::Address("10.88.0/16".into())),
        ("10.88.0.0/33", ParseSubnetError::Prefix("10.88.0.0/33".into())),
        ("10.88.0.0/+8", ParseSubnetError::Prefix("10.88.0.0/+8".into())),
        ("10.88.0.0/", ParseSubnetError::Prefix("10.88.0.0/".into())),
        ("10.88.0.1/16", ParseSubnetError::HostBits("10.88.0.1/16".into())),
        ("fd00::1/64", ParseSubnetError::HostBits("fd00::1/64".into())),
    ] {
        assert_eq!(text.parse::<Subnet>(), Err(expect));
    }
    assert_eq!(subnet("10.88.0.0/16").to_string(), "10.88.0.0/16");
}

#[test]
fn offsets_and_membership() {
    let v4 = subnet("10.1.2.0/24");
    assert_eq!(v4.nth(7), Some("10.1.2.7".parse().unwrap()));
    assert_eq!(v4.nth(256), None);
    assert_eq!(v4.offset("10.1.2.9".parse().unwrap()), Some(9));
    assert_eq!(v4.offset("10.1.3.9".parse().unwrap()), None);
    assert_eq!(v4.host_offsets(), (1, 254));
    let v6 = subnet("fd00::/64");
    assert_eq!(v6.nth(0x10), Some("fd00::10".parse().unwrap()));
    assert!(!v6.contains("10.1.2.3".parse().unwrap()));
    assert!(v4.overlaps(&subnet("10.0.0.0/8")) && subnet("10.0.0.0/8").overlaps(&v4));
    assert!(!v4.overlaps(&subnet("10.1.3.0/24")));
}

#[test]
fn bad_bridge_configs_are_refused() {
    let config = |change: fn(&mut BridgeConfig)| {
        let mut config = BridgeConfig::default();
        change(&mut config);
        config.check()
    };
    assert_eq!(config(|_| ()), Ok(()));
    assert!(matches!(config(|c| c.bridge = "a/b".into()), Err(ConfigError::BridgeName(_))));
    assert!(matches!(config(|c| c.bridge = "sixteen-letters-".into()), Err(ConfigError::BridgeName(_))));
    assert!(matches!(config(|c| c.bridge = "..".into()), Err(ConfigError::BridgeName(_))));
    assert!(matches!(config(|c| c.subnets.clear()), Err(ConfigError::Subnets)));
    assert!(matches!(
        config(|c| c.subnets = vec![subnet("10.0.0.0/8"), subnet("10.1.0.0/16")]),
        Err(ConfigError::Subnets)
    ));
    for small in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/128", "0.0.0.0/0"] {
        let outcome = BridgeConfig { subnets: vec![subnet(small)], ..Default::default() }.check();
        assert_eq!(outcome, Err(ConfigError::SubnetTooSmall(subnet(small))), "{small}");
    }
    assert!(matches!(config(|c| c.subnets = vec![subnet("224.0.0.0/8")]), Err(ConfigError::SubnetRange(_))));
    assert!(matches!(config(|c| c.mtu = Some(1279)), Err(ConfigError::Mtu(1279, 1280))));
    assert_eq!(config(|c| c.mtu = Some(1280)), Ok(()));
}

#[test]
fn bad_cni_configs_are_refused() {
    let check = |cni: CniConfig| {
        Config { netns_dir: "/run/netns".into(), state_dir: "/s".into(), mode: Mode::Cni(cni) }.check()
    };
    assert_eq!(check(CniConfig::default()), Ok(()));
    let prefix = |p: &str| check(CniConfig { interface_prefix: p.into(), ..Default::default() });
    assert!(matches!(prefix(""), Err(ConfigError::InterfacePrefix(_))));
    assert!(matches!(prefix("thirteen-char"), Err(ConfigError::InterfacePrefix(_))));
    assert!(matches!(prefix("a/b"), Err(ConfigError::InterfacePrefix(_))));
    let relative = check(CniConfig { bin_dirs: vec!["bin".into()], ..Default::default() });
    assert!(matches!(relative, Err(ConfigError::RelativePath { .. })));
}
