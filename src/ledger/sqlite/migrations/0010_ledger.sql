-- The ledger: refunds, events, and the reservations that keep a target from a second refund.
--
-- Times are microseconds since 1970-01-01T00:00:00Z, amounts are hundredths of their currency.
-- Values that are always read and written whole with their refund (target, labels, items) are JSON
-- text; values that queries select by have columns. Checks compare texts one by one: for each IN of
-- more than two texts SQLite builds a table every time that it checks a row.

CREATE TABLE refunds (
    ordinal     INTEGER PRIMARY KEY,

    -- The intent. Never changes (trigger below). People cannot tell apart two ids that differ only
    -- in case, so only one of them can exist.
    id          TEXT    NOT NULL COLLATE NOCASE UNIQUE CHECK (length(id) BETWEEN 1 AND 50),
    provider    TEXT    NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
    -- A JSON object of the target's fields in the order of their names, absent fields left out.
    target      TEXT    NOT NULL CHECK (length(target) > 2),
    labels      TEXT    NOT NULL,
    create_time INTEGER NOT NULL,
    -- Null: callers were not told apart.
    created_by  TEXT    CHECK (created_by <> ''),
    expected_currency_code TEXT CHECK (length(expected_currency_code) = 3),
    expected_minor_units   INTEGER,
    -- What the refund counts against limits, where its target names no amount. Null there: nothing
    -- said how much it is.
    assumed_currency_code  TEXT CHECK (length(assumed_currency_code) = 3),
    assumed_minor_units    INTEGER,

    -- The account that the refund is at, and the host, login (a digest) and currency that the
    -- account had when the refund was recorded there or reassigned to it.
    account     TEXT    NOT NULL CHECK (length(account) BETWEEN 1 AND 63),
    endpoint    TEXT    NOT NULL CHECK (endpoint <> ''),
    login       TEXT    NOT NULL CHECK (login <> ''),
    currency    TEXT    NOT NULL CHECK (length(currency) = 3),

    -- The state. Changes with every event.
    state       TEXT    NOT NULL
        CHECK (state = 'PENDING' OR state = 'DISPATCHING' OR state = 'SUBMITTED' OR state = 'IN_DOUBT'
        OR state = 'NEEDS_REVIEW' OR state = 'SUCCEEDED' OR state = 'PARTIALLY_SUCCEEDED'
        OR state = 'FAILED' OR state = 'CANCELLED' OR state = 'AWAITING_APPROVAL'),
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

    -- Values that most refunds never have. Null then, and not covered by the row's digest.
    first_account       TEXT CHECK (first_account <> account),
    placed_time         INTEGER,
    attempted_elsewhere INTEGER CHECK (attempted_elsewhere = 1),
    provider_status_note TEXT CHECK (provider_status_note <> ''),
    -- Null if it is dispatch_time.
    last_dispatch_time  INTEGER CHECK (last_dispatch_time <> dispatch_time),
    credential          TEXT CHECK (credential <> ''),
    absent_since        INTEGER CHECK (absent_since IS NULL OR state = 'IN_DOUBT' OR state = 'SUBMITTED'
        OR state = 'NEEDS_REVIEW' OR state = 'FAILED'),
    foreign_record      INTEGER CHECK (foreign_record = 1),
    reserved_until      INTEGER,
    caution_until       INTEGER CHECK (caution_until IS NULL OR state = 'FAILED'),
    corrected_time      INTEGER CHECK (corrected_time IS NULL OR state = 'FAILED'),
    doubt_not_processed INTEGER CHECK (doubt_not_processed = 1),
    -- A JSON object: the rule that asked for a second person, how many are needed, the owner of who
    -- asked for the refund, and the decisions.
    approval            TEXT,
    approval_expire_time INTEGER,

    -- The schedule of lookups. Not part of the history: no digest covers it, and it changes without
    -- an event.
    next_check          INTEGER CHECK (next_check IS NULL OR state = 'IN_DOUBT' OR state = 'SUBMITTED'
        OR state = 'NEEDS_REVIEW' OR state = 'FAILED'),
    unheard             INTEGER CHECK (unheard = 1),
    doubt_check_count   INTEGER CHECK (doubt_check_count >= 0),

    CHECK (update_time >= create_time),
    CHECK (attempt_count > 0 OR dispatch_time IS NULL),
    CHECK ((attempt_count > 0) = (coalesce(last_dispatch_time, dispatch_time) IS NOT NULL)),
    CHECK (attempted_elsewhere IS NULL OR placed_time IS NOT NULL),
    -- A refund in doubt has a reason, and no other refund has one.
    CHECK ((state = 'IN_DOUBT' OR state = 'NEEDS_REVIEW') = (doubt_reason IS NOT NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_since IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_check_count IS NULL)),
    CHECK ((doubt_reason IS NULL) = (doubt_evidence IS NULL)),
    CHECK ((state = 'SUCCEEDED' OR state = 'PARTIALLY_SUCCEEDED' OR state = 'FAILED' OR state = 'CANCELLED')
         = (complete_time IS NOT NULL)),
    CHECK (state = 'PENDING' OR not_before IS NULL),
    CHECK (state <> 'AWAITING_APPROVAL' OR (approval IS NOT NULL AND attempt_count = 0)),
    CHECK ((approval IS NULL) = (approval_expire_time IS NULL)),
    -- A refund that may have happened is never cancelled.
    CHECK (state <> 'CANCELLED' OR unanswered_attempts = 0),
    CHECK ((error_code IS NULL) = (error_message IS NULL)),
    CHECK ((error_code IS NULL) = (error_http_status IS NULL)),
    CHECK ((error_code IS NULL) = (error_category IS NULL)),
    CHECK ((refunded_currency_code IS NULL) = (refunded_minor_units IS NULL)),
    CHECK ((expected_currency_code IS NULL) = (expected_minor_units IS NULL)),
    CHECK ((assumed_currency_code IS NULL) = (assumed_minor_units IS NULL))
) STRICT;

