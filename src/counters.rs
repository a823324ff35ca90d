//! Every count.
