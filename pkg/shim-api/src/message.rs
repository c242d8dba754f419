//! The messages themselves: requests of the daemon, replies and events of the shim.

use crate::plan::{ContainerPlan, ProcessPlan, Resources, SandboxPlan};
use crate::record::{ExitRecord, User};

/// One request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// What is asked. Absent when the sender is newer than the receiver: answered by `Unsupported`.
    #[prost(oneof = "request::Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub body: Option<request::Body>,
}

/// The kinds of [`Request`].
pub mod request {
    use super::{
        Attach, ContainerRef, Create, Exec, ExecRef, Hello, Kill, PullDown, Resize, SandboxPlan, Snapshot,
        Update,
    };

    /// What is asked.
    // One is alive at a time, and taken apart at once.
    #[allow(clippy::large_enum_variant)]
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// First on every connection. Reply: `Hello`. From then on events are sent to it.
        #[prost(message, tag = "1")]
        Hello(Hello),
        /// Makes the pod's namespaces and cgroup. Fd 0, if any: the network namespace to join.
        /// Once per shim. Reply: `Sandbox`.
        #[prost(message, tag = "2")]
        Sandbox(SandboxPlan),
        /// Everything up to the init process's execve. Fd 0, if any, is closed when the container has
        /// ended and its exit is recorded, or could not be made. Reply: `Created`.
        #[prost(message, tag = "3")]
        Create(Create),
        /// Releases the init process. Reply: `Started`, once execve succeeded or failed.
        #[prost(message, tag = "4")]
        Start(ContainerRef),
        /// Sends a signal. A container that has exited is no error. Reply: `Done`.
        #[prost(message, tag = "5")]
        Kill(Kill),
        /// Forgets a container that is Created (killed first) or Exited: its cgroup and exit record
        /// go. An unknown id is no error. Reply: `Done`.
        #[prost(message, tag = "6")]
        Delete(ContainerRef),
        /// Runs one more process in a running container. Reply: `ExecStarted` with its stdio fds.
        #[prost(message, tag = "7")]
        Exec(Exec),
        /// Kills an exec with every process that it started, and nothing else. Reply: `Done`.
        #[prost(message, tag = "8")]
        KillExec(ExecRef),
        /// Sets a terminal's size. Reply: `Done`.
        #[prost(message, tag = "9")]
        Resize(Resize),
        /// Closes the write end of a container's stdin. Reply: `Done`.
        #[prost(message, tag = "10")]
        CloseStdin(ContainerRef),
        /// Opens the log anew at its path, between two records. Reply: `Done`.
        #[prost(message, tag = "11")]
        ReopenLog(ContainerRef),
        /// Changes limits; all or nothing. Reply: `Done`.
        #[prost(message, tag = "12")]
        Update(Update),
        /// Joins a container's stdio. Reply: `Attached` with a fd for each stream that was asked for.
        #[prost(message, tag = "13")]
        Attach(Attach),
        /// All that the shim knows. Reply: `Snapshot`.
        #[prost(message, tag = "14")]
        Snapshot(Snapshot),
        /// Kills every container and ends the shim after the reply. Reply: `Done`.
        #[prost(message, tag = "15")]
        Shutdown(PullDown),
        /// Kills every container of the pod and keeps the records. Reply: `Done`, when all are dead.
        #[prost(message, tag = "16")]
        StopAll(PullDown),
    }
}

/// One reply.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The answer.
    #[prost(oneof = "reply::Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<reply::Body>,
}

/// The kinds of [`Reply`].
pub mod reply {
    use super::{
        Attached, Created, Done, ExecStarted, Failure, HelloReply, SandboxReply, SnapshotReply, Started,
    };

