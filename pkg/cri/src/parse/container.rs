//! `ContainerConfig`.

use carpel_proto::v1;
use carpel_spec::config::{
    ContainerConfig, ContainerSecurity, DeviceConfig, GroupsPolicy, MountAccess, MountConfig,
    MountPropagation, MountSource, RunAs, SecurityProfile, StdinMode, Terminal,
};

use super::{
    Invalid, absolute_path, id, ids, invalid, line, name, relative_path, required, resources,
    sandbox::{id_mappings, pid_mode, profile, selinux, user_mode},
};

/// A container as asked for.
pub(crate) fn container_config(from: v1::ContainerConfig) -> Result<ContainerConfig, Invalid> {
    let metadata = required(from.metadata, "config.metadata")?;
    let image = required(from.image, "config.image")?;
    let linux = from.linux.unwrap_or_default();
    let security = container_security(linux.security_context.unwrap_or_default())?;
    let mounts = mounts(&from.mounts, security.privileged)?;
    Ok(ContainerConfig {
        name: name(&metadata.name, "config.metadata.name")?,
        attempt: metadata.attempt,
        image: name(&image.image, "config.image.image")?,
        user_specified_image: line(&image.user_specified_image, "config.image.user_specified_image")?,
        command: arguments(from.command, "config.command")?,
        args: arguments(from.args, "config.args")?,
        working_dir: line(&from.working_dir, "config.working_dir")?,
        envs: environment(from.envs)?,
        mounts,
        devices: from.devices.iter().map(device).collect::<Result<_, _>>()?,
        cdi_devices: from.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: from.labels,
        annotations: from.annotations,
        log_path: match from.log_path.as_str() {
            "" => None,
            path => Some(relative_path(path, "config.log_path")?),
        },
        stdin: match (from.stdin, from.stdin_once) {
            (false, _) => StdinMode::Closed,
            (true, false) => StdinMode::Open,
            (true, true) => StdinMode::Once,
        },
        terminal: if from.tty { Terminal::Pty } else { Terminal::Pipes },
        resources: linux
            .resources
            .as_ref()
            .map(|from| resources(from, "config.linux.resources"))
            .transpose()?
            .unwrap_or_default(),
        security,
        stop_signal: stop_signal(from.stop_signal)?,
    })
}

/// Arguments are C strings in the end: no zero bytes (execve(2)).
fn arguments(from: Vec<String>, field: &str) -> Result<Vec<String>, Invalid> {
    match from.iter().find(|argument| argument.contains('\0')) {
        Some(argument) => Err(invalid(field, format!("{argument:?} holds a zero byte"))),
        None => Ok(from),
    }
}

fn environment(from: Vec<v1::KeyValue>) -> Result<Vec<(String, Vec<u8>)>, Invalid> {
    let field = "config.envs";
    let mut environment = Vec::with_capacity(from.len());
    for v1::KeyValue { key, value } in from {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(field, format!("{key:?} is not a variable's name")));
        }
        if value.contains(&0) {
            return Err(invalid(field, format!("the value of {key:?} holds a zero byte")));
        }
        environment.push((key, value));
    }
    Ok(environment)
}

fn mounts(from: &[v1::Mount], privileged: bool) -> Result<Vec<MountConfig>, Invalid> {
    from.iter()
        .enumerate()
        .map(|(index, mount)| self::mount(mount, privileged, &format!("config.mounts[{index}]")))
        .collect()
}

fn mount(from: &v1::Mount, privileged: bool, field: &str) -> Result<MountConfig, Invalid> {
    let at = |name: &str| format!("{field}.{name}");
    let container_path = name(&from.container_path, &at("container_path"))?;
    let id_mappings = match (from.uid_mappings.is_empty(), from.gid_mappings.is_empty()) {
        (true, true) => None,
        _ => {
            let fields = [at("uidMappings"), at("gidMappings")];
            let [uids, gids] = fields.each_ref().map(String::as_str);
            Some(id_mappings(&from.uid_mappings, &from.gid_mappings, [uids, gids])?)
        }
    };
    if !from.mount_options.is_empty() {
        return Err(invalid(at("mount_options"), "mount options are not supported by this version"));
    }
    let source = match &from.image {
        Some(image) if !image.image.is_empty() => {
            if !from.host_path.is_empty() {
                return Err(invalid(at("host_path"), "is given together with image"));
            }
            MountSource::Image {
                image: line(&image.image, &at("image"))?,
                sub_path: relative_path(&from.image_sub_path, &at("image_sub_path"))?
                    .to_string_lossy()
                    .into_owned(),
            }
        }
        _ => MountSource::Host(absolute_path(&from.host_path, &at("host_path"))?),
    };
    let propagation = match v1::MountPropagation::try_from(from.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => MountPropagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => MountPropagation::HostToContainer,
        Ok(v1::MountPropagation::PropagationBidirectional) if privileged => MountPropagation::Bidirectional,
        Ok(v1::MountPropagation::PropagationBidirectional) => {
            return Err(invalid(at("propagation"), "bidirectional is for privileged containers only"));
        }
        Err(_) => {
            return Err(invalid(at("propagation"), format!("{} is not a propagation", from.propagation)));
        }
    };
    let access = match (from.readonly, from.recursive_read_only) {
        (false, false) => MountAccess::ReadWrite,
        (true, false) => MountAccess::ReadOnly,
        (true, true) if propagation == MountPropagation::Private => MountAccess::RecursiveReadOnly,
        (true, true) => {
            return Err(invalid(at("recursive_read_only"), "needs private propagation"));
        }
        (false, true) => return Err(invalid(at("recursive_read_only"), "needs readonly too")),
    };
    Ok(MountConfig {
        container_path,
        source,
        access,
        propagation,
        selinux_relabel: from.selinux_relabel,
        id_mappings,
    })
}

