//! What every method is held to, and DINO's golden numbers.
