-- The ledger: refunds, attempts, events, and what keeps a target from a second refund.
--
-- Times are microseconds since 1970-01-01T00:00:00Z, amounts are hundredths of their currency. What is always read and written whole with its
-- refund (labels, items) is JSON text; what is asked for has a column. Nothing here is SQLite's alone except STRICT, AUTOINCREMENT and the form
-- of the triggers.

CREATE TABLE refunds (
    ordinal     INTEGER PRIMARY KEY AUTOINCREMENT,

    -- The intent. Never changes (trigger below).
    id          TEXT    NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 50),
    account     TEXT    NOT NULL CHECK (length(account) BETWEEN 1 AND 63),
    scope       TEXT    NOT NULL,
    provider    TEXT    NOT NULL CHECK (provider IN ('sectigo', 'namecom', 'debitsuccess')),
    sectigo_order_number        TEXT CHECK (sectigo_order_number <> ''),
    sectigo_reason_code         INTEGER CHECK (sectigo_reason_code BETWEEN 1 AND 11),
    namecom_order_id            INTEGER CHECK (namecom_order_id > 0),
    namecom_order_item_ids      TEXT CHECK (namecom_order_item_ids <> ''),
    debitsuccess_account_reference_no          TEXT CHECK (debitsuccess_account_reference_no <> ''),
    debitsuccess_external_account_reference_no TEXT CHECK (debitsuccess_external_account_reference_no <> ''),
    debitsuccess_currency_code  TEXT CHECK (length(debitsuccess_currency_code) = 3),
    debitsuccess_minor_units    INTEGER CHECK (debitsuccess_minor_units > 0),
    debitsuccess_description    TEXT CHECK (debitsuccess_description <> ''),
    debitsuccess_request_initiator TEXT CHECK (debitsuccess_request_initiator <> ''),
    labels      TEXT    NOT NULL,
    create_time INTEGER NOT NULL,

    -- How it stands. Changes with every event.
    state       TEXT    NOT NULL CHECK (state IN ('PENDING', 'DISPATCHING', 'SUBMITTED', 'IN_DOUBT', 'NEEDS_REVIEW',
                                                  'SUCCEEDED', 'PARTIALLY_SUCCEEDED', 'FAILED', 'CANCELLED')),
    revision    INTEGER NOT NULL CHECK (revision >= 1),
    update_time INTEGER NOT NULL,
    dispatch_time INTEGER,
    complete_time INTEGER,
    not_before  INTEGER,
    attempt_count       INTEGER NOT NULL CHECK (attempt_count >= 0),
    unanswered_attempts INTEGER NOT NULL CHECK (unanswered_attempts BETWEEN 0 AND attempt_count),
    doubt_reason        TEXT CHECK (doubt_reason IN ('timeout', 'connection_lost', 'provider_server_error', 'unreadable_reply',
                                                     'provider_says_unknown', 'gateway_restarted', 'contradiction')),
    doubt_since         INTEGER,
    doubt_check_count   INTEGER CHECK (doubt_check_count >= 0),
    doubt_evidence      TEXT,
    error_code          TEXT,
    error_message       TEXT,
    error_http_status   INTEGER CHECK (error_http_status BETWEEN 0 AND 65535),
    error_category      TEXT,
    refunded_currency_code TEXT CHECK (length(refunded_currency_code) = 3),
    refunded_minor_units   INTEGER,
    items               TEXT NOT NULL,
    provider_reference  TEXT,
    provider_status     TEXT,

    CHECK ((provider = 'sectigo') = (sectigo_order_number IS NOT NULL)),
    CHECK ((provider = 'sectigo') = (sectigo_reason_code IS NOT NULL)),
    CHECK ((provider = 'namecom') = (namecom_order_id IS NOT NULL)),
    CHECK ((provider = 'namecom') = (namecom_order_item_ids IS NOT NULL)),
    CHECK ((provider = 'debitsuccess')
         = (debitsuccess_account_reference_no IS NOT NULL OR debitsuccess_external_account_reference_no IS NOT NULL)),
    CHECK ((provider = 'debitsuccess') = (debitsuccess_currency_code IS NOT NULL)),
    CHECK ((provider = 'debitsuccess') = (debitsuccess_minor_units IS NOT NULL)),
    CHECK ((provider = 'debitsuccess') = (debitsuccess_description IS NOT NULL)),
    CHECK (provider = 'debitsuccess' OR debitsuccess_request_initiator IS NULL),

    CHECK (update_time >= create_time),
    CHECK (attempt_count > 0 OR dispatch_time IS NULL),
    -- A refund is in doubt exactly when it says why.
    CHECK ((state IN ('IN_DOUBT', 'NEEDS_REVIEW')) = (doubt_reason IS NOT NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_since IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_check_count IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_evidence IS NULL)),
    CHECK ((state IN ('SUCCEEDED', 'PARTIALLY_SUCCEEDED', 'FAILED', 'CANCELLED')) = (complete_time IS NOT NULL)),
    CHECK (state = 'PENDING' OR not_before IS NULL),
    -- Nothing that may have happened is ever called withdrawn.
    CHECK (state <> 'CANCELLED' OR unanswered_attempts = 0),
    CHECK ((error_code IS NULL) = (error_message IS NULL)),
    CHECK ((error_code IS NULL) = (error_http_status IS NULL)),
    CHECK ((error_code IS NULL) = (error_category IS NULL)),
    CHECK ((refunded_currency_code IS NULL) = (refunded_minor_units IS NULL))
) STRICT;

