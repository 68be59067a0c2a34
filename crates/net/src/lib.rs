//! All sockets of Muster but the agent tools' own: listeners, dialling, TLS, HTTP plumbing, and the
//! driver that joins a pure [`Session`](muster_proto::Session) to a stream.
//!
//! Nothing here knows what a message means. Limits of connections, heads, bodies and deadlines are
//! enforced here, before anything above sees a byte (threat model, section 4). The only real
//! clock and the only real source of chance are in [`clock`].

pub mod clock;
pub mod dial;
pub mod drive;
pub mod egress;
pub mod http;
pub mod limit;
pub mod listen;
pub mod path;
pub mod sntp;
mod socket;
pub mod tls;

pub use clock::{Clock, Entropy};
pub use dial::{DialError, Endpoint, Protection, dial};
pub use drive::{Drain, DriveEnd, DriveError, DriveLimits, Handler, OnEvent, drive};
pub use egress::{Egress, EgressError};
pub use limit::{Gate, GateLimits, MemoryBudget, MemoryShare, Refusal, Refusals};
pub use listen::{
    Accepted, BindError, ClientCertificate, ListenSpec, Listener, NetContext, PeerInfo, Security,
    serve,
};
pub use path::{PathMtu, PathMtuError, is_own_address, path_mtu};