-- For a page of some states or of one account: each state of each account is a short ordered walk,
-- and the walks are merged.
CREATE INDEX refunds_by_state ON refunds (account, state, ordinal, create_time);
-- For a page of the refunds that one caller asked for.
CREATE INDEX refunds_by_caller ON refunds (created_by, ordinal) WHERE created_by IS NOT NULL;
-- As refunds_by_state, for reassigned refunds: callers of the first account may see them too.
CREATE INDEX refunds_by_first_account ON refunds (first_account, state, ordinal, create_time)
    WHERE first_account IS NOT NULL;
-- PENDING refunds of one account and place, to be sent now or later.
CREATE INDEX refunds_due_now ON refunds (account, endpoint, login, currency, create_time)
    WHERE state = 'PENDING' AND not_before IS NULL;
CREATE INDEX refunds_due_later ON refunds (account, endpoint, login, currency, not_before)
    WHERE state = 'PENDING' AND not_before IS NOT NULL;
-- The oldest PENDING refunds that were put off; refunds_due_now has the others.
CREATE INDEX refunds_put_off ON refunds (account, endpoint, login, currency, create_time)
    WHERE state = 'PENDING' AND not_before IS NOT NULL;
-- Refunds of one account and place, to be looked up now or later.
CREATE INDEX refunds_to_check_now ON refunds (account, endpoint, login, currency, update_time)
    WHERE (state = 'IN_DOUBT' OR state = 'SUBMITTED') AND next_check IS NULL;
CREATE INDEX refunds_to_check_later ON refunds (account, endpoint, login, currency, next_check)
    WHERE next_check IS NOT NULL;
CREATE INDEX refunds_unheard ON refunds (account, endpoint, login, currency, next_check) WHERE unheard = 1;
-- The oldest doubt of an account.
CREATE INDEX refunds_in_doubt ON refunds (account, doubt_since) WHERE doubt_since IS NOT NULL;
-- Where open refunds are: compared with the configuration at every start.
CREATE INDEX refunds_open ON refunds (account, endpoint, login, currency, provider)
    WHERE state = 'PENDING' OR state = 'AWAITING_APPROVAL' OR state = 'SUBMITTED' OR state = 'IN_DOUBT'
    OR state = 'NEEDS_REVIEW';
-- Refunds that wait for an approval, at whatever account: they fail at that time.
CREATE INDEX refunds_to_approve ON refunds (approval_expire_time) WHERE state = 'AWAITING_APPROVAL';

CREATE TRIGGER refunds_are_kept BEFORE DELETE ON refunds
BEGIN
    SELECT RAISE(ABORT, 'a refund is never deleted');
END;

CREATE TRIGGER intents_never_change BEFORE UPDATE OF
    ordinal, id, provider, target, labels, create_time, created_by, expected_currency_code, expected_minor_units,
    assumed_currency_code, assumed_minor_units
ON refunds
BEGIN
    SELECT RAISE(ABORT, 'an intent never changes');
END;

-- Target::index_references, for callers that search by target.
CREATE TABLE refund_references (
    reference TEXT    NOT NULL,
    ordinal   INTEGER NOT NULL REFERENCES refunds (ordinal),
    PRIMARY KEY (reference, ordinal)
) STRICT, WITHOUT ROWID;

-- The refund that reserves a key of a target: Refund::reservations. The login is that of the
-- reservation; the host is left out, so that a new host releases nothing.
CREATE TABLE reservations (
    key        TEXT    NOT NULL,
    login      TEXT    NOT NULL,
    ordinal    INTEGER NOT NULL REFERENCES refunds (ordinal),
    -- Null: as long as the refund stays in its state.
    until_time INTEGER,
    PRIMARY KEY (key, login)
) STRICT, WITHOUT ROWID;

