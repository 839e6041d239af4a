//! softmmu.
