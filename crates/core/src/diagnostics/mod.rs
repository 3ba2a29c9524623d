//! Instruments that see a collapse coming.
