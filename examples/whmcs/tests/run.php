<?php

/**
 * Calls the module as WHMCS would, against a gateway and the simulators, and compares what it says
 * with WHMCS's books and with what really happened.
 *
 * Needs RECOUP_URL, RECOUP_TOKEN_FILE, RECOUP_CA_FILE and SIMULATORS_URL, the simulators' control
 * port.
 */

declare(strict_types=1);

use WHMCS\Module\Gateway\Recoup\Outcome;

require __DIR__ . '/Whmcs.php';
require __DIR__ . '/Simulators.php';
require ROOTDIR . '/modules/gateways/recoup.php';
require ROOTDIR . '/includes/hooks/recoup.php';

function same(mixed $expected, mixed $actual, string $what): void
{
    if ($expected !== $actual) {
        throw new \Exception("$what: " . var_export($actual, true) . ', expected ' . var_export($expected, true));
    }
}

/** Runs the cron job until so many refunds are booked; fails after half a minute. */
function cronUntilBooked(int $count): void
{
    for ($giveUp = time() + 30; count(Whmcs::$books) < $count && time() < $giveUp; usleep(200_000)) {
        Whmcs::runCron();
    }
    same($count, count(Whmcs::$books), 'booked');
}

$simulators = new Simulators(Whmcs::setting('SIMULATORS_URL'));
$settings = Whmcs::settingsFromEnvironment();
$nowhere = ['url' => 'http://127.0.0.1:9'];

