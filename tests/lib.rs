//! Tests of the whole: `architecture` (edges of the workspace) and `e2e` (real processes).