-- The keys that likely duplicates share, and until when they count: Target::similarity_key,
-- Refund::similarity_window.
CREATE TABLE similarity (
    key             TEXT    NOT NULL,
    ordinal         INTEGER NOT NULL REFERENCES refunds (ordinal),
    login           TEXT    NOT NULL,
    until_time      INTEGER NOT NULL,
    firm_until_time INTEGER,
    PRIMARY KEY (key, ordinal)
) STRICT, WITHOUT ROWID;

-- References that one refund gave together: they name one payee.
CREATE TABLE payee_references (
    reference TEXT    NOT NULL,
    other     TEXT    NOT NULL,
    PRIMARY KEY (reference, other)
) STRICT, WITHOUT ROWID;

-- Logins that an operator, or the configuration, declared to be one account at the provider. Each
-- pair is stored both ways.
CREATE TABLE login_links (
    login TEXT NOT NULL,
    other TEXT NOT NULL,
    PRIMARY KEY (login, other)
) STRICT, WITHOUT ROWID;

-- The periods in which the configuration did not have this account and place. They do not count
-- towards the expiry of its refunds.
CREATE TABLE standstills (
    account    TEXT    NOT NULL,
    endpoint   TEXT    NOT NULL,
    login      TEXT    NOT NULL,
    currency   TEXT    NOT NULL,
    begin_time INTEGER NOT NULL,
    end_time   INTEGER CHECK (end_time >= begin_time),
    PRIMARY KEY (account, endpoint, login, currency, begin_time)
) STRICT, WITHOUT ROWID;

-- What the refunds of a caller ("caller:NAME") or an account ("account:NAME") count together, by
-- the hour of their creation since 1970, for limits over a day. Kept from the first refund that is
-- judged by such a limit to the first one that is not: a refund without limits writes nothing here.
CREATE TABLE spending (
    subject     TEXT    NOT NULL,
    hour        INTEGER NOT NULL,
    -- Empty: nothing said how much the refunds are.
    currency    TEXT    NOT NULL,
    refunds     INTEGER NOT NULL CHECK (refunds >= 0),
    minor_units INTEGER NOT NULL CHECK (minor_units >= 0),
    PRIMARY KEY (subject, hour, currency)
) STRICT, WITHOUT ROWID;

