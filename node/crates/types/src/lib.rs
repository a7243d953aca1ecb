//! The words of OllamaMax: ids, digests, names, records of the load view, limits, error codes, the clock handle.
//!
//! Owns no IO and no async code. Every other crate may import this one; it imports none of ours.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod autopilot;
pub mod capability;
pub mod chunk;
pub mod clock;
pub mod digest;
pub mod error;
pub mod id;
pub mod inference;
pub mod limits;
pub mod load;
pub mod model;
pub mod name;
pub mod place;
pub mod rate;
pub mod replicas;
pub mod role;
pub mod root;
pub mod secret;
pub mod size;
pub mod trace;

pub use autopilot::{Knob, KnobError, Knobs};
pub use capability::Capability;
pub use chunk::{Bits, CHUNK_BYTES, chunk_count, chunk_range};
pub use clock::{Clock, DAY_MS, Timestamp};
pub use digest::Digest;
pub use error::{ErrorClass, ErrorCode};
pub use id::{ClusterId, Incarnation, NodeId, PeerId, RequestId, TaskId, TokenId};
pub use inference::{Api, InferenceRequest};
pub use load::{Applies, Beat, Gpu, Quarantine, Residency, RunnerLoad, RuntimeKind, RuntimeState, SpareRule};
pub use model::{ModelRecord, capabilities_of};
pub use name::ModelName;
pub use rate::{Rate, RateProblem};
pub use replicas::{Knob as ReplicaKnob, Knobs as ReplicaKnobs};
pub use role::Role;
pub use root::Root;
pub use secret::{Secret, SecretKey};
pub use trace::Trace;
