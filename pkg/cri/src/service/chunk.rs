//! Lists as streams: `Stream*`, for lists that do not fit one message.

use futures::{StreamExt, stream};
use tonic::{Response, Status, codegen::BoxStream};

/// Items in a message: far below the message limit with the largest labels that Kubernetes allows.
const ITEMS: usize = 100;

/// Streams `items` in messages that `wrap` makes.
pub(super) fn stream<T, M>(
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Response<BoxStream<M>>
where
    T: Send + 'static,
    M: Send + 'static,
{
    stream_by(ITEMS, items, wrap)
}

/// As [`stream()`], so many in a message.
pub(super) fn stream_by<T, M>(
    count: usize,
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Response<BoxStream<M>>
where
    T: Send + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter();
    let chunks = std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(count).collect();
        (!chunk.is_empty()).then_some(chunk)
    });
    let messages = stream::iter(chunks).map(move |chunk| Ok::<M, Status>(wrap(chunk)));
    Response::new(Box::pin(messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_and_no_message_is_empty() {
        for count in [0, 1, ITEMS, ITEMS + 1, 3 * ITEMS] {
            let messages: Vec<Vec<usize>> =
                stream((0..count).collect(), |chunk| chunk).into_inner().map(Result::unwrap).collect().await;
            assert!(messages.iter().all(|message| !message.is_empty() && message.len() <= ITEMS));
            assert_eq!(messages.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
