//! Whole cells of real processes.
