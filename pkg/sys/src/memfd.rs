//! Programs in sealed memory: memfd_create(2).
//!
//! A process that enters a container can be reached from inside by `/proc/<pid>/exe`, and a program
//! file that root can write to could be overwritten through it (CVE-2019-5736). A sealed memfd cannot
//! be written to by anybody, and all processes that run it share its pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// Copies a program into sealed memory, close-on-exec, to be run by [`crate::spawn`].
///
/// Made once per program, not once per process.
pub fn sealed_program(name: &str, program: &mut File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is asked for where it is known (Linux 6.3), because vm.memfd_noexec may make the
    // other kind the default.
    let memfd = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    let mut memfd = File::from(memfd);
    io::copy(program, &mut memfd)?;
    fchmod(memfd.as_fd(), rustix::fs::Mode::from_raw_mode(0o500))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&memfd, seals)?;
    Ok(memfd.into())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::os::fd::AsRawFd;

    use super::sealed_program;

    #[test]
    fn a_sealed_program_cannot_be_written_to() {
        let mut program = File::open("/proc/self/exe").expect("open this program");
        let sealed = sealed_program("test", &mut program).expect("seal");
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        let length = fs::metadata(&path).expect("stat").len();
        assert_eq!(length, program.metadata().expect("stat").len());
        let mut writable = OpenOptions::new().write(true).open(&path).expect("root may open it");
        assert!(std::io::Write::write(&mut writable, b"x").is_err());
        assert!(writable.set_len(0).is_err());
    }
}