fn device(from: &v1::Device) -> Result<DeviceConfig, Invalid> {
    let field = "config.devices";
    let host_path = absolute_path(&from.host_path, field)?;
    let container_path = match from.container_path.as_str() {
        "" => from.host_path.clone(),
        path => absolute_path(path, field)?.to_string_lossy().into_owned(),
    };
    let permissions = match from.permissions.as_str() {
        "" => "rwm".to_owned(),
        given if given.chars().all(|letter| "rwm".contains(letter)) => given.to_owned(),
        given => return Err(invalid(field, format!("permissions {given:?} are not made of r, w and m"))),
    };
    Ok(DeviceConfig { container_path, host_path, permissions })
}

#[expect(deprecated, reason = "old clients still fill these in")]
fn container_security(from: v1::LinuxContainerSecurityContext) -> Result<ContainerSecurity, Invalid> {
    let field = |name: &str| format!("config.linux.security_context.{name}");
    let capabilities = from.capabilities.unwrap_or_default();
    let ids_of = |value: &Option<v1::Int64Value>, name: &str| {
        value.as_ref().map(|value| id(value.value, &field(name))).transpose()
    };
    let run_as = match (ids_of(&from.run_as_user, "run_as_user")?, from.run_as_username.as_str()) {
        (Some(uid), _) => Some(RunAs::Uid(uid)),
        (None, "") => None,
        (None, user) => Some(RunAs::Name(line(user, &field("run_as_username"))?)),
    };
    let run_as_group = ids_of(&from.run_as_group, "run_as_group")?;
    if run_as_group.is_some() && run_as.is_none() {
        return Err(invalid(field("run_as_group"), "is given without run_as_user or run_as_username"));
    }
    let userns_options = from.namespace_options.as_ref().and_then(|options| options.userns_options.as_ref());
    let user = user_mode(userns_options, &field("namespace_options.userns_options"))?;
    Ok(ContainerSecurity {
        privileged: from.privileged,
        add_capabilities: capabilities.add_capabilities.iter().map(|name| capability(name)).collect(),
        drop_capabilities: capabilities.drop_capabilities.iter().map(|name| capability(name)).collect(),
        pid: from
            .namespace_options
            .as_ref()
            .map(|options| pid_mode(options, &field("namespace_options")))
            .transpose()?,
        user,
        run_as,
        run_as_group,
        supplemental_groups: ids(&from.supplemental_groups, &field("supplemental_groups"))?,
        supplemental_groups_policy: match v1::SupplementalGroupsPolicy::try_from(
            from.supplemental_groups_policy,
        ) {
            Ok(v1::SupplementalGroupsPolicy::Merge) => GroupsPolicy::Merge,
            Ok(v1::SupplementalGroupsPolicy::Strict) => GroupsPolicy::Strict,
            Err(_) => return Err(invalid(field("supplemental_groups_policy"), "is not a policy")),
        },
        readonly_rootfs: from.readonly_rootfs,
        no_new_privs: from.no_new_privs,
        masked_paths: paths(&from.masked_paths, &field("masked_paths"))?,
        readonly_paths: paths(&from.readonly_paths, &field("readonly_paths"))?,
        seccomp: profile(
            from.seccomp,
            &from.seccomp_profile_path,
            SecurityProfile::Unconfined,
            &field("seccomp"),
        )?,
        apparmor: profile(
            from.apparmor,
            &from.apparmor_profile,
            SecurityProfile::RuntimeDefault,
            &field("apparmor"),
        )?,
        selinux: selinux(from.selinux_options, &field("selinux_options"))?,
    })
}

/// `CAP_NET_RAW`, `net_raw` and `NET_RAW` are the same.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
}

fn paths(from: &[String], field: &str) -> Result<Vec<String>, Invalid> {
    from.iter().map(|path| Ok(absolute_path(path, field)?.to_string_lossy().into_owned())).collect()
}

/// The protocol numbers signals in its own way; kernel names are what both sides know.
fn stop_signal(from: i32) -> Result<Option<String>, Invalid> {
    match v1::Signal::try_from(from) {
        Ok(v1::Signal::RuntimeDefault) => Ok(None),
        Ok(signal) => Ok(Some(crate::show::signal_name(signal))),
        Err(_) => Err(invalid("config.stop_signal", format!("{from} is not a signal"))),
    }
}
