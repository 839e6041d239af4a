//! Segmentation: descriptors and their checks, segment register loads, LDTR and TR, and the instructions that ask.

pub(crate) mod descriptor;
mod load;
mod query;
mod system;

pub(crate) use descriptor::{
    Descriptor, error_code, is_null, null_segment, real_segment, vm86_segment,
};
pub use load::{load_seg, read_seg};
pub use query::{arpl, lar, lsl, verify};
pub use system::{lldt, ltr, sldt, str};

#[cfg(test)]
mod tests;
