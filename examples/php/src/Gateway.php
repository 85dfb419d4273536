<?php

declare(strict_types=1);

namespace Recoup\Example;

/**
 * recoup's JSON endpoint (the Connect protocol), with a token and a deadline on every call. Messages
 * are arrays in the contract's JSON mapping.
 */
final class Gateway
{
    /** In seconds. The gateway answers shortly before it, with the refund as it then is. */
    private const DEADLINE = 30;

    /** In seconds: how much later curl itself gives up. */
    private const GRACE = 5;

    /** The flag of the last envelope of a stream. */
    private const END_OF_STREAM = 2;

    public function __construct(
        private readonly string $url,
        #[\SensitiveParameter] private readonly string $token,
        private readonly ?string $caFile = null,
    ) {
    }

    public function createRefund(string $account, string $order, string $refundId): array
    {
        return $this->call('RefundService/CreateRefund', [
            'refundId' => $refundId,
            'account' => $account,
            'sectigo' => ['orderNumber' => $order, 'reason' => 'SECTIGO_REFUND_REASON_OTHER'],
        ]);
    }

    /** Returns when the refund has changed, or shortly before the deadline. */
    public function waitRefund(array $seen): array
    {
        return $this->call('RefundService/WaitRefund', [
            'name' => $seen['name'],
            'afterRevision' => $seen['revision'],
        ]);
    }

    public function validationStatus(string $account, string $order): array
    {
        $request = ['account' => $account, 'orderNumber' => $order];
        return $this->call('ValidationStatusService/GetValidationStatus', $request)['validationStatus'];
    }

    /**
     * Reads the events of the ledger after the sequence, until the deadline or until $handle returns
     * false.
     *
     * @param callable(array): bool $handle
     */
    public function streamEvents(int $afterSequence, int $seconds, callable $handle): void
    {
        $request = json_encode(['afterSequence' => $afterSequence], JSON_THROW_ON_ERROR);
        $curl = $this->request('RefundService/StreamRefundEvents', 'application/connect+json', $seconds);
        curl_setopt($curl, CURLOPT_POSTFIELDS, pack('CN', 0, strlen($request)) . $request);

        $received = '';
        $end = null;
        $isStopped = false;
        $receive = function (\CurlHandle $curl, string $bytes) use ($handle, &$received, &$end, &$isStopped): int {
            $received .= $bytes;
            foreach (self::takeEnvelopes($received) as [$flags, $message]) {
                if (($flags & self::END_OF_STREAM) !== 0) {
                    $end = $message;
                } elseif (!$handle($message['event'])) {
                    $isStopped = true;
                    return 0;
                }
            }
            return strlen($bytes);
        };
        curl_setopt($curl, CURLOPT_WRITEFUNCTION, $receive);

        curl_exec($curl);
        if ($isStopped || curl_errno($curl) === CURLE_OPERATION_TIMEDOUT) {
            return;
        }
        if ($end === null) {
            throw new CallError(curl_error($curl) ?: 'the stream ended without its last envelope');
        }
        if (isset($end['error']) && ($end['error']['code'] ?? null) !== 'deadline_exceeded') {
            throw CallError::fromAnswer($end['error']);
        }
    }

    /**
     * Takes the complete envelopes from the bytes: a byte of flags, four of length, and as much JSON.
     *
     * @return list<array{int, array}>
     */
    private static function takeEnvelopes(string &$bytes): array
    {
        $envelopes = [];
        while (strlen($bytes) >= 5) {
            ['flags' => $flags, 'length' => $length] = unpack('Cflags/Nlength', $bytes);
            if (strlen($bytes) < 5 + $length) {
                break;
            }
            $message = json_decode(substr($bytes, 5, $length), true, flags: JSON_THROW_ON_ERROR);
            $envelopes[] = [$flags, $message];
            $bytes = substr($bytes, 5 + $length);
        }
        return $envelopes;
    }

    private function call(string $method, array $request): array
    {
        $curl = $this->request($method, 'application/json', self::DEADLINE);
        curl_setopt($curl, CURLOPT_POSTFIELDS, json_encode($request, JSON_THROW_ON_ERROR));
        curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
        $body = curl_exec($curl);
        if ($body === false) {
            throw new CallError(curl_error($curl));
        }
        $answer = json_decode($body, true);
        if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) !== 200 || !is_array($answer)) {
            throw CallError::fromAnswer($answer);
        }
        return $answer;
    }

    private function request(string $method, string $contentType, int $seconds): \CurlHandle
    {
        $curl = curl_init("$this->url/recoup.v1.$method");
        curl_setopt_array($curl, [
            CURLOPT_POST => true,
            CURLOPT_CONNECTTIMEOUT => self::GRACE,
            CURLOPT_TIMEOUT => $seconds + self::GRACE,
            CURLOPT_HTTPHEADER => [
                "authorization: Bearer $this->token",
                "content-type: $contentType",
                'connect-protocol-version: 1',
                'connect-timeout-ms: ' . $seconds * 1000,
            ],
        ]);
        if ($this->caFile !== null) {
            curl_setopt($curl, CURLOPT_CAINFO, $this->caFile);
        }
        return $curl;
    }
}
