//! `HEAD` and `POST /api/blobs/:digest`: whether a blob is here, and taking one in.
//!
//! An upload goes to disk as it comes, on a thread that may block; the client's pace and the disk's are coupled by a
//! short queue. An upload that breaks off leaves nothing.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::http::body::swallow;
use crate::http::error::ApiError;
use crate::inference::Engine;
use crate::limits;
use crate::store::{Digest, Upload, UploadError};

pub(super) async fn exists(State(engine): State<Engine>, Path(digest): Path<String>) -> Result<StatusCode, ApiError> {
    let digest = read(&digest)?;
    let here = engine.on_disk(move |store| store.has_blob(&digest)).await.ok_or_else(ApiError::lost)?;
    Ok(if here { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

pub(super) async fn upload(
    State(engine): State<Engine>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let digest = read(&digest)?;
    let start = move |store: &crate::store::Store| {
        if store.has_blob(&digest) { Ok(None) } else { store.upload(digest).map(Some) }
    };
    let mut chunks = body.into_data_stream();
    let Some(upload) = engine.on_disk(start).await.ok_or_else(ApiError::lost)?? else {
        swallow(chunks).await;
        return Ok(StatusCode::OK);
    };
    let (sender, receiver) = mpsc::channel(limits::UPLOAD_BUFFER);
    let writing = spawn_blocking(move || write(upload, receiver));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad(format!("upload broken off: {error}")))?;
        if sender.send(Some(chunk)).await.is_err() {
            break;
        }
    }
    // The empty message says that nothing is missing; without it the thread throws away what it has. If the thread is
    // gone already, it says why itself.
    drop(sender.send(None).await);
    drop(sender);
    if let Err(error) = writing.await.map_err(|_| ApiError::lost())? {
        swallow(chunks).await;
        return Err(error.into());
    }
    tracing::info!("blob stored");
    Ok(StatusCode::CREATED)
}

fn write(mut upload: Upload, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<(), UploadError> {
    while let Some(chunk) = chunks.blocking_recv() {
        match chunk {
            Some(bytes) => upload.write(&bytes)?,
            None => return upload.finish(),
        }
    }
    Ok(())
}

fn read(digest: &str) -> Result<Digest, ApiError> {
    Digest::parse(digest).ok_or_else(|| ApiError::bad("invalid digest format"))
}
