//! Reading a response body under a bound and a clock.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::error::RegistryError;
use crate::config::Config;

/// How long a transfer may go without progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) timeout: Duration,
    /// Bytes within `timeout` that count as progress: a byte a second is a stall, too.
    pub(crate) bytes: u64,
}

impl Patience {
    pub(crate) fn of(config: &Config) -> Patience {
        let timeout = match config.progress_timeout {
            Duration::ZERO => Duration::from_secs(300),
            timeout => timeout,
        };
        Patience { timeout, bytes: config.limits.progress_bytes }
    }
}

/// A body being read.
pub(crate) struct Body {
    incoming: Incoming,
    url: String,
    patience: Patience,
    /// Time waited for the registry, and bytes that came, since the last progress. Time that we take
    /// ourselves, with a slow disk, does not count.
    waited: Duration,
    came: u64,
}

impl Body {
    pub(crate) fn new(response: Response<Incoming>, url: String, patience: Patience) -> Body {
        let incoming = response.into_body();
        Body { incoming, url, patience, waited: Duration::ZERO, came: 0 }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let began = Instant::now();
            let left = self.patience.timeout.saturating_sub(self.waited);
            let frame = tokio::time::timeout(left, self.incoming.frame()).await.map_err(|_| {
                RegistryError::Stalled { url: self.url.clone(), after: self.patience.timeout }
            })?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|source| RegistryError::BrokenOff {
                url: self.url.clone(),
                source: source.into(),
            })?;
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            self.waited += began.elapsed();
            self.came += data.len() as u64;
            if self.came >= self.patience.bytes {
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, if it is not larger than `max`.
    pub(crate) async fn collect(mut self, max: u64) -> Result<Vec<u8>, RegistryError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() as u64 + chunk.len() as u64 > max {
                return Err(RegistryError::TooLarge { url: self.url, max });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}
