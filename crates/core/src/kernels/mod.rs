//! Fused CPU operations with their own backward, and their plain-Candle twins for other devices.
