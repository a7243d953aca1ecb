//! Request ids on gRPC between nodes: they travel in the metadata key under which the admin API gives them back.

use tonic::Request;
use tonic::metadata::MetadataValue;

use ollamax_gateway::grpc::REQUEST_ID_KEY;
use ollamax_security::draw_request_id;
use ollamax_types::RequestId;

/// A message that carries the id of the request for which it is sent.
#[must_use]
pub(crate) fn carry<T>(id: &RequestId, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(id) = MetadataValue::try_from(&id.0) {
        request.metadata_mut().insert(REQUEST_ID_KEY, id);
    }
    request
}

/// The id that a message carries, else a new one.
#[must_use]
pub(crate) fn of<T>(request: &Request<T>) -> RequestId {
    let carried = request.metadata().get(REQUEST_ID_KEY).and_then(|id| id.to_str().ok());
    carried.and_then(RequestId::chosen).unwrap_or_else(draw_request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_way_and_whoever_has_none_gets_one() {
        let id = RequestId("r-7".to_owned());
        assert_eq!(of(&carry(&id, ())), id);
        for none in [RequestId::default(), RequestId("two words".to_owned())] {
            let given = of(&carry(&none, ()));
            assert!(given != none && !given.0.is_empty(), "{given}");
        }
    }
}
