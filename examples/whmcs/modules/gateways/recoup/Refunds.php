<?php

declare(strict_types=1);

namespace WHMCS\Module\Gateway\Recoup;

/** Refunds of WHMCS's transactions: what a person asks for, and what the cron job finds out later. */
final class Refunds
{
    /** In seconds. WHMCS itself books what a person's call has returned as a success before that. */
    private const BOOKED_BY_WHMCS = 900;

    /** In seconds: a little longer than the gateway follows a refund that was not made. */
    private const FOLLOWED = 8 * 86400;

    public function __construct(private readonly Client $client, private readonly RefundTable $table)
    {
    }

    /** @return array{status: string, rawdata: array, transid?: string, fees?: float} */
    public function refund(int $invoiceId, string $transactionId, string $amount, array $request): array
    {
        $row = $this->table->take($invoiceId, $transactionId, $amount, $request);
        if ($row['outcome'] === Outcome::Moved) {
            return self::error($row, 'refunded already; where WHMCS does not show it, the cron job will book it');
        }
        if ($row['outcome'] === Outcome::Irregular) {
            return self::error($row, 'refunded in part, or after a correction: a person has to book it');
        }
        if ((float) $row['amount'] !== (float) $amount) {
            return self::error($row, "a refund of $row[amount] is not decided yet");
        }
        try {
            [$outcome, $refund] = $this->ask($row);
        } catch (CallError $error) {
            return self::error($row, $error->isRefusal
                ? "the gateway refused the call: {$error->getMessage()}"
                : "no answer ({$error->getMessage()}): do not refund by another way, the cron job asks again");
        }
        return [
            'status' => $outcome->whmcsStatus(),
            'rawdata' => self::describe($row, $refund),
            'transid' => $row['refund_id'],
            'fees' => 0.0,
        ];
    }

    /** Asks about every refund that is not decided, and books what has moved meanwhile. */
    public function askAgain(): void
    {
        foreach ($this->table->open() as $row) {
            try {
                [$outcome, $refund] = $this->ask($row);
            } catch (CallError $error) {
                logActivity("recoup: refund $row[refund_id] is not decided: {$error->getMessage()}");
                continue;
            }
            $text = json_encode(self::describe($row, $refund));
            if ($outcome === Outcome::Moved) {
                $this->book($row);
            } elseif ($outcome !== Outcome::Open) {
                logActivity("recoup: invoice $row[invoice_id]: {$outcome->value}: $text");
            }
        }
        $this->bookForgotten();
        $this->followCorrections();
    }

    /**
     * Asks for the refund, under its id and with its content, as often as it takes. Success goes to
     * one caller alone: the one who books it.
     *
     * @return array{Outcome, array} the outcome and the refund
     * @throws CallError
     */
    private function ask(array $row): array
    {
        if (!$this->table->beginCall($row['refund_id'])) {
            throw new CallError('it was decided at the same time by another call', false);
        }
        try {
            $refund = $this->client->createRefund($row['request']);
        } catch (CallError $error) {
            if ($error->isRefusal) {
                $this->table->callRefused($row['refund_id']);
            }
            throw $error;
        }
        $outcome = Outcome::ofRefund($refund);
        if ($outcome !== Outcome::Open && !$this->table->close($row['refund_id'], Outcome::Open, $outcome)) {
            throw new CallError('it was decided at the same time by another call', false);
        }
        return [$outcome, $refund];
    }

    /** What moved without being booked, because a process died in between. */
    private function bookForgotten(): void
    {
        foreach ($this->table->changedSince(Outcome::Moved, self::FOLLOWED) as $row) {
            if ($row['changed_at'] < time() - self::BOOKED_BY_WHMCS) {
                $this->book($row);
            }
        }
    }

    /** Books the refund once: WHMCS takes each transaction id only once. */
    private function book(array $row): void
    {
        $found = localAPI('GetTransactions', ['transid' => $row['refund_id']]);
        if (($found['result'] ?? '') !== 'success' || $found['totalresults'] > 0) {
            return;
        }
        $added = localAPI('AddTransaction', [
            'paymentmethod' => 'recoup',
            'invoiceid' => $row['invoice_id'],
            'transid' => $row['refund_id'],
            'description' => "Refund of transaction $row[transaction_id]",
            'amountout' => $row['amount'],
        ]);
        $result = $added['result'] === 'success' ? 'booked' : 'could not be booked, and is tried again';
        logActivity("recoup: refund $row[refund_id] of invoice $row[invoice_id] $result");
    }

    /** A provider may report a refund after it, or an operator, had said that there was none. */
    private function followCorrections(): void
    {
        foreach ($this->table->changedSince(Outcome::NotMoved, self::FOLLOWED) as $row) {
            try {
                $outcome = Outcome::ofRefund($this->client->getRefund($row['refund_id']));
            } catch (CallError) {
                continue;
            }
            if ($outcome !== Outcome::Irregular) {
                continue;
            }
            if ($this->table->close($row['refund_id'], Outcome::NotMoved, $outcome)) {
                logActivity("recoup: the money of refund $row[refund_id] moved after all: a person has to book it");
            }
        }
    }

    private static function error(array $row, string $message): array
    {
        return ['status' => 'error', 'rawdata' => ['refund_id' => $row['refund_id'], 'message' => $message]];
    }

    private static function describe(array $row, array $refund): array
    {
        return [
            'refund_id' => $row['refund_id'],
            'state' => $refund['state'],
            'money_verdict' => $refund['moneyVerdict'],
            'waiting_for' => $refund['waitingFor'] ?? '',
            'provider_error' => $refund['providerError']['message'] ?? '',
        ];
    }
}
