<?php

/**
 * Refunds a Sectigo order through recoup's JSON endpoint. Run again with the same arguments it sends
 * nothing, and shows the same refund.
 *
 * Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong usage.
 */

declare(strict_types=1);

namespace Recoup\Example;

require __DIR__ . '/src/CallError.php';
require __DIR__ . '/src/Gateway.php';
require __DIR__ . '/src/Store.php';

const MOVED = 0;
const REFUSED = 1;
const WRONG_USAGE = 2;
const NOT_MOVED = 4;
const UNDECIDED = 5;

// In seconds: how long to go on asking before the program leaves the refund to its next run.
const PATIENCE = 120;
const PAUSE = 2;

const TERMINAL = ['STATE_SUCCEEDED', 'STATE_PARTIALLY_SUCCEEDED', 'STATE_FAILED', 'STATE_CANCELLED'];
const FOR_A_PERSON = ['STATE_NEEDS_REVIEW', 'STATE_AWAITING_APPROVAL'];

function run(Gateway $gateway, Store $store, string $account, string $order): int
{
    $refundId = $store->refundId($order);

    $refund = refundUntilDecided($gateway, $account, $order, $refundId);
    if ($refund === null) {
        fwrite(STDERR, "refund $refundId is undecided: run the same command again\n");
        return UNDECIDED;
    }
    $state = substr($refund['state'], strlen('STATE_'));
    $verdict = substr($refund['moneyVerdict'], strlen('MONEY_VERDICT_'));
    echo "created $refundId $state $verdict\n";
    if (in_array($refund['state'], FOR_A_PERSON, true)) {
        fwrite(STDERR, "refund $refundId waits for a person: run it again when they have decided\n");
        return UNDECIDED;
    }

    $again = $gateway->createRefund($account, $order, $refundId);
    echo "replayed $refundId ", json_encode($again['replayed'] ?? false), "\n";
    showRefusal($gateway, $account, $refundId);
    followEvents($gateway, $store, $refund);
    echo 'validation ', $gateway->validationStatus($account, $order)['orderStatusText'] ?? '', "\n";

    return match ($refund['moneyVerdict']) {
        'MONEY_VERDICT_MOVED' => MOVED,
        'MONEY_VERDICT_NOT_MOVED' => NOT_MOVED,
        default => UNDECIDED,
    };
}

/**
 * Creates the refund and waits until it is decided or needs a person. After a call without an answer
 * it asks again, always under the same id. Null: patience has run out.
 */
function refundUntilDecided(Gateway $gateway, string $account, string $order, string $refundId): ?array
{
    $giveUp = hrtime(true) + PATIENCE * 1_000_000_000;
    $refund = null;
    while (hrtime(true) < $giveUp) {
        try {
            $refund = $refund === null
                ? $gateway->createRefund($account, $order, $refundId)['refund']
                : $gateway->waitRefund($refund)['refund'];
            if (in_array($refund['state'], [...TERMINAL, ...FOR_A_PERSON], true)) {
                return $refund;
            }
        } catch (CallError $error) {
            if (!$error->isUnanswered()) {
                throw $error;
            }
            fwrite(STDERR, "no answer about $refundId ({$error->getMessage()}): asking again\n");
            sleep(PAUSE);
        }
    }
    return null;
}

/** Asks for another order under the same id, which is refused, and prints why. */
function showRefusal(Gateway $gateway, string $account, string $refundId): void
{
    try {
        $gateway->createRefund($account, 'another-order', $refundId);
    } catch (CallError $error) {
        $info = $error->detail('google.rpc.ErrorInfo') ?? throw $error;
        $fields = array_column($error->detail('google.rpc.BadRequest')['fieldViolations'] ?? [], 'field');
        if (isset($info['metadata']['differing_fields'])) {
            array_unshift($fields, $info['metadata']['differing_fields']);
        }
        echo "refused {$info['reason']} ", implode(',', $fields), "\n";
        return;
    }
    throw new \RuntimeException("another order was taken under the id $refundId");
}

/**
 * Prints the refund's events that the store has not seen, then opens the stream once more where it
 * ended, as a program does after a restart.
 */
function followEvents(Gateway $gateway, Store $store, array $refund): void
{
    $seen = readEvents($gateway, $store, $refund, seconds: 5);
    echo 'events ', count($seen), $seen ? " $seen[0].." . end($seen) : '', "\n";
    $after = $store->lastSequence();
    readEvents($gateway, $store, $refund, seconds: 1);
    echo "resumed after $after\n";
}

/**
 * The sequences of the refund's events after the store's last one, up to its latest revision.
 *
 * @return list<int>
 */
function readEvents(Gateway $gateway, Store $store, array $refund, int $seconds): array
{
    $seen = [];
    $handle = function (array $event) use ($store, $refund, &$seen): bool {
        // Numbers of 64 bits are texts in JSON.
        $sequence = (int) $event['sequence'];
        if ($sequence <= $store->lastSequence()) {
            throw new \RuntimeException("event $sequence came twice");
        }
        $store->setLastSequence($sequence);
        if ($event['refund'] !== $refund['name']) {
            return true;
        }
        fprintf(STDERR, "%6d %s\n", $sequence, $event['note']);
        $seen[] = $sequence;
        return (int) $event['revision'] < (int) $refund['revision'];
    };
    $gateway->streamEvents($store->lastSequence(), $seconds, $handle);
    // Only now: after a crash, what was read since the last time comes again.
    $store->save();
    return $seen;
}

if ($argc !== 4) {
    fwrite(STDERR, "usage: php refund.php ACCOUNT ORDER STORE\n");
    exit(WRONG_USAGE);
}
foreach (['RECOUP_URL', 'RECOUP_TOKEN_FILE'] as $setting) {
    if (getenv($setting) === false) {
        fwrite(STDERR, "$setting is not set\n");
        exit(WRONG_USAGE);
    }
}
try {
    $token = trim(file_get_contents(getenv('RECOUP_TOKEN_FILE')));
    $gateway = new Gateway(getenv('RECOUP_URL'), $token, getenv('RECOUP_CA_FILE') ?: null);
    exit(run($gateway, new Store($argv[3]), $argv[1], $argv[2]));
} catch (CallError $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(REFUSED);
}
