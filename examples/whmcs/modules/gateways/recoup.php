<?php

/**
 * A payment gateway module of WHMCS whose refunds go through recoup. It takes no payments: it is for
 * certificate orders that a reseller pays from their account at Sectigo, with Sectigo's order number
 * as the transaction id of the payment.
 *
 * @see https://developers.whmcs.com/payment-gateways/refunds
 */

use WHMCS\Database\Capsule;
use WHMCS\Module\Gateway\Recoup\Client;
use WHMCS\Module\Gateway\Recoup\Refunds;
use WHMCS\Module\Gateway\Recoup\RefundTable;

if (!defined('WHMCS')) {
    die('This file cannot be accessed directly');
}

require_once __DIR__ . '/recoup/CallError.php';
require_once __DIR__ . '/recoup/Client.php';
require_once __DIR__ . '/recoup/Outcome.php';
require_once __DIR__ . '/recoup/RefundTable.php';
require_once __DIR__ . '/recoup/Refunds.php';

function recoup_MetaData(): array
{
    return ['DisplayName' => 'recoup', 'APIVersion' => '1.1', 'DisableLocalCreditCardInput' => true];
}

function recoup_config(): array
{
    return [
        'FriendlyName' => ['Type' => 'System', 'Value' => 'recoup'],
        'url' => [
            'FriendlyName' => 'URL',
            'Type' => 'text',
            'Default' => 'https://localhost:8080',
            'Description' => 'The JSON endpoint of the gateway',
        ],
        'token' => [
            'FriendlyName' => 'Token',
            'Type' => 'password',
            'Description' => 'A token with the scopes refunds:create and refunds:read',
        ],
        'caFile' => [
            'FriendlyName' => 'CA file',
            'Type' => 'text',
            'Description' => 'The authority that signed the certificate of the endpoint; empty: those of the system',
        ],
        'account' => [
            'FriendlyName' => 'Account',
            'Type' => 'text',
            'Default' => 'sectigo',
            'Description' => 'The Sectigo account in the configuration of the gateway',
        ],
    ];
}

/** Called when a person refunds a transaction. */
function recoup_refund(array $params): array
{
    return recoup_refunds($params)->refund(
        (int) $params['invoiceid'],
        (string) $params['transid'],
        (string) $params['amount'],
        recoup_request($params),
    );
}

/** Called by the cron job: asks again about all that is not decided, under the same ids. */
function recoup_ask_again(array $params): void
{
    recoup_refunds($params)->askAgain();
}

/** What to refund, as a CreateRefundRequest without its id. Another provider needs another target. */
function recoup_request(array $params): array
{
    return [
        'account' => $params['account'],
        'sectigo' => ['orderNumber' => (string) $params['transid'], 'reason' => 'SECTIGO_REFUND_REASON_OTHER'],
        'labels' => ['whmcs_invoice' => (string) $params['invoiceid']],
    ];
}

function recoup_refunds(array $params): Refunds
{
    return new Refunds(
        new Client($params['url'], $params['token'], $params['caFile'] ?: null),
        new RefundTable(Capsule::connection()->getPdo()),
    );
}
