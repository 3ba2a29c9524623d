//! What every method is held to, and InstDisc's golden numbers.
