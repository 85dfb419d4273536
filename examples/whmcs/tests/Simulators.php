<?php

declare(strict_types=1);

/** The control port of the simulators: what really happened at Sectigo, and faults. */
final class Simulators
{
    public function __construct(private readonly string $url)
    {
    }

    /** How often the order was refunded. */
    public function effects(string $order): int
    {
        return count($this->call('GET', "/v1/books?provider=sectigo&target=$order")['entries']);
    }

    /** An order that was never refunded. Each call returns another one. */
    public function freshOrder(): string
    {
        static $next = 1000999;
        while ($this->call('GET', "/v1/journal?provider=sectigo&target=$next")['entries']) {
            $next--;
        }
        return (string) $next--;
    }

    /** @return int the number of the fault */
    public function arm(array $fault): int
    {
        return $this->call('POST', '/v1/faults', ['provider' => 'sectigo'] + $fault)['id'];
    }

    public function disarm(int $fault): void
    {
        $this->call('DELETE', "/v1/faults/$fault");
    }

    private function call(string $method, string $path, ?array $body = null): array
    {
        $context = stream_context_create(['http' => [
            'method' => $method,
            'header' => 'content-type: application/json',
            'content' => $body === null ? '' : json_encode($body),
        ]]);
        $answer = file_get_contents($this->url . $path, false, $context);
        return $answer === '' ? [] : json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
    }
}
