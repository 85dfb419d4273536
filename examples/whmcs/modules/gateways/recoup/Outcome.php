<?php

declare(strict_types=1);

namespace WHMCS\Module\Gateway\Recoup;

/** What is known of a refund, as the table keeps it. */
enum Outcome: string
{
    /** It may have happened, or may still happen: it is asked for again, under the same id. */
    case Open = 'open';
    /** The money moved. */
    case Moved = 'moved';
    /** Decided: no money moved. Another try gets another id. */
    case NotMoved = 'not_moved';
    /** The gateway took none of the calls. Another try gets another id. */
    case Refused = 'refused';
    /** Some of the money moved, or the provider corrected itself: a person books it. */
    case Irregular = 'irregular';

    /** Where no money moved, and none will. */
    private const NOT_MADE = ['STATE_FAILED', 'STATE_CANCELLED'];

    /** What is not known to be decided is open, also a state that a later version adds. */
    public static function ofRefund(array $refund): self
    {
        $state = $refund['state'] ?? '';
        return match ($refund['moneyVerdict'] ?? '') {
            'MONEY_VERDICT_MOVED' => $state === 'STATE_SUCCEEDED' ? self::Moved : self::Irregular,
            'MONEY_VERDICT_NOT_MOVED' => in_array($state, self::NOT_MADE, true) ? self::NotMoved : self::Open,
            default => self::Open,
        };
    }

    /**
     * WHMCS books a refund on "success" and lets the person try again on all else, so "declined" is
     * for what is decided: no money moved, and none will.
     */
    public function whmcsStatus(): string
    {
        return match ($this) {
            self::Moved => 'success',
            self::NotMoved => 'declined',
            self::Open, self::Refused, self::Irregular => 'error',
        };
    }

    /** Whether a further refund of the transaction is a new one. */
    public function isOver(): bool
    {
        return $this === self::NotMoved || $this === self::Refused;
    }
}