    /// The answer.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// To any request: it was not done, and nothing of it is left.
        #[prost(message, tag = "1")]
        Failure(Failure),
        /// Done, and nothing to tell.
        #[prost(message, tag = "2")]
        Done(Done),
        /// To `Hello`.
        #[prost(message, tag = "3")]
        Hello(HelloReply),
        /// To `Sandbox`.
        #[prost(message, tag = "4")]
        Sandbox(SandboxReply),
        /// To `Create`.
        #[prost(message, tag = "5")]
        Created(Created),
        /// To `Start`.
        #[prost(message, tag = "6")]
        Started(Started),
        /// To `Exec`.
        #[prost(message, tag = "7")]
        ExecStarted(ExecStarted),
        /// To `Attach`.
        #[prost(message, tag = "8")]
        Attached(Attached),
        /// To `Snapshot`.
        #[prost(message, tag = "9")]
        Snapshot(SnapshotReply),
    }
}

/// Something happened in the pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// What happened.
    #[prost(oneof = "event::Body", tags = "1, 2")]
    pub body: Option<event::Body>,
}

/// The kinds of [`Event`].
pub mod event {
    use super::{ContainerExited, ExecExited};

    /// What happened.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// A container's init process ended; its exit record is on disk and its log is complete.
        #[prost(message, tag = "1")]
        ContainerExited(ContainerExited),
        /// An exec's process ended.
        #[prost(message, tag = "2")]
        ExecExited(ExecExited),
    }
}

/// The versions that a side speaks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// The newest.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The oldest.
    #[prost(uint32, tag = "2")]
    pub version_oldest: u32,
}

/// The shim's side of the greeting.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    /// The version that both speak from now on.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The shim's package version, for people.
    #[prost(string, tag = "2")]
    pub shim_version: String,
    /// The shim's process id, in the daemon's pid namespace.
    #[prost(int32, tag = "3")]
    pub pid: i32,
}

/// The pod is set up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxReply {
    /// The micro-init of a shared PID namespace; zero where there is none.
    #[prost(int32, tag = "1")]
    pub init_pid: i32,
}

/// Names a container of the pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRef {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Names an exec of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecRef {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The exec's id, chosen by the daemon.
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

/// Makes a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Create {
    /// The container's id, 64 lower-case hex digits.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What to make.
    #[prost(message, required, tag = "2")]
    pub plan: ContainerPlan,
    /// Where the log goes, absolute; empty: output is read and dropped.
    #[prost(string, tag = "3")]
    pub log_path: String,
    /// The longest log record's content in bytes; longer lines are split with `P` tags. Zero: 16384.
    #[prost(uint32, tag = "4")]
    pub log_line_max_bytes: u32,
    /// Whether the init process gets a stdin that `Attach` can write to; else it reads `/dev/null`.
    #[prost(bool, tag = "5")]
    pub stdin: bool,
    /// Whether stdin closes when the first attached client goes.
    #[prost(bool, tag = "6")]
    pub stdin_once: bool,
}

/// A container waits before its execve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Created {
    /// The init process, in the daemon's pid namespace.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Who it runs as, resolved from the image's own files.
    #[prost(message, optional, tag = "2")]
    pub user: Option<User>,
}

/// A container runs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Started {
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub started_at_ns: i64,
}

/// Sends a signal to a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Kill {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The kernel's number of the signal.
    #[prost(int32, tag = "2")]
    pub signal: i32,
    /// To every process of the container, not only to its init process.
    #[prost(bool, tag = "3")]
    pub all: bool,
}

/// Runs a process in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exec {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Chosen by the daemon, unique within the container.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// What to run. Where a part is absent, the container's own is taken: see [`ExecPlan`].
    #[prost(message, required, tag = "3")]
    pub plan: ExecPlan,
    /// A stdin is wanted: the reply carries its write end.
    #[prost(bool, tag = "4")]
    pub stdin: bool,
    /// Stdout is wanted: the reply carries its read end; else it goes to `/dev/null`.
    #[prost(bool, tag = "5")]
    pub stdout: bool,
    /// Stderr is wanted, as stdout.
    #[prost(bool, tag = "6")]
    pub stderr: bool,
}

