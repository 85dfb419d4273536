-- The ledger: refunds, attempts, events, and what keeps a target from a second refund.
--
-- Times are microseconds since 1970-01-01T00:00:00Z, amounts are hundredths of their currency. What
-- is always read and written whole with its refund (labels, items) is JSON text; what is asked for
-- has a column. Words are compared one after the other: for each IN of more than two words SQLite
-- builds a table every time that a row is checked.

CREATE TABLE refunds (
    ordinal     INTEGER PRIMARY KEY AUTOINCREMENT,

    -- The intent. Never changes (trigger below). Two ids that differ in case alone are one to
    -- people, so only one is taken.
    id          TEXT    NOT NULL COLLATE NOCASE UNIQUE CHECK (length(id) BETWEEN 1 AND 50),
    provider    TEXT    NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
    -- A JSON object of the target's fields, in the order of their names, without those that are
    -- absent.
    target      TEXT    NOT NULL CHECK (length(target) > 2),
    labels      TEXT    NOT NULL,
    create_time INTEGER NOT NULL,

    -- Where it goes on: the account, and the host, login (a digest) and currency that it had when
    -- the refund came there.
    account     TEXT    NOT NULL CHECK (length(account) BETWEEN 1 AND 63),
    endpoint    TEXT    NOT NULL CHECK (endpoint <> ''),
    login       TEXT    NOT NULL CHECK (login <> ''),
    currency    TEXT    NOT NULL CHECK (length(currency) = 3),

    -- How it stands. Changes with every event.
    state       TEXT    NOT NULL
        CHECK (state = 'PENDING' OR state = 'DISPATCHING' OR state = 'SUBMITTED' OR state = 'IN_DOUBT'
        OR state = 'NEEDS_REVIEW' OR state = 'SUCCEEDED' OR state = 'PARTIALLY_SUCCEEDED'
        OR state = 'FAILED' OR state = 'CANCELLED'),
    revision    INTEGER NOT NULL CHECK (revision >= 1),
    update_time INTEGER NOT NULL,
    dispatch_time INTEGER,
    complete_time INTEGER,
    not_before  INTEGER,
    attempt_count       INTEGER NOT NULL CHECK (attempt_count >= 0),
    unanswered_attempts INTEGER NOT NULL CHECK (unanswered_attempts BETWEEN 0 AND attempt_count),
    doubt_reason        TEXT
        CHECK (doubt_reason = 'timeout' OR doubt_reason = 'connection_lost'
        OR doubt_reason = 'provider_server_error' OR doubt_reason = 'unreadable_reply'
        OR doubt_reason = 'provider_says_unknown' OR doubt_reason = 'gateway_restarted'
        OR doubt_reason = 'contradiction'),
    doubt_since         INTEGER,
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

    -- What most refunds never have. Null there, and then no part of the row's digest.
    first_account       TEXT CHECK (first_account <> account),
    placed_time         INTEGER,
    attempted_elsewhere INTEGER CHECK (attempted_elsewhere = 1),
    provider_status_note TEXT CHECK (provider_status_note <> ''),
    last_dispatch_time  INTEGER,
    credential          TEXT CHECK (credential <> ''),
    absent_since        INTEGER CHECK (absent_since IS NULL OR state = 'IN_DOUBT' OR state = 'SUBMITTED'
        OR state = 'NEEDS_REVIEW' OR state = 'FAILED'),
    foreign_record      INTEGER CHECK (foreign_record = 1),
    reserved_until      INTEGER,
    caution_until       INTEGER CHECK (caution_until IS NULL OR state = 'FAILED'),
    corrected_time      INTEGER CHECK (corrected_time IS NULL OR state = 'FAILED'),
    doubt_not_processed INTEGER CHECK (doubt_not_processed = 1),

    -- The schedule of lookups. No part of the history: no digest covers it, and no event need tell
    -- of it.
    next_check          INTEGER CHECK (next_check IS NULL OR state = 'IN_DOUBT' OR state = 'SUBMITTED'
        OR state = 'NEEDS_REVIEW' OR state = 'FAILED'),
    unheard             INTEGER CHECK (unheard = 1),
    doubt_check_count   INTEGER CHECK (doubt_check_count >= 0),

    CHECK (update_time >= create_time),
    CHECK (attempt_count > 0 OR dispatch_time IS NULL),
    CHECK ((attempt_count > 0) = (last_dispatch_time IS NOT NULL)),
    CHECK (attempted_elsewhere IS NULL OR placed_time IS NOT NULL),
    -- A refund is in doubt exactly when it says why.
    CHECK ((state = 'IN_DOUBT' OR state = 'NEEDS_REVIEW') = (doubt_reason IS NOT NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_since IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_check_count IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_evidence IS NULL)),
    CHECK ((state = 'SUCCEEDED' OR state = 'PARTIALLY_SUCCEEDED' OR state = 'FAILED' OR state = 'CANCELLED')
         = (complete_time IS NOT NULL)),
    CHECK (state = 'PENDING' OR not_before IS NULL),
    -- Nothing that may have happened is ever called withdrawn.
    CHECK (state <> 'CANCELLED' OR unanswered_attempts = 0),
    CHECK ((error_code IS NULL) = (error_message IS NULL)),
    CHECK ((error_code IS NULL) = (error_http_status IS NULL)),
    CHECK ((error_code IS NULL) = (error_category IS NULL)),
    CHECK ((refunded_currency_code IS NULL) = (refunded_minor_units IS NULL))
) STRICT;

