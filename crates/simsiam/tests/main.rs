//! What every method is held to, and SimSiam's golden numbers.
