//! The host's ends of devices: terminals, files and sockets behind serial ports. All waiting is done in threads here.

mod escape;
mod link;
mod queue;
mod serial;

pub use escape::{Escape, EscapeFilter, HELP};
pub use link::HostLink;
pub use queue::{ByteQueue, QueueSink, spawn_writer};
pub use serial::{SerialError, file, null, stdio, stdout_sink, unix};
