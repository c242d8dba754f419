//! The operator's service: what `carpel` needs of the daemon and CRI has no word for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use carpel_image::{Images, LayerProgress, LayerStage, PullProgress, PullStage, Reference};
use carpel_proto::operator::{self, operator_server::Operator};
use carpel_streaming::Server as Streaming;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{parse::invalid, status::ToStatus};

/// How often the pulls are looked at while somebody watches.
const TICK: Duration = Duration::from_millis(100);

/// The operator's service.
#[derive(Debug, Clone)]
pub struct OperatorServer {
    images: Images,
    streaming: Streaming,
    info: Arc<operator::InfoResponse>,
    stopping: CancellationToken,
}

impl OperatorServer {
    /// Over the image room and the streaming server; `info` is what else the daemon tells about itself. Streams end
    /// when `stopping` is cancelled.
    #[must_use]
    pub fn new(
        images: Images,
        streaming: Streaming,
        info: operator::InfoResponse,
        stopping: CancellationToken,
    ) -> OperatorServer {
        OperatorServer { images, streaming, info: Arc::new(info), stopping }
    }
}

#[tonic::async_trait]
impl Operator for OperatorServer {
    async fn info(
        &self,
        _: Request<operator::InfoRequest>,
    ) -> Result<Response<operator::InfoResponse>, Status> {
        let streaming_certificate = self.streaming.certificate().await.unwrap_or_default();
        Ok(Response::new(operator::InfoResponse { streaming_certificate, ..(*self.info).clone() }))
    }

    async fn pulls(
        &self,
        request: Request<operator::PullsRequest>,
    ) -> Result<Response<BoxStream<operator::PullsResponse>>, Status> {
        let reference = match request.into_inner().reference.as_str() {
            "" => None,
            text => Some(complete(text).map_err(|error| error.to_status())?),
        };
        let images = self.images.clone();
        // Polled only while a client listens.
        let messages = stream::unfold(None::<Vec<operator::Pull>>, move |before| {
            let (images, reference) = (images.clone(), reference.clone());
            async move {
                loop {
                    let pulls: Vec<_> = images
                        .pulls()
                        .into_iter()
                        .filter(|pull| reference.as_ref().is_none_or(|asked| *asked == pull.reference))
                        .map(pull)
                        .collect();
                    if before.as_ref() != Some(&pulls) {
                        tokio::time::sleep(if before.is_some() { TICK } else { Duration::ZERO }).await;
                        return Some((Ok(operator::PullsResponse { pulls: pulls.clone() }), Some(pulls)));
                    }
                    tokio::time::sleep(TICK).await;
                }
            }
        });
        Ok(Response::new(Box::pin(messages.take_until(self.stopping.clone().cancelled_owned()))))
    }

    async fn import_image(
        &self,
        request: Request<operator::ImportImageRequest>,
    ) -> Result<Response<operator::ImportImageResponse>, Status> {
        let path = PathBuf::from(request.into_inner().path);
        if !path.is_absolute() {
            return Err(invalid("path", format!("{} is not an absolute path", path.display())).to_status());
        }
        let images = self.images.import(path).await.map_err(|error| error.to_status())?;
        let images = images
            .iter()
            .map(|image| operator::ImportedImage { id: image.id.to_string(), tags: image.repo_tags.clone() })
            .collect();
        Ok(Response::new(operator::ImportImageResponse { images }))
    }
}

/// A reference in the form that pulls are listed by.
fn complete(text: &str) -> Result<String, carpel_image::ReferenceError> {
    let reference = Reference::parse(text)?;
    Ok(match (reference.digest(), reference.repo_tag()) {
        (Some(digest), _) => reference.repo_digest(digest),
        (None, Some(tagged)) => tagged,
        (None, None) => reference.name(),
    })
}

fn pull(from: PullProgress) -> operator::Pull {
    let stage = match from.stage {
        PullStage::Resolving => operator::PullStage::Resolving,
        PullStage::Fetching => operator::PullStage::Fetching,
        PullStage::Committing => operator::PullStage::Committing,
        PullStage::Done => operator::PullStage::Done,
    };
    operator::Pull {
        reference: from.reference,
        stage: stage.into(),
        layers: from.layers.iter().map(layer).collect(),
        elapsed_ms: u64::try_from(from.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

fn layer(from: &LayerProgress) -> operator::PullLayer {
    let stage = match from.stage {
        LayerStage::Waiting => operator::PullLayerStage::Waiting,
        LayerStage::Fetching => operator::PullLayerStage::Fetching,
        LayerStage::Done => operator::PullLayerStage::Done,
        LayerStage::Present => operator::PullLayerStage::Present,
    };
    operator::PullLayer {
        digest: from.digest.to_string(),
        stage: stage.into(),
        bytes: from.bytes,
        total: from.total,
    }
}