-- A page of one state, or of one account: each state is a short ordered walk, and several are merged.
CREATE INDEX refunds_of_state ON refunds (state, ordinal, create_time);
CREATE INDEX refunds_of_account ON refunds (account, state, ordinal, create_time);
CREATE INDEX refunds_by_time ON refunds (create_time);
-- What may be sent now, and what later.
CREATE INDEX refunds_due_now ON refunds (account, create_time) WHERE state = 'PENDING' AND not_before IS NULL;
CREATE INDEX refunds_due_later ON refunds (account, not_before) WHERE state = 'PENDING' AND not_before IS NOT NULL;

CREATE TRIGGER refunds_are_kept BEFORE DELETE ON refunds
BEGIN
    SELECT RAISE(ABORT, 'a refund is never deleted');
END;

CREATE TRIGGER intents_never_change BEFORE UPDATE OF
    ordinal, id, account, scope, provider, sectigo_order_number, sectigo_reason_code, namecom_order_id, namecom_order_item_ids,
    debitsuccess_account_reference_no, debitsuccess_external_account_reference_no, debitsuccess_currency_code, debitsuccess_minor_units,
    debitsuccess_description, debitsuccess_request_initiator, labels, create_time
ON refunds
BEGIN
    SELECT RAISE(ABORT, 'what was asked for never changes');
END;

-- What a caller finds a refund by: Target::references.
CREATE TABLE refund_references (
    reference TEXT    NOT NULL,
    ordinal   INTEGER NOT NULL REFERENCES refunds (ordinal),
    PRIMARY KEY (reference, ordinal)
) STRICT;

-- The only refund that may hold a key of a target now: Refund::held_keys.
CREATE TABLE reservations (
    scope   TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    ordinal INTEGER NOT NULL REFERENCES refunds (ordinal),
    PRIMARY KEY (scope, key)
) STRICT;

-- What two refunds share that look like one sent twice: Target::similarity_keys.
CREATE TABLE similarity (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    create_time INTEGER NOT NULL,
    ordinal     INTEGER NOT NULL REFERENCES refunds (ordinal),
    PRIMARY KEY (scope, key, create_time, ordinal)
) STRICT;

-- One row, one wire request that may have left.
CREATE TABLE attempts (
    ordinal       INTEGER NOT NULL REFERENCES refunds (ordinal),
    number        INTEGER NOT NULL CHECK (number >= 1),
    dispatch_time INTEGER NOT NULL,
    end_time      INTEGER CHECK (end_time >= dispatch_time),
    outcome       TEXT CHECK (outcome IN ('refunded', 'accepted', 'refused', 'not_sent', 'unknown')),
    doubt_reason  TEXT CHECK (doubt_reason IN ('timeout', 'connection_lost', 'provider_server_error', 'unreadable_reply',
                                               'provider_says_unknown', 'gateway_restarted', 'contradiction')),
    doubt_evidence TEXT,
    http_status   INTEGER CHECK (http_status BETWEEN 1 AND 65535),
    PRIMARY KEY (ordinal, number),
    CHECK ((end_time IS NULL) = (outcome IS NULL)),
    CHECK ((outcome IS NOT NULL AND outcome = 'unknown') = (doubt_reason IS NOT NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_evidence IS NULL))
) STRICT;

CREATE TRIGGER attempts_are_kept BEFORE DELETE ON attempts
BEGIN
    SELECT RAISE(ABORT, 'an attempt is never deleted');
END;

CREATE TRIGGER attempts_end_once BEFORE UPDATE ON attempts WHEN OLD.end_time IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'an attempt ends once');
END;

-- The history. Appended to, and nothing else.
CREATE TABLE events (
    sequence      INTEGER PRIMARY KEY CHECK (sequence >= 1),
    ordinal       INTEGER NOT NULL REFERENCES refunds (ordinal),
    revision      INTEGER NOT NULL CHECK (revision >= 1),
    event_time    INTEGER NOT NULL,
    from_state    TEXT CHECK (from_state IN ('PENDING', 'DISPATCHING', 'SUBMITTED', 'IN_DOUBT', 'NEEDS_REVIEW',
                                             'SUCCEEDED', 'PARTIALLY_SUCCEEDED', 'FAILED', 'CANCELLED')),
    to_state      TEXT NOT NULL CHECK (to_state IN ('PENDING', 'DISPATCHING', 'SUBMITTED', 'IN_DOUBT', 'NEEDS_REVIEW',
                                                    'SUCCEEDED', 'PARTIALLY_SUCCEEDED', 'FAILED', 'CANCELLED')),
    kind          TEXT NOT NULL,
    actor         TEXT NOT NULL,
    note          TEXT NOT NULL,
    refund_digest BLOB NOT NULL CHECK (length(refund_digest) = 32),
    chain_hash    BLOB NOT NULL CHECK (length(chain_hash) = 32),
    UNIQUE (ordinal, revision),
    CHECK ((from_state IS NULL) = (revision = 1)),
    CHECK ((kind = 'created') = (revision = 1))
) STRICT;

CREATE TRIGGER events_follow_each_other BEFORE INSERT ON events
WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM events)
BEGIN
    SELECT RAISE(ABORT, 'the sequence has no gaps');
END;

CREATE TRIGGER events_are_never_edited BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event is never edited');
END;

CREATE TRIGGER events_are_kept BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event is never deleted');
END;