-- A page of one state, or of one account: each state is a short ordered walk, and several are
-- merged.
CREATE INDEX refunds_of_state ON refunds (state, ordinal, create_time);
CREATE INDEX refunds_of_account ON refunds (account, state, ordinal, create_time);
CREATE INDEX refunds_by_time ON refunds (create_time);
-- Of one account at one place: what may be sent now, and what later.
CREATE INDEX refunds_due_now ON refunds (account, endpoint, login, currency, create_time)
    WHERE state = 'PENDING' AND not_before IS NULL;
CREATE INDEX refunds_due_later ON refunds (account, endpoint, login, currency, not_before)
    WHERE state = 'PENDING' AND not_before IS NOT NULL;
-- What has waited longest though it was put off; refunds_due_now has the others.
CREATE INDEX refunds_put_off ON refunds (account, endpoint, login, currency, create_time)
    WHERE state = 'PENDING' AND not_before IS NOT NULL;
-- What is to be looked up now, and what later.
CREATE INDEX refunds_to_check_now ON refunds (account, endpoint, login, currency, update_time)
    WHERE (state = 'IN_DOUBT' OR state = 'SUBMITTED') AND next_check IS NULL;
CREATE INDEX refunds_to_check_later ON refunds (account, endpoint, login, currency, next_check)
    WHERE next_check IS NOT NULL;
CREATE INDEX refunds_unheard ON refunds (account, endpoint, login, currency, next_check) WHERE unheard = 1;
-- The oldest doubt of an account.
CREATE INDEX refunds_in_doubt ON refunds (account, doubt_since) WHERE doubt_since IS NOT NULL;
-- Where open refunds belong: compared with the configuration at every start.
CREATE INDEX refunds_open ON refunds (account, endpoint, login, currency, provider)
    WHERE state = 'PENDING' OR state = 'SUBMITTED' OR state = 'IN_DOUBT' OR state = 'NEEDS_REVIEW';

CREATE TRIGGER refunds_are_kept BEFORE DELETE ON refunds
BEGIN
    SELECT RAISE(ABORT, 'a refund is never deleted');
END;

CREATE TRIGGER intents_never_change BEFORE UPDATE OF
    ordinal, id, provider, target, labels, create_time
ON refunds
BEGIN
    SELECT RAISE(ABORT, 'what was asked for never changes');
END;

-- What a caller finds a refund by: Target::references.
CREATE TABLE refund_references (
    reference TEXT    NOT NULL,
    ordinal   INTEGER NOT NULL REFERENCES refunds (ordinal),
    PRIMARY KEY (reference, ordinal)
) STRICT, WITHOUT ROWID;

-- The refund that may hold a key of a target now: Refund::reservations. It is counted under the
-- login that it was taken with, without the host, so that a moved host frees nothing.
CREATE TABLE reservations (
    key        TEXT    NOT NULL,
    login      TEXT    NOT NULL,
    ordinal    INTEGER NOT NULL REFERENCES refunds (ordinal),
    -- Null: for as long as the refund stands as it does.
    until_time INTEGER,
    PRIMARY KEY (key, login)
) STRICT, WITHOUT ROWID;

