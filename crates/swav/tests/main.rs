//! What every method is held to, and SwAV's golden numbers.
