//! Named, versioned evaluation protocols: features and labels in, metrics out.
