//! backend-interp.