/// What an exec runs: the container's own process with other arguments, or a process of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecPlan {
    /// The command. Its user, capabilities, environment, seccomp program, limits and directory are
    /// the container's init process's, as the shim keeps them.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub args: Vec<Vec<u8>>,
    /// A controlling terminal.
    #[prost(bool, tag = "2")]
    pub terminal: bool,
    /// Everything about the process said anew, instead of the container's (`args` is then ignored).
    #[prost(message, optional, tag = "3")]
    pub process: Option<ProcessPlan>,
}

/// An exec runs. Fds of the reply, in this order and only those asked for: with a terminal its
/// master alone; else stdin's write end, stdout's and stderr's read ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecStarted {
    /// The process, in the daemon's pid namespace.
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

/// Sets the size of a container's or an exec's terminal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resize {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The exec's id; empty for the container's own terminal.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Columns.
    #[prost(uint32, tag = "3")]
    pub width: u32,
    /// Rows.
    #[prost(uint32, tag = "4")]
    pub height: u32,
}

/// Changes a container's limits.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Update {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The new limits; an absent one stays.
    #[prost(message, required, tag = "2")]
    pub resources: Resources,
}

/// Joins a container's stdio.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attach {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Streams wanted. A stream that the container does not have is an error.
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    /// See `stdin`.
    #[prost(bool, tag = "3")]
    pub stdout: bool,
    /// See `stdin`.
    #[prost(bool, tag = "4")]
    pub stderr: bool,
}

/// Attached. Fds of the reply, only those asked for: stdin's write end, stdout's and stderr's read
/// ends. A reader that does not keep up loses output; it never slows the container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attached {}

/// Asks for a [`SnapshotReply`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {}

/// No fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PullDown {}

/// No fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {}

/// All that a shim knows, for a daemon that has just started.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotReply {
    /// Whether `Sandbox` was carried out.
    #[prost(bool, tag = "1")]
    pub ready: bool,
    /// The micro-init of a shared PID namespace; zero where there is none.
    #[prost(int32, tag = "2")]
    pub init_pid: i32,
    /// Every container that was created and not deleted.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerSnapshot>,
}

/// One container as the shim sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerSnapshot {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Where it is in its life.
    #[prost(enumeration = "ContainerState", tag = "2")]
    pub state: i32,
    /// The init process; zero once it has exited.
    #[prost(int32, tag = "3")]
    pub pid: i32,
    /// Nanoseconds since the Unix epoch; zero before it was started.
    #[prost(int64, tag = "4")]
    pub started_at_ns: i64,
    /// Who it runs as.
    #[prost(message, optional, tag = "5")]
    pub user: Option<User>,
    /// How it ended, if it did.
    #[prost(message, optional, tag = "6")]
    pub exit: Option<ExitRecord>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    /// Waits before its execve.
    Created = 0,
    /// Its init process runs.
    Running = 1,
    /// Its init process has ended.
    Exited = 2,
}

/// A container ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerExited {
    /// How.
    #[prost(message, required, tag = "1")]
    pub exit: ExitRecord,
}

/// An exec ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecExited {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The exec's id.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// 0–255; 128 plus the signal's number when a signal ended it.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    /// What sort of failure, for programs.
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub kind: i32,
    /// What failed, on what, and why: one line for people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// What sort of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum FailureKind {
    /// The kernel refused, or a bug: see the message.
    Internal = 0,
    /// The request makes no sense, whatever the state.
    Invalid = 1,
    /// No such container or exec.
    NotFound = 2,
    /// Not in this state (starting what runs, exec in what has exited).
    WrongState = 3,
    /// The id is taken.
    AlreadyExists = 4,
    /// This shim does not know the request.
    Unsupported = 5,
    /// The command could not be executed: absent, not executable, a bad interpreter. Exit code 128.
    CommandNotExecutable = 6,
    /// Out of memory, file descriptors, processes or disk.
    Exhausted = 7,
    /// A mount was refused: its source is absent or its options are not supported.
    Mount = 8,
    /// The user or group is not to be found in the image, or its files are not usable.
    User = 9,
    /// An image volume was refused: its layers cannot be mounted, or have no such path.
    ImageVolume = 10,
}
