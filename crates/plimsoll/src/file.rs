//! Kernel files of any length as embedded-io streams.

use rustix::fd::OwnedFd;

/// A file to read, without a buffer of its own.
pub(crate) struct File(pub(crate) OwnedFd);

/// Reading failed.
#[derive(Debug)]
pub(crate) struct Error;

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("reading failed")
    }
}

impl core::error::Error for Error {}

impl embedded_io::Error for Error {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::Other
    }
}

impl embedded_io::ErrorType for File {
    type Error = Error;
}

impl embedded_io::Read for File {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        loop {
            match rustix::io::read(&self.0, &mut *buf) {
                Ok(read) => return Ok(read),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Error),
            }
        }
    }
}
