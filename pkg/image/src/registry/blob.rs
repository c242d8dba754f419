//! Streaming a blob: hashed as it comes, resumed where it broke, taken from the next host if one fails.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use http::header::CONTENT_RANGE;

use super::body::Body;
use super::error::RegistryError;
use super::{Connected, Role, Session, length};
use crate::digest::Hasher;
use crate::manifest::Descriptor;
use crate::pipe::PipeWriter;

/// Bytes still read of a blob that nobody unpacks any more, to learn whether its content is what the digest
/// says: a layer that does not unpack is either hostile or was damaged on the way.
const DRAIN_BYTES_MAX: u64 = 64 << 20;

/// One blob on its way.
pub(crate) struct Transfer<'a> {
    descriptor: &'a Descriptor,
    /// `None` once the reader is gone.
    pipe: Option<PipeWriter>,
    arrived: &'a AtomicU64,
    hasher: Hasher,
    offset: u64,
    /// Hosts that content came from.
    sources: Vec<usize>,
}

/// How a transfer ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything came and has the right digest.
    Verified,
    /// The reader went away and there was too much left to read on for the digest.
    Abandoned,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(descriptor: &'a Descriptor, pipe: PipeWriter, arrived: &'a AtomicU64) -> Transfer<'a> {
        let hasher = Hasher::new(descriptor.digest.algorithm());
        arrived.store(0, Ordering::Relaxed);
        Transfer { descriptor, pipe: Some(pipe), arrived, hasher, offset: 0, sources: Vec::new() }
    }

    fn left(&self) -> u64 {
        self.descriptor.size - self.offset
    }

    /// Takes a piece. False: nothing more is wanted.
    async fn take(&mut self, chunk: bytes::Bytes) -> bool {
        self.hasher.update(&chunk);
        self.offset += chunk.len() as u64;
        self.arrived.store(self.offset, Ordering::Relaxed);
        if let Some(pipe) = &self.pipe
            && pipe.write(chunk).await.is_err()
        {
            self.pipe = None;
        }
        self.pipe.is_some() || self.left() <= DRAIN_BYTES_MAX
    }
}

