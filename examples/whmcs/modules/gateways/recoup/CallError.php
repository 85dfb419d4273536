<?php

declare(strict_types=1);

namespace WHMCS\Module\Gateway\Recoup;

/** A call without an answer, or with an error for one. */
final class CallError extends \RuntimeException
{
    /** @param bool $isRefusal the gateway says that this call recorded nothing and sent nothing */
    public function __construct(string $message, public readonly bool $isRefusal)
    {
        parent::__construct($message);
    }

    /** From an error of the Connect protocol. Only one with an ErrorInfo of recoup is a refusal. */
    public static function fromAnswer(mixed $error): self
    {
        foreach ($error['details'] ?? [] as $detail) {
            $info = $detail['debug'] ?? [];
            if ($detail['type'] === 'google.rpc.ErrorInfo' && ($info['domain'] ?? null) === 'recoup.v1') {
                return new self("$info[reason]: $error[message]", true);
            }
        }
        return new self($error['message'] ?? 'an answer that is not the gateway\'s', false);
    }
}
