//! SimSiam.
