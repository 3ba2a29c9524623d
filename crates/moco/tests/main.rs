//! What every method is held to, and MoCo's golden numbers.
