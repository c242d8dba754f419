# Carpel's default AppArmor profile: what a container may do whose profile is RuntimeDefault. It needs no other
# file, so that it loads on a host that has the parser and nothing else.
@ABI@
profile @NAME@ flags=(attach_disconnected, mediate_deleted) {
  # Files, capabilities and sockets are limited elsewhere (rootfs and mounts, capability sets, seccomp, network
  # namespace); denials below are stronger than these.
  file,
  capability,
  network,
  unix,
  umount,
  deny mount,
  deny pivot_root,

  # Signals and tracing stay in the family; the host and the daemon reach in, never the other way round.
  signal (send, receive) peer=@NAME@,
  signal (receive) peer=unconfined,
  ptrace (trace, read, tracedby, readby) peer=@NAME@,
  ptrace (tracedby, readby) peer=unconfined,
@DAEMON@
  # Of /proc only processes' own folders can be written to, so no setting of the kernel (/proc/sys) and no trigger.
  deny /proc/* wkl,
  deny /proc/[^1-9]*/** wkl,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwkl,

  # Of /sys only the cgroup tree can be written to. A denial cannot have exceptions, hence letter by letter.
  deny /sys/[^f]** wkl,
  deny /sys/f[^s]** wkl,
  deny /sys/fs/[^c]** wkl,
  deny /sys/fs/c[^g]** wkl,
  deny /sys/fs/cg[^r]** wkl,
  deny /sys/fs/cgr[^o]** wkl,
  # Secrets of the host and side channels.
  deny /sys/firmware/** rwkl,
  deny /sys/kernel/security/** rwkl,
  deny /sys/devices/virtual/powercap/** rwkl,
}
