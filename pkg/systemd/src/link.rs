//! One connection to the bus, and what is told on it.

use futures::StreamExt;
use tokio::task::AbortHandle;
use zbus::{Connection, OwnedObjectPath, connection::Builder, proxy::CacheProperties};

use crate::{
    CALL_MAX,
    error::ConnectError,
    jobs::{Ends, Jobs},
    manager::ManagerProxy,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    manager: ManagerProxy<'static>,
    jobs: Jobs,
    listener: AbortHandle,
}

impl Link {
    pub(crate) async fn open(bus: Builder<'_>) -> Result<Link, ConnectError> {
        let connection = bus.method_timeout(CALL_MAX).build().await.map_err(ConnectError::Bus)?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(ConnectError::Bus)?;
        let mut removed = manager.receive_job_removed().await.map_err(ConnectError::Bus)?;
        manager.subscribe().await.map_err(ConnectError::Systemd)?;
        let jobs = Jobs::default();
        let told = jobs.clone();
        let listener = tokio::spawn(async move {
            while let Some(signal) = removed.next().await {
                match signal.args() {
                    Ok(args) => told.ended(&args.unit, &args.job, &args.result),
                    Err(err) => {
                        tracing::warn!(%err, "systemd told the end of a job in no form that is known")
                    }
                }
            }
        });
        Ok(Link { connection, manager, jobs, listener: listener.abort_handle() })
    }

    pub(crate) fn manager(&self) -> &ManagerProxy<'static> {
        &self.manager
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Waits for the end of a job; `None` if the connection ends before.
    pub(crate) async fn wait(&self, ends: &mut Ends, job: &OwnedObjectPath) -> Option<String> {
        tokio::select! {
            result = ends.of(job) => result,
            () = self.connection.closed() => None,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
