<?php

declare(strict_types=1);

namespace WHMCS\Module\Gateway\Recoup;

/**
 * Which refund belongs to which transaction, in WHMCS's database: stored before the first call, and
 * never deleted. The SQL is what MySQL, MariaDB and SQLite share.
 */
final class RefundTable
{
    public function __construct(private readonly \PDO $database)
    {
        $database->setAttribute(\PDO::ATTR_ERRMODE, \PDO::ERRMODE_EXCEPTION);
        // calls: how many calls have begun that the gateway has not refused. Only where it is 0 is
        // it known that the gateway has no such refund.
        $database->exec(
            'CREATE TABLE IF NOT EXISTS mod_recoup_refunds (
                refund_id VARCHAR(50) NOT NULL PRIMARY KEY,
                invoice_id INTEGER NOT NULL,
                transaction_id VARCHAR(190) NOT NULL,
                attempt INTEGER NOT NULL,
                amount VARCHAR(32) NOT NULL,
                request TEXT NOT NULL,
                outcome VARCHAR(16) NOT NULL,
                calls INTEGER NOT NULL,
                changed_at INTEGER NOT NULL,
                UNIQUE (invoice_id, transaction_id, attempt)
            )'
        );
    }

    /**
     * The transaction's newest refund, or a new one where there is none or the newest is over. Of
     * two that come at once, one makes it and both get it.
     */
    public function take(int $invoiceId, string $transactionId, string $amount, array $request): array
    {
        while (true) {
            $newest = $this->newest($invoiceId, $transactionId);
            if ($newest !== null && !$newest['outcome']->isOver()) {
                return $newest;
            }
            $refundId = self::newUuid();
            $attempt = ($newest['attempt'] ?? 0) + 1;
            $json = json_encode(['refundId' => $refundId] + $request, JSON_THROW_ON_ERROR);
            try {
                $this->execute(
                    'INSERT INTO mod_recoup_refunds VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)',
                    [$refundId, $invoiceId, $transactionId, $attempt, $amount, $json, Outcome::Open->value, time()],
                );
            } catch (\PDOException $error) {
                // 23: the other one has made it.
                if (!str_starts_with((string) $error->getCode(), '23')) {
                    throw $error;
                }
            }
        }
    }

    /** Before a call. False: the refund is not open any more. */
    public function beginCall(string $refundId): bool
    {
        return $this->change('calls = calls + 1', $refundId, Outcome::Open);
    }

    /** After a call that the gateway refused: where it has refused all of them, the refund is over. */
    public function callRefused(string $refundId): void
    {
        $this->change('calls = calls - 1', $refundId, Outcome::Open);
        $this->change("outcome = 'refused'", $refundId, Outcome::Open, 'AND calls = 0');
    }

    /** True for the one who changes it, and for no other. */
    public function close(string $refundId, Outcome $from, Outcome $to): bool
    {
        return $this->change("outcome = '$to->value'", $refundId, $from);
    }

    /** Those with the outcome that changed no longer than so many seconds ago. */
    public function changedSince(Outcome $outcome, int $seconds): array
    {
        return $this->rows('outcome = ? AND changed_at >= ?', [$outcome->value, time() - $seconds]);
    }

    public function open(): array
    {
        return $this->rows('outcome = ?', [Outcome::Open->value]);
    }

    private function newest(int $invoiceId, string $transactionId): ?array
    {
        $rows = $this->rows(
            'invoice_id = ? AND transaction_id = ? ORDER BY attempt DESC LIMIT 1',
            [$invoiceId, $transactionId],
        );
        return $rows[0] ?? null;
    }

    private function change(string $assignment, string $refundId, Outcome $from, string $condition = ''): bool
    {
        $statement = $this->execute(
            "UPDATE mod_recoup_refunds SET $assignment, changed_at = ? WHERE refund_id = ? AND outcome = ? $condition",
            [time(), $refundId, $from->value],
        );
        return $statement->rowCount() === 1;
    }

    private function rows(string $condition, array $values): array
    {
        $statement = $this->execute("SELECT * FROM mod_recoup_refunds WHERE $condition", $values);
        return array_map(
            fn (array $row): array => [
                'request' => json_decode($row['request'], true, flags: JSON_THROW_ON_ERROR),
                'outcome' => Outcome::from($row['outcome']),
            ] + $row,
            $statement->fetchAll(\PDO::FETCH_ASSOC),
        );
    }

    private function execute(string $sql, array $values): \PDOStatement
    {
        $statement = $this->database->prepare($sql);
        $statement->execute($values);
        return $statement;
    }

    /** A random UUID (version 4). */
    private static function newUuid(): string
    {
        $bytes = random_bytes(16);
        $bytes[6] = chr(ord($bytes[6]) & 0x0f | 0x40);
        $bytes[8] = chr(ord($bytes[8]) & 0x3f | 0x80);
        return vsprintf('%s%s-%s-%s-%s-%s%s%s', str_split(bin2hex($bytes), 4));
    }
}