$tests = [
    'moved: success, booked once, and a second click moves nothing' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        $answer = Whmcs::refund(1, $order);
        same('success', $answer['status'], 'status');
        same('SUCCEEDED', substr($answer['rawdata']['state'], 6), 'state');
        same('error', Whmcs::refund(1, $order)['status'], 'the second click');
        Whmcs::runCron();
        same([$answer['transid']], array_keys(Whmcs::$books), 'booked');
        same(1, $simulators->effects($order), 'effects');
    },

    'four clicks at once: one success, and nothing twice' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        $database = tempnam(sys_get_temp_dir(), 'whmcs');
        $clicks = [];
        for ($i = 0; $i < 4; $i++) {
            $click = [PHP_BINARY, __DIR__ . '/click.php', $database, $order];
            $clicks[] = [proc_open($click, [1 => ['pipe', 'w']], $pipes), $pipes[1]];
        }
        $statuses = array_map(fn (array $click): string => stream_get_contents($click[1]), $clicks);
        sort($statuses);
        unlink($database);
        same(['error', 'error', 'error', 'success'], $statuses, 'statuses');
        same(1, $simulators->effects($order), 'effects');
    },

    'not moved: declined, and another try is another refund' => function () use ($simulators) {
        $first = Whmcs::refund(2, '2000002');
        same('declined', $first['status'], 'status');
        same('The refund period for this order is over', $first['rawdata']['provider_error'], 'why');
        $second = Whmcs::refund(2, '2000002');
        same('declined', $second['status'], 'status');
        same(false, $first['transid'] === $second['transid'], 'the same id');
        Whmcs::runCron();
        same([], Whmcs::$books, 'booked');
        same(0, $simulators->effects('2000002'), 'effects');
    },

    'in doubt: error, and the cron job books what moved' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        $simulators->arm([
            'operation' => '!AutoRefund', 'target' => $order, 'point' => 'after_effect', 'effect' => 'close',
        ]);
        $answer = Whmcs::refund(3, $order);
        same('error', $answer['status'], 'status');
        same('IN_DOUBT', substr($answer['rawdata']['state'], 6), 'state');
        same('error', Whmcs::refund(3, $order)['status'], 'a click meanwhile');
        same([], Whmcs::$books, 'booked too early');
        cronUntilBooked(1);
        same([$answer['transid']], array_keys(Whmcs::$books), 'booked');
        same('99.00', Whmcs::$books[$answer['transid']]['amountout'], 'amount');
        Whmcs::runCron();
        same('error', Whmcs::refund(3, $order)['status'], 'a click afterwards');
        same(1, $simulators->effects($order), 'effects');
    },

    'provider down: error while it waits, and the cron job books it' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        $fault = $simulators->arm(['point' => 'connect', 'effect' => 'refuse', 'repeat' => 'standing']);
        try {
            $answer = Whmcs::refund(4, $order);
            same('error', $answer['status'], 'status');
            same('PENDING', substr($answer['rawdata']['state'], 6), 'state');
            same('MONEY_VERDICT_NOT_MOVED', $answer['rawdata']['money_verdict'], 'verdict');
            Whmcs::runCron();
        } finally {
            $simulators->disarm($fault);
        }
        same([], Whmcs::$books, 'booked too early');
        cronUntilBooked(1);
        same(1, $simulators->effects($order), 'effects');
    },

    'wrong token: error, nothing is left behind, and the right one refunds' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        $answer = Whmcs::refund(5, $order, with: ['token' => 'recoup_wrong']);
        same('error', $answer['status'], 'status');
        same(1, preg_match('/CREDENTIALS_INVALID/', $answer['rawdata']['message']), 'names the reason');
        Whmcs::runCron();
        same(0, $simulators->effects($order), 'effects of what was refused');
        same('success', Whmcs::refund(5, $order)['status'], 'status');
        same(1, $simulators->effects($order), 'effects');
    },

    'gateway not reached: error, and the cron job asks again under its id' => function () use ($simulators, $nowhere) {
        $order = $simulators->freshOrder();
        $answer = Whmcs::refund(6, $order, with: $nowhere);
        same('error', $answer['status'], 'status');
        $again = Whmcs::refund(6, $order, with: $nowhere);
        same($answer['rawdata']['refund_id'], $again['rawdata']['refund_id'], 'id');
        cronUntilBooked(1);
        same([$answer['rawdata']['refund_id']], array_keys(Whmcs::$books), 'booked');
        same(1, $simulators->effects($order), 'effects');
    },

    'a refusal after a call without an answer leaves the refund open' => function () use ($simulators, $nowhere) {
        $order = $simulators->freshOrder();
        $first = Whmcs::refund(7, $order, with: $nowhere);
        $second = Whmcs::refund(7, $order, with: ['token' => 'recoup_wrong']);
        same('error', $second['status'], 'status');
        same('success', Whmcs::refund(7, $order)['status'], 'status');
        same([$first['rawdata']['refund_id']], array_keys(Whmcs::$books), 'booked');
        same(1, $simulators->effects($order), 'effects');
    },

    'another amount while the first is open: error, and nothing is sent' => function () use ($simulators, $nowhere) {
        $order = $simulators->freshOrder();
        Whmcs::refund(8, $order, '99.00', $nowhere);
        same('error', Whmcs::refund(8, $order, '10.00')['status'], 'status');
        same(0, $simulators->effects($order), 'effects');
        cronUntilBooked(1);
        same(1, $simulators->effects($order), 'effects');
    },

    'two invoices with one order: the second is an error, never declined' => function () use ($simulators) {
        $order = $simulators->freshOrder();
        same('success', Whmcs::refund(9, $order)['status'], 'status');
        $second = Whmcs::refund(10, $order);
        same('error', $second['status'], 'status');
        same(1, preg_match('/TARGET_HAS_REFUND/', $second['rawdata']['message']), 'names the reason');
        same(1, $simulators->effects($order), 'effects');
    },

    'WHMCS dies before it books: the cron job books it later, once' => function () use ($simulators, $settings) {
        $order = $simulators->freshOrder();
        $answer = recoup_refund($settings + ['invoiceid' => 11, 'transid' => $order, 'amount' => '99.00']);
        same('success', $answer['status'], 'status');
        Whmcs::runCron();
        same([], Whmcs::$books, 'booked while WHMCS may do it itself');
        Whmcs::$database->exec('UPDATE mod_recoup_refunds SET changed_at = changed_at - 1000');
        Whmcs::runCron();
        Whmcs::runCron();
        same([$answer['transid']], array_keys(Whmcs::$books), 'booked');
        same(1, $simulators->effects($order), 'effects');
    },

    'only a decided refund without money is declined' => function () {
        $states = ['AWAITING_APPROVAL', 'PENDING', 'DISPATCHING', 'SUBMITTED', 'IN_DOUBT', 'NEEDS_REVIEW', 'SUCCEEDED',
            'PARTIALLY_SUCCEEDED', 'FAILED', 'CANCELLED', 'UNSPECIFIED', 'OF_A_LATER_VERSION'];
        $other = [
            'FAILED NOT_MOVED' => 'declined',
            'CANCELLED NOT_MOVED' => 'declined',
            'SUCCEEDED MOVED' => 'success',
        ];
        foreach ($states as $state) {
            foreach (['NOT_MOVED', 'MAY_HAVE_MOVED', 'MOVED', 'UNSPECIFIED'] as $verdict) {
                $refund = ['state' => "STATE_$state", 'moneyVerdict' => "MONEY_VERDICT_$verdict"];
                $status = Outcome::ofRefund($refund)->whmcsStatus();
                same($other["$state $verdict"] ?? 'error', $status, "$state $verdict");
            }
        }
        same('error', Outcome::ofRefund([])->whmcsStatus(), 'an empty answer');
    },
];

$failed = 0;
foreach ($tests as $name => $test) {
    Whmcs::$database = new \PDO('sqlite::memory:');
    Whmcs::$settings = $settings;
    Whmcs::$books = Whmcs::$log = [];
    try {
        $test();
        echo "ok      $name\n";
    } catch (\Throwable $error) {
        $failed++;
        echo "FAILED  $name\n        {$error->getMessage()}\n";
        foreach (Whmcs::$log as $line) {
            echo "        $line\n";
        }
    }
}
printf("%d passed, %d failed\n", count($tests) - $failed, $failed);
exit($failed === 0 ? 0 : 1);