-- What two refunds share that look like one sent twice, and until when: Target::similarity_key,
-- Refund::similarity_window.
CREATE TABLE similarity (
    key             TEXT    NOT NULL,
    ordinal         INTEGER NOT NULL REFERENCES refunds (ordinal),
    login           TEXT    NOT NULL,
    until_time      INTEGER NOT NULL,
    firm_until_time INTEGER,
    PRIMARY KEY (key, ordinal)
) STRICT, WITHOUT ROWID;

-- References that a refund once gave together: they name one payee.
CREATE TABLE payee_references (
    reference TEXT    NOT NULL,
    other     TEXT    NOT NULL,
    PRIMARY KEY (reference, other)
) STRICT, WITHOUT ROWID;

-- Logins that a person, or the configuration, said to be the same books: each pair both ways.
CREATE TABLE login_links (
    login TEXT NOT NULL,
    other TEXT NOT NULL,
    PRIMARY KEY (login, other)
) STRICT, WITHOUT ROWID;

-- When refunds of an account at a place began and ceased to wait because the configuration had
-- another: their expiry stands still meanwhile.
CREATE TABLE standstills (
    account    TEXT    NOT NULL,
    endpoint   TEXT    NOT NULL,
    login      TEXT    NOT NULL,
    currency   TEXT    NOT NULL,
    begin_time INTEGER NOT NULL,
    end_time   INTEGER CHECK (end_time >= begin_time),
    PRIMARY KEY (account, endpoint, login, currency, begin_time)
) STRICT, WITHOUT ROWID;

-- One row, one wire request that may have left.
CREATE TABLE attempts (
    ordinal       INTEGER NOT NULL REFERENCES refunds (ordinal),
    number        INTEGER NOT NULL CHECK (number >= 1),
    dispatch_time INTEGER NOT NULL,
    end_time      INTEGER CHECK (end_time >= dispatch_time),
    outcome       TEXT CHECK (outcome = 'refunded' OR outcome = 'accepted' OR outcome = 'refused'
        OR outcome = 'not_sent' OR outcome = 'unknown'),
    doubt_reason  TEXT
        CHECK (doubt_reason = 'timeout' OR doubt_reason = 'connection_lost'
        OR doubt_reason = 'provider_server_error' OR doubt_reason = 'unreadable_reply'
        OR doubt_reason = 'provider_says_unknown' OR doubt_reason = 'gateway_restarted'
        OR doubt_reason = 'contradiction'),
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
    from_state    TEXT
        CHECK (from_state = 'PENDING' OR from_state = 'DISPATCHING' OR from_state = 'SUBMITTED'
        OR from_state = 'IN_DOUBT' OR from_state = 'NEEDS_REVIEW' OR from_state = 'SUCCEEDED'
        OR from_state = 'PARTIALLY_SUCCEEDED' OR from_state = 'FAILED' OR from_state = 'CANCELLED'),
    to_state      TEXT NOT NULL
        CHECK (to_state = 'PENDING' OR to_state = 'DISPATCHING' OR to_state = 'SUBMITTED'
        OR to_state = 'IN_DOUBT' OR to_state = 'NEEDS_REVIEW' OR to_state = 'SUCCEEDED'
        OR to_state = 'PARTIALLY_SUCCEEDED' OR to_state = 'FAILED' OR to_state = 'CANCELLED'),
    kind          TEXT NOT NULL,
    -- 0: about no attempt.
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
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

-- The span that a refund was recorded in, as W3C Trace Context writes it: lookups that come days
-- later are linked to it. Nothing here is money: no hash covers it, and without it nothing would be
-- decided otherwise.
CREATE TABLE refund_traces (
    ordinal      INTEGER PRIMARY KEY REFERENCES refunds (ordinal),
    trace_parent TEXT    NOT NULL CHECK (length(trace_parent) BETWEEN 1 AND 64)
) STRICT;

-- How far a refund's create_time has ever been behind that of one recorded before it, in
-- microseconds: requests that passed each other on their way to the ledger, or a clock that was set
-- back. What was created before a moment was recorded before everything that was created so much
-- after it. It finds the place of a moment in the order of recording, so that a page that begins or
-- ends at a moment walks nothing else.
CREATE TABLE disorder (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    most_micros INTEGER NOT NULL CHECK (most_micros >= 0)
) STRICT;

INSERT INTO disorder (only_row, most_micros) VALUES (1, 0);
