//! Reads a request body: whole, once, bounded in size, in time between two pieces, and in what all requests hold; or a
//! small one of an administrator, bounded in size and time.

use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use ollamax_types::{ErrorCode, limits};

use crate::error::ApiError;
use crate::http::OpenDoor;

/// How long a small body may take as a whole.
const SMALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A body, and its share of the memory for bodies until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Reads the body.
///
/// # Errors
/// When it is too large, encoded, too slow, cut off, or when no memory for bodies is left.
pub(crate) async fn read(door: &OpenDoor, headers: &HeaderMap, body: Body) -> Result<Held, ApiError> {
    read_up_to(door, headers, body, limits::GATEWAY_BODY_BYTES_MAX).await
}

/// Reads a body of another limit.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_up_to(
    door: &OpenDoor,
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
) -> Result<Held, ApiError> {
    check_encoding(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let mut memory = None;
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(64 << 10));
    loop {
        let frame = timeout(door.parts.config.body_idle_timeout(), body.frame()).await.map_err(|_| too_slow(door))?;
        let data = match frame {
            None => break,
            Some(Err(error)) => {
                return Err(broken_off(&error));
            }
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if bytes.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        bytes.extend_from_slice(&data);
        reserve(door, &mut memory, bytes.len())?;
    }
    Ok(Held { bytes: bytes.freeze(), _memory: memory })
}

/// Reads a body of a few fields.
///
/// # Errors
/// When it is too large, encoded, too slow or cut off.
pub(crate) async fn read_small(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    check_encoding(headers)?;
    let Ok(read) = timeout(SMALL_TIMEOUT, Limited::new(body, bytes_max).collect()).await else {
        let text = format!("the request body did not come within {} s", SMALL_TIMEOUT.as_secs());
        return Err(ApiError { status: 408, ..ApiError::new(ErrorCode::DeadlineExceeded, text) });
    };
    match read {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Err(error) => Err(broken_off(&error)),
    }
}

/// What is encoded is not read.
///
/// # Errors
/// When the headers say that it is.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let Some(encoding) = encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) else { return Ok(()) };
    let text = format!("request bodies in content-encoding {encoding} are not read; send it unencoded");
    Err(ApiError { status: 415, ..ApiError::new(ErrorCode::BadRequest, text) })
}

/// Takes the share for this many bytes, growing what was taken before.
fn reserve(door: &OpenDoor, memory: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
    let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = bytes.div_ceil(1 << 10).saturating_sub(held);
    let missing = u32::try_from(missing).unwrap_or(u32::MAX);
    if missing == 0 {
        return Ok(());
    }
    let more = door.body_memory.clone().try_acquire_many_owned(missing);
    let more = more.map_err(|_| ApiError::overloaded("this node holds too many request bodies; try again"))?;
    match memory {
        Some(memory) => memory.merge(more),
        None => *memory = Some(more),
    }
    Ok(())
}

fn too_large(bytes_max: usize) -> ApiError {
    let text = format!("the request body is larger than {} MiB", bytes_max >> 20);
    ApiError::new(ErrorCode::BodyTooLarge, text)
}

fn broken_off(error: &dyn Display) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, format!("the request body broke off: {error}"))
}

fn too_slow(door: &OpenDoor) -> ApiError {
    let text = format!("no byte of the request body came for {} ms", door.parts.config.body_idle_timeout_ms);
    ApiError { status: 408, ..ApiError::new(ErrorCode::DeadlineExceeded, text) }
}