-- Of whom spending is kept, and the oldest hour that it is complete for.
CREATE TABLE spending_subjects (
    subject   TEXT    NOT NULL PRIMARY KEY,
    from_hour INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The periods in which an operator, or the start of a restored ledger, keeps an account from
-- sending. They do not count towards the expiry of its refunds. An actor of null is the gateway.
CREATE TABLE account_pauses (
    account    TEXT    NOT NULL CHECK (length(account) BETWEEN 1 AND 63),
    begin_time INTEGER NOT NULL,
    reason     TEXT    NOT NULL CHECK (reason <> ''),
    actor      TEXT    CHECK (actor <> 'gateway'),
    actor_credential TEXT CHECK (actor_credential <> ''),
    actor_policy     TEXT CHECK (actor_policy <> ''),
    end_time   INTEGER CHECK (end_time >= begin_time),
    end_actor  TEXT    CHECK (end_actor <> 'gateway'),
    end_actor_credential TEXT CHECK (end_actor_credential <> ''),
    end_actor_policy     TEXT CHECK (end_actor_policy <> ''),
    PRIMARY KEY (account, begin_time),
    CHECK (end_time IS NOT NULL OR (end_actor IS NULL AND end_actor_credential IS NULL AND end_actor_policy IS NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX account_pauses_running ON account_pauses (account) WHERE end_time IS NULL;

-- The history. Rows are only appended.
CREATE TABLE events (
    sequence      INTEGER PRIMARY KEY CHECK (sequence >= 1),
    ordinal       INTEGER NOT NULL REFERENCES refunds (ordinal),
    revision      INTEGER NOT NULL CHECK (revision >= 1),
    event_time    INTEGER NOT NULL,
    from_state    TEXT
        CHECK (from_state = 'PENDING' OR from_state = 'DISPATCHING' OR from_state = 'SUBMITTED'
        OR from_state = 'IN_DOUBT' OR from_state = 'NEEDS_REVIEW' OR from_state = 'SUCCEEDED'
        OR from_state = 'PARTIALLY_SUCCEEDED' OR from_state = 'FAILED' OR from_state = 'CANCELLED'
        OR from_state = 'AWAITING_APPROVAL'),
    to_state      TEXT NOT NULL
        CHECK (to_state = 'PENDING' OR to_state = 'DISPATCHING' OR to_state = 'SUBMITTED'
        OR to_state = 'IN_DOUBT' OR to_state = 'NEEDS_REVIEW' OR to_state = 'SUCCEEDED'
        OR to_state = 'PARTIALLY_SUCCEEDED' OR to_state = 'FAILED' OR to_state = 'CANCELLED'
        OR to_state = 'AWAITING_APPROVAL'),
    kind          TEXT NOT NULL,
    -- The attempt that the event begins, or that was in flight before it. 0: none.
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
    -- Null: the gateway.
    actor         TEXT CHECK (actor <> 'gateway'),
    -- What the actor showed, and the access file that allowed it. Null: the gateway, or there was
    -- no access file.
    actor_credential TEXT CHECK (actor_credential <> ''),
    actor_policy     TEXT CHECK (actor_policy <> ''),
    -- Null: kind and attempt say it all.
    note          TEXT,
    -- Null: the refund's row was never stored as it was after this event, because the same
    -- transaction recorded the next one.
    refund_digest BLOB CHECK (length(refund_digest) = 32),
    chain_hash    BLOB NOT NULL CHECK (length(chain_hash) = 32),
    UNIQUE (ordinal, revision),
    CHECK (actor IS NOT NULL OR (actor_credential IS NULL AND actor_policy IS NULL)),
    CHECK ((from_state IS NULL) = (revision = 1)),
    CHECK ((kind = 'created') = (revision = 1)),
    CHECK ((kind = 'created' OR kind = 'dispatched') = (note IS NULL)),
    -- An attempt begins once and ends once: its number is in both events and in no other.
    CHECK ((attempt > 0) = (to_state = 'DISPATCHING' OR (from_state IS NOT NULL AND from_state = 'DISPATCHING'))),
    CHECK (from_state IS NULL OR from_state <> 'DISPATCHING' OR to_state <> 'DISPATCHING')
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

-- Every access file that was in force, by its SHA-256. The policy of an event is the beginning of
-- one.
CREATE TABLE access_files (
    digest    TEXT    PRIMARY KEY CHECK (length(digest) = 64),
    text      TEXT    NOT NULL,
    load_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER access_files_never_change BEFORE UPDATE ON access_files
BEGIN
    SELECT RAISE(ABORT, 'an access file is never edited');
END;

CREATE TRIGGER access_files_are_kept BEFORE DELETE ON access_files
BEGIN
    SELECT RAISE(ABORT, 'an access file is never deleted');
END;

-- The span that recorded a refund, as W3C Trace Context writes it, so that later lookups can link
-- to it. No hash covers it, and no decision depends on it.
CREATE TABLE refund_traces (
    ordinal      INTEGER PRIMARY KEY REFERENCES refunds (ordinal),
    trace_parent TEXT    NOT NULL CHECK (length(trace_parent) BETWEEN 1 AND 64)
) STRICT;

-- Refunds are recorded nearly in the order of their create_time: requests overtake each other on
-- their way to the ledger, and clocks are set back. So the refunds of a period are found by their
-- ordinals, and this says how much later and earlier to look.
CREATE TABLE clock_disorder (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    -- By how many microseconds a refund's create_time has ever been behind that of a refund
    -- recorded before it.
    max_micros INTEGER NOT NULL CHECK (max_micros >= 0),
    -- The latest create_time that another refund was recorded after with an earlier one. The latest
    -- of all is this one or that of the last refund. Null: there was none.
    overtaken  INTEGER
) STRICT;

INSERT INTO clock_disorder (only_row, max_micros) VALUES (1, 0);

-- What the ledger says about itself.
CREATE TABLE ledger_identity (
    only_row        INTEGER PRIMARY KEY CHECK (only_row = 1),
    -- 32 hex digits, drawn when the ledger is created. Copies keep it.
    id              TEXT    NOT NULL CHECK (length(id) = 32),
    -- Set in its copy by `recoup backup`. The next start pauses every account, and then it is null.
    is_backup_copy  INTEGER CHECK (is_backup_copy = 1),
    -- A checkpoint of this ledger was written once, so that one is expected at a start.
    has_checkpoints INTEGER CHECK (has_checkpoints = 1),
    -- The last start that paused every account because the ledger had lost history. Null: there was
    -- none, or all accounts were resumed since.
    restored_time   INTEGER
) STRICT;

INSERT INTO ledger_identity (only_row, id) VALUES (1, lower(hex(randomblob(16))));

CREATE TRIGGER the_id_never_changes BEFORE UPDATE OF only_row, id ON ledger_identity
BEGIN
    SELECT RAISE(ABORT, 'the id of a ledger never changes');
END;

CREATE TRIGGER the_identity_is_kept BEFORE DELETE ON ledger_identity
BEGIN
    SELECT RAISE(ABORT, 'the identity of a ledger is never deleted');
END;
