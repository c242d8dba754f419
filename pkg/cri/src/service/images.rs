//! CRI's `ImageService`.

use carpel_proto::v1::{self, image_service_server::ImageService};
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{ImageServer, chunk};
use crate::{
    info,
    parse::{self, invalid},
    show,
    status::ToStatus,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for ImageServer {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let images = self.listed(request.into_inner().filter)?;
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<BoxStream<v1::StreamImagesResponse>> {
        let images = self.listed(request.into_inner().filter)?;
        Ok(chunk::stream(images, |images| v1::StreamImagesResponse { images }))
    }

    /// An absent image is an answer without one, not an error.
    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let reference = named(request.image)?;
        let found = self.images.find(&reference).map_err(|error| error.to_status())?;
        let info = match &found {
            Some(image) if request.verbose => info::image(image),
            _ => Default::default(),
        };
        Ok(Response::new(v1::ImageStatusResponse { image: found.map(|image| show::image(&image)), info }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let request = parse::pull_request(request.into_inner()).map_err(|error| error.to_status())?;
        let id = self.images.pull(request).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let reference = named(request.into_inner().image)?;
        self.images.remove(&reference).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        let usage = self.images.fs_usage();
        let filesystem = v1::FilesystemUsage {
            timestamp: show::now_ns(),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: usage.mountpoint.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(v1::UInt64Value { value: usage.used_bytes }),
            inodes_used: Some(v1::UInt64Value { value: usage.inodes_used }),
        };
        // Writable layers and images share a file system, and the kubelet wants both named.
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![filesystem.clone()],
            container_filesystems: vec![filesystem],
        }))
    }
}

impl ImageServer {
    fn listed(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let asked =
            filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|image| !image.is_empty());
        let images = match asked {
            None => self.images.list(),
            Some(reference) => {
                self.images.find(&reference).map_err(|error| error.to_status())?.into_iter().collect()
            }
        };
        Ok(images.iter().map(|image| show::image(image)).collect())
    }
}

fn named(spec: Option<v1::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|image| !image.is_empty())
        .ok_or_else(|| invalid("image.image", "is required").to_status())
}
