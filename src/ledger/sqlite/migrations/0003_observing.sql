-- What an operator's tools ask for. Nothing here is money: no hash covers it, and without it nothing would be decided otherwise.

-- The span that a refund was recorded in, as W3C Trace Context writes it: looks that come days later are linked to it.
CREATE TABLE refund_traces (
    ordinal      INTEGER PRIMARY KEY REFERENCES refunds (ordinal),
    trace_parent TEXT    NOT NULL CHECK (length(trace_parent) BETWEEN 1 AND 64)
) STRICT;

-- The oldest doubt of an account.
CREATE INDEX refunds_in_doubt ON refunds (account, doubt_since) WHERE doubt_since IS NOT NULL;
