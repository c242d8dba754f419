//! What goes wrong between systemd and us.

use std::{future::Future, time::Duration};

use thiserror::Error;

use crate::CALL_MAX;

/// Why systemd is not reached.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Something else is process 1.
    #[error("systemd is not process 1 of this machine")]
    NotBooted,
    /// There is no bus, or it refuses.
    #[error("connect to the system bus (D-Bus)")]
    Bus(#[source] zbus::Error),
    /// The bus is there, and systemd does not answer on it.
    #[error("subscribe to systemd's signals on the system bus")]
    Systemd(#[source] zbus::Error),
    /// Nobody answers.
    #[error("connect to systemd on the system bus: no answer within {CALL_MAX:?}")]
    Timeout,
}

/// Why a unit is not as wanted.
#[derive(Debug, Error)]
pub enum UnitError {
    /// There is no connection, and no new one.
    #[error("{what}")]
    Connect {
        /// Operation, unit and slice.
        what: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// systemd said why not, or the bus did.
    #[error("{what}")]
    Refused {
        /// Operation, unit and slice.
        what: String,
        /// What was answered.
        #[source]
        source: Box<zbus::Error>,
    },
    /// It was tried, and ended otherwise than `done`.
    #[error("{what}: systemd's job ended as {result:?}")]
    Job {
        /// Operation, unit and slice.
        what: String,
        /// `canceled`, `timeout`, `failed`, `dependency` or `skipped`.
        result: String,
    },
    /// The connection ended before the job did.
    #[error("{what}: the connection to the system bus was lost")]
    Lost {
        /// Operation, unit and slice.
        what: String,
    },
    /// It took too long.
    #[error("{what}: not done within {CALL_MAX:?}")]
    Timeout {
        /// Operation, unit and slice.
        what: String,
    },
}

/// What is being done, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing<'a> {
    pub(crate) operation: &'static str,
    pub(crate) unit: &'a str,
    /// Empty where it does not matter.
    pub(crate) slice: &'a str,
}

impl Doing<'_> {
    fn what(self) -> String {
        let Doing { operation, unit, slice } = self;
        if slice.is_empty() {
            return format!("{operation} unit {unit}");
        }
        format!("{operation} unit {unit} in slice {slice}")
    }

    pub(crate) fn connect(self, source: ConnectError) -> UnitError {
        UnitError::Connect { what: self.what(), source }
    }

    pub(crate) fn refused(self, source: zbus::Error) -> UnitError {
        UnitError::Refused { what: self.what(), source: Box::new(source) }
    }

    pub(crate) fn job(self, result: String) -> UnitError {
        UnitError::Job { what: self.what(), result }
    }

    pub(crate) fn lost(self) -> UnitError {
        UnitError::Lost { what: self.what() }
    }
}

/// Puts a deadline on the whole of an operation.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: Doing<'_>,
    work: impl Future<Output = Result<T, UnitError>>,
) -> Result<T, UnitError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(UnitError::Timeout { what: doing.what() }),
    }
}

/// Whether an answer is the error of this name.
pub(crate) fn is(err: &zbus::Error, name: &str) -> bool {
    matches!(err, zbus::Error::MethodError(answered, ..) if answered.as_str() == name)
}
