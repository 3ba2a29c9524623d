//! What every method is held to, and BYOL's golden numbers.
