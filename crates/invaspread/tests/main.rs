//! What every method is held to, and InvaSpread's golden numbers.
