<?php

/**
 * What the module uses of WHMCS, with a database and books in memory. It behaves as WHMCS's manual
 * says; WHMCS itself is not here.
 */

declare(strict_types=1);

namespace {
    define('WHMCS', true);
    define('ROOTDIR', dirname(__DIR__));

    final class Whmcs
    {
        public static \PDO $database;
        public static array $settings;
        /** @var array<string, array> refunds by their transaction id */
        public static array $books = [];
        /** @var list<string> */
        public static array $log = [];
        /** @var list<callable> */
        public static array $cronHooks = [];

        /** What a person enters in WHMCS's settings of the module. */
        public static function settingsFromEnvironment(): array
        {
            return [
                'url' => self::setting('RECOUP_URL'),
                'token' => trim(file_get_contents(self::setting('RECOUP_TOKEN_FILE'))),
                'caFile' => getenv('RECOUP_CA_FILE') ?: '',
                'account' => 'sectigo',
            ];
        }

        public static function setting(string $name): string
        {
            return getenv($name) ?: exit("$name is not set\n");
        }

        /** A person clicks on Refund. */
        public static function refund(
            int $invoice,
            string $transaction,
            string $amount = '99.00',
            array $with = [],
        ): array {
            $answer = recoup_refund($with + self::$settings + [
                'invoiceid' => $invoice,
                'transid' => $transaction,
                'amount' => $amount,
                'currency' => 'USD',
            ]);
            if ($answer['status'] === 'success') {
                self::book(['invoiceid' => $invoice, 'transid' => $answer['transid'], 'amountout' => $amount]);
            }
            return $answer;
        }

        public static function runCron(): void
        {
            foreach (self::$cronHooks as $hook) {
                $hook([]);
            }
        }

        public static function book(array $transaction): array
        {
            if (isset(self::$books[$transaction['transid']])) {
                return ['result' => 'error', 'message' => 'Transaction ID must be Unique'];
            }
            self::$books[$transaction['transid']] = $transaction;
            return ['result' => 'success'];
        }
    }

    final class App
    {
        public static function load_function(string $name): void
        {
        }
    }

    function add_hook(string $point, int $priority, callable $hook): void
    {
        Whmcs::$cronHooks[] = $hook;
    }

    function getGatewayVariables(string $gateway): array
    {
        return ['type' => 'Invoices'] + Whmcs::$settings;
    }

    function localAPI(string $command, array $parameters): array
    {
        return match ($command) {
            'GetTransactions' => [
                'result' => 'success',
                'totalresults' => isset(Whmcs::$books[$parameters['transid']]) ? 1 : 0,
            ],
            'AddTransaction' => Whmcs::book($parameters),
        };
    }

    function logActivity(string $message): void
    {
        Whmcs::$log[] = $message;
    }
}

namespace WHMCS\Database {
    final class Capsule
    {
        public static function connection(): self
        {
            return new self();
        }

        public function getPdo(): \PDO
        {
            return \Whmcs::$database;
        }
    }
}
