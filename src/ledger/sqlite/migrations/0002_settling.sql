-- What the gateway needs in order to settle doubt by itself: when it asks next, and since when it has been told of no record.

ALTER TABLE refunds ADD COLUMN next_check INTEGER CHECK (next_check IS NULL OR state IN ('IN_DOUBT', 'SUBMITTED'));
ALTER TABLE refunds ADD COLUMN absent_since INTEGER
    CHECK (absent_since IS NULL OR state IN ('IN_DOUBT', 'SUBMITTED', 'NEEDS_REVIEW'));

-- What is to be asked now, and what later.
CREATE INDEX refunds_to_check_now ON refunds (account, update_time)
    WHERE state IN ('IN_DOUBT', 'SUBMITTED') AND next_check IS NULL;
CREATE INDEX refunds_to_check_later ON refunds (account, next_check)
    WHERE state IN ('IN_DOUBT', 'SUBMITTED') AND next_check IS NOT NULL;
-- What has waited longest though it was put off; refunds_due_now has the others.
CREATE INDEX refunds_put_off ON refunds (account, create_time) WHERE state = 'PENDING' AND not_before IS NOT NULL;
