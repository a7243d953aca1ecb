//! Error codes on gRPC between nodes: the code's text form travels in the metadata key `ollamax-code`.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use ollamax_gateway::grpc::daemon::CODE_KEY;
use ollamax_types::ErrorCode;

/// A status that carries an error code.
#[must_use]
pub(crate) fn refusal(code: ErrorCode, message: &str) -> Status {
    let mut status = Status::new(Code::from_i32(code.grpc_status()), message);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(code.as_str()));
    status
}

/// The error code of a status that another node sent; `None` when the transport made it.
#[must_use]
pub(crate) fn code_of(status: &Status) -> Option<ErrorCode> {
    status.metadata().get(CODE_KEY)?.to_str().ok().and_then(ErrorCode::from_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_way() {
        for code in ErrorCode::ALL {
            assert_eq!(code_of(&refusal(*code, "x")), Some(*code));
        }
        assert_eq!(code_of(&Status::unavailable("tcp")), None);
    }
}
