-- Who holds an order or an item, under whatever login: the login of an account may change, and the order stays the provider's.
CREATE INDEX reservations_of_key ON reservations (key);
