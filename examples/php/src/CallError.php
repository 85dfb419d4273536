<?php

declare(strict_types=1);

namespace Recoup\Example;

/** An error that a call ended with, as the Connect protocol carries it, or the connection's own. */
final class CallError extends \RuntimeException
{
    /** @param list<array<string, mixed>> $details */
    public function __construct(string $message, public readonly string $status = '', private array $details = [])
    {
        parent::__construct($message);
    }

    /** From the error of an answer: {"code", "message", "details": [{"type", "value", "debug"}]}. */
    public static function fromAnswer(mixed $error): self
    {
        if (!is_array($error) || !is_string($error['code'] ?? null)) {
            return new self('the answer is not the gateway\'s');
        }
        return new self($error['message'] ?? $error['code'], $error['code'], $error['details'] ?? []);
    }

    /** The detail of this type in readable form, where the error has one. */
    public function detail(string $type): ?array
    {
        foreach ($this->details as $detail) {
            if (($detail['type'] ?? null) === $type) {
                return $detail['debug'] ?? null;
            }
        }
        return null;
    }

    /**
     * Whether the error leaves open what became of the refund, or passes by itself. Only an error
     * with an ErrorInfo says that the call recorded nothing.
     */
    public function isUnanswered(): bool
    {
        return in_array($this->status, ['unavailable', 'deadline_exceeded'], true)
            || $this->detail('google.rpc.ErrorInfo') === null;
    }
}
