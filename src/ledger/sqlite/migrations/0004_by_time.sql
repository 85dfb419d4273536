-- What finds the place of a moment in the order of recording, so that a page that begins or ends at a moment walks nothing else.

-- How far a refund's create_time has ever been behind that of one recorded before it, in microseconds: requests that passed each other on their
-- way to the ledger, or a clock that was set back. What was created before a moment was recorded before everything that was created so much
-- after it.
CREATE TABLE disorder (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    most_micros INTEGER NOT NULL CHECK (most_micros >= 0)
) STRICT;

INSERT INTO disorder (only_row, most_micros)
SELECT 1, coalesce(max(latest - create_time), 0)
FROM (SELECT create_time, max(create_time) OVER (ORDER BY ordinal) AS latest FROM refunds) AS walked;