impl Session {
    /// Streams a blob into the pipe. `bad` are hosts whose content for it was wrong before: they are not
    /// asked, and those that served wrong content now are added.
    pub(crate) async fn blob(
        &self,
        mut transfer: Transfer<'_>,
        bad: &mut Vec<usize>,
    ) -> Result<Outcome, RegistryError> {
        let mut last = RegistryError::NoHost(self.registry.clone());
        for (number, host) in self.hosts.iter().enumerate() {
            if !host.host.capabilities.pull || bad.contains(&number) {
                continue;
            }
            match self.blob_from(number, host, &mut transfer).await {
                Ok(Outcome::Abandoned) => return Ok(Outcome::Abandoned),
                Ok(Outcome::Verified) => return self.verify(host, transfer, bad).await,
                Err(error) => {
                    tracing::debug!(host = %host.host.origin, error = &error as &dyn std::error::Error, "host failed");
                    last = error;
                }
            }
        }
        for url in transfer.descriptor.foreign_urls() {
            // Named by the manifest, not by the operator: a place for bytes that are checked, for nothing
            // else. Nothing is sent there that identifies this node or its user.
            match self.foreign(url, &mut transfer).await {
                Ok(Outcome::Abandoned) => return Ok(Outcome::Abandoned),
                Ok(Outcome::Verified) => {
                    if let Some(host) = self.hosts.first() {
                        return self.verify(host, transfer, bad).await;
                    }
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Tries one host until it gives up, going on where the last try ended.
    async fn blob_from(
        &self,
        number: usize,
        host: &Connected,
        transfer: &mut Transfer<'_>,
    ) -> Result<Outcome, RegistryError> {
        let path = format!("{}/blobs/{}", self.repository, transfer.descriptor.digest);
        let mut tries = 0;
        loop {
            tries += 1;
            let before = transfer.offset;
            let outcome = self.blob_once(host, &path, transfer).await;
            if transfer.offset > before && !transfer.sources.contains(&number) {
                transfer.sources.push(number);
            }
            let error = match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // What brings the transfer forward may be tried as often as it does.
            if transfer.offset - before >= self.patience.bytes {
                tries = 1;
            }
            if !self.pause(&error, tries).await {
                return Err(error);
            }
        }
    }

    async fn blob_once(
        &self,
        host: &Connected,
        path: &str,
        transfer: &mut Transfer<'_>,
    ) -> Result<Outcome, RegistryError> {
        let from = (transfer.offset > 0).then_some(transfer.offset);
        let (response, url) = self.get(host, path, from).await?;
        let size = transfer.descriptor.size;
        let skip = match (response.status(), from) {
            (StatusCode::PARTIAL_CONTENT, Some(from)) => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
                if range.is_none_or(|range| !range.starts_with(&format!("bytes {from}-"))) {
                    let status = StatusCode::PARTIAL_CONTENT.as_u16();
                    return Err(RegistryError::Status { url, status, retry_after: None });
                }
                0
            }
            // A host without ranges sends everything again.
            _ => transfer.offset,
        };
        let expected = size - (transfer.offset - skip);
        if let Some(got) = length(response.headers()).filter(|got| *got != expected) {
            return Err(RegistryError::Length { url, got, expected });
        }
        read(Body::new(response, url, self.patience), skip, transfer).await
    }

    async fn foreign(&self, url: &str, transfer: &mut Transfer<'_>) -> Result<Outcome, RegistryError> {
        let refused = || RegistryError::Url(url.chars().take(256).collect());
        let uri: http::Uri = url.parse().map_err(|_| refused())?;
        let origin = super::Origin::of(&uri).ok_or_else(refused)?;
        if origin.scheme != super::Scheme::Https {
            return Err(refused());
        }
        let bare_host = super::Host {
            origin,
            path: String::new(),
            capabilities: super::hosts::Capabilities { pull: true, resolve: false },
            tls: super::hosts::TlsFiles::default(),
            headers: Vec::new(),
            dial_timeout: std::time::Duration::from_secs(30),
            role: Role::Mirror,
            namespace: None,
        };
        let config = self.config.clone();
        let failed = |source| RegistryError::Hosts {
            registry: self.registry.clone(),
            source: std::sync::Arc::new(source),
        };
        let host = match tokio::task::spawn_blocking(move || Connected::new(bare_host, &config)).await {
            Ok(host) => host.map_err(failed)?,
            Err(_) => return Err(RegistryError::NoHost(self.registry.clone())),
        };
        let (response, _) = self.follow(&host, &uri, None, None).await?;
        let shown = super::bare(&uri);
        if response.status() != StatusCode::OK {
            // Not even a challenge is answered.
            return Err(self.refusal(&response, shown, false));
        }
        let skip = transfer.offset;
        read(Body::new(response, shown, self.patience), skip, transfer).await
    }

    /// Compares the digest of all that came, and only then tells the reader that this was all.
    async fn verify(
        &self,
        host: &Connected,
        transfer: Transfer<'_>,
        bad: &mut Vec<usize>,
    ) -> Result<Outcome, RegistryError> {
        let actual = transfer.hasher.finish();
        let expected = transfer.descriptor.digest.clone();
        if actual != expected {
            bad.extend(transfer.sources);
            let url = format!("{}{}/{}/blobs/{expected}", host.host.origin, host.host.path, self.repository);
            return Err(RegistryError::DigestMismatch { url, expected, actual });
        }
        if let Some(pipe) = transfer.pipe {
            // A reader that is gone has its own error to report.
            let _ = pipe.finish().await;
        }
        Ok(Outcome::Verified)
    }
}

/// Reads a body into the transfer, leaving out its first `skip` bytes.
async fn read(mut body: Body, mut skip: u64, transfer: &mut Transfer<'_>) -> Result<Outcome, RegistryError> {
    while let Some(mut chunk) = body.chunk().await? {
        let drop = skip.min(chunk.len() as u64);
        skip -= drop;
        let rest = chunk.split_off(drop as usize);
        if rest.is_empty() {
            continue;
        }
        if rest.len() as u64 > transfer.left() {
            let expected = transfer.descriptor.size;
            let got = transfer.offset + rest.len() as u64;
            return Err(RegistryError::Length { url: body.url().to_owned(), got, expected });
        }
        if !transfer.take(rest).await {
            return Ok(Outcome::Abandoned);
        }
    }
    if transfer.left() > 0 {
        let (got, expected) = (transfer.offset, transfer.descriptor.size);
        return Err(RegistryError::Truncated { url: body.url().to_owned(), got, expected });
    }
    Ok(Outcome::Verified)
}
