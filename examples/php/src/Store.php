<?php

declare(strict_types=1);

namespace Recoup\Example;

/**
 * What must survive a crash of this program: which refund belongs to which order, and how far the
 * event stream has been read. A shop keeps both in its database.
 */
final class Store
{
    /** @var array<string, string> */
    private array $refunds = [];
    private int $lastSequence = 0;

    public function __construct(private readonly string $path)
    {
        if (is_file($path)) {
            $content = json_decode(file_get_contents($path), true, flags: JSON_THROW_ON_ERROR);
            $this->refunds = $content['refunds'];
            $this->lastSequence = $content['lastSequence'];
        }
    }

    /** The order's refund id. A new one is on disk before it is returned. */
    public function refundId(string $order): string
    {
        if (!isset($this->refunds[$order])) {
            $this->refunds[$order] = self::newUuid();
            $this->save();
        }
        return $this->refunds[$order];
    }

    public function lastSequence(): int
    {
        return $this->lastSequence;
    }

    /** Not on disk before save(). */
    public function setLastSequence(int $sequence): void
    {
        $this->lastSequence = $sequence;
    }

    /** A new file replaces the old one at once, so that a crash leaves one of the two. */
    public function save(): void
    {
        $content = ['refunds' => (object) $this->refunds, 'lastSequence' => $this->lastSequence];
        $json = json_encode($content, JSON_PRETTY_PRINT | JSON_THROW_ON_ERROR);
        $file = fopen("$this->path.new", 'w');
        $isWritten = $file !== false && fwrite($file, $json) === strlen($json) && fsync($file);
        if (!$isWritten || !rename("$this->path.new", $this->path) || !fsync(fopen(dirname($this->path), 'r'))) {
            throw new \RuntimeException("$this->path could not be written");
        }
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
