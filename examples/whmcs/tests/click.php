<?php

/** One click on Refund, in a process of its own: DATABASE ORDER. Prints what WHMCS is told. */

declare(strict_types=1);

require __DIR__ . '/Whmcs.php';
require ROOTDIR . '/modules/gateways/recoup.php';

Whmcs::$database = new \PDO("sqlite:$argv[1]");
Whmcs::$settings = Whmcs::settingsFromEnvironment();
echo Whmcs::refund(1, $argv[2])['status'];
