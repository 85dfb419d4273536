<?php

declare(strict_types=1);

namespace WHMCS\Module\Gateway\Recoup;

/** recoup's JSON endpoint. Messages are arrays in the contract's JSON mapping. */
final class Client
{
    /** In seconds. The gateway answers shortly before it, with the refund as it then is. */
    private const DEADLINE = 20;

    /** In seconds: how much later curl itself gives up. */
    private const GRACE = 5;

    public function __construct(
        private readonly string $url,
        #[\SensitiveParameter] private readonly string $token,
        private readonly ?string $caFile,
    ) {
    }

    /**
     * @return array the refund
     * @throws CallError
     */
    public function createRefund(array $request): array
    {
        return $this->call('CreateRefund', $request);
    }

    /**
     * @return array the refund
     * @throws CallError
     */
    public function getRefund(string $refundId): array
    {
        return $this->call('GetRefund', ['name' => "refunds/$refundId"]);
    }

    private function call(string $method, array $request): array
    {
        $curl = curl_init("$this->url/recoup.v1.RefundService/$method");
        curl_setopt_array($curl, [
            CURLOPT_POSTFIELDS => json_encode($request, JSON_THROW_ON_ERROR),
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_CONNECTTIMEOUT => self::GRACE,
            CURLOPT_TIMEOUT => self::DEADLINE + self::GRACE,
            CURLOPT_HTTPHEADER => [
                "authorization: Bearer $this->token",
                'content-type: application/json',
                'connect-protocol-version: 1',
                'connect-timeout-ms: ' . self::DEADLINE * 1000,
            ],
        ]);
        if ($this->caFile !== null) {
            curl_setopt($curl, CURLOPT_CAINFO, $this->caFile);
        }
        $body = curl_exec($curl);
        if ($body === false) {
            throw new CallError(curl_error($curl), false);
        }
        $answer = json_decode($body, true);
        if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) !== 200 || !is_array($answer['refund'] ?? null)) {
            throw CallError::fromAnswer($answer);
        }
        return $answer['refund'];
    }
}
