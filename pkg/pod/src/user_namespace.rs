//! User namespaces of pods.

use carpel_spec::config::{IdMappings, PodOrNode, SandboxConfig};
use carpel_sys::userns::{self, IdRange, Namespaces, UsernsError};

/// Makes the user namespace that a pod asks for, and what it is to own. Blocks shortly.
pub(crate) fn make(config: &SandboxConfig) -> Result<Option<Namespaces>, UsernsError> {
    let Some(IdMappings { uids, gids }) = config.namespaces.user.mappings() else { return Ok(None) };
    let range =
        |range: carpel_spec::config::IdRange| IdRange { host_id: range.host_id, length: range.length };
    let request = userns::Request {
        uids: range(uids),
        gids: range(gids),
        network_and_uts: config.namespaces.network == PodOrNode::Pod,
        ipc: config.namespaces.ipc == PodOrNode::Pod,
    };
    userns::create(&request).map(Some)
}
