//! What a flow is.
