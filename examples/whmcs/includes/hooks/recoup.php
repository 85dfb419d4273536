<?php

/**
 * Asks recoup again about refunds that are not decided, each time that WHMCS's cron job has run.
 *
 * @see https://developers.whmcs.com/hooks-reference/cron/
 */

add_hook('AfterCronJob', 1, function () {
    App::load_function('gateway');
    $params = getGatewayVariables('recoup');
    if (!empty($params['type'])) {
        require_once ROOTDIR . '/modules/gateways/recoup.php';
        recoup_ask_again($params);
    }
});
