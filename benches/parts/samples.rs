//! One sample refund and one sample account of each provider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use recoup::domain::clock::{ManualClock, Timestamp};
use recoup::domain::ids::{AccountName, ProviderKind, RefundId};
use recoup::domain::money::Currency;
use recoup::domain::place::Place;
use recoup::domain::refund::Intent;
use recoup::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use recoup::http::client::Transport;
use recoup::providers::{Account, AccountSettings, ProviderSettings};

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_772_600_800);
pub(crate) const PROVIDERS: [ProviderKind; 3] =
    [ProviderKind::Sectigo, ProviderKind::Namecom, ProviderKind::Debitsuccess];

pub(crate) fn place() -> Place {
    Place { endpoint: "https://provider.example".to_owned(), login: "bench".to_owned(), currency: Currency::USD }
}

pub(crate) fn intent(provider: ProviderKind, number: i32) -> Intent {
    let target = match provider {
        ProviderKind::Sectigo => Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap()),
        ProviderKind::Namecom => Target::Namecom(NamecomTarget::new(number, &[number]).unwrap()),
        ProviderKind::Debitsuccess => Target::Debitsuccess(
            DebitsuccessTarget::new(DebitsuccessFields {
                account_reference_no: "DS000001",
                external_account_reference_no: "",
                amount: Some(("AUD", 1250)),
                description: "Charged twice",
                request_initiator: "",
            })
            .unwrap(),
        ),
    };
    Intent {
        id: RefundId::parse(&format!("part-{number}")).unwrap(),
        account: AccountName::parse(provider.as_str()).unwrap(),
        target,
        labels: BTreeMap::new(),
        expected_amount: None,
    }
}

/// An account that sends over `transport`.
pub(crate) fn account(provider: ProviderKind, transport: Arc<dyn Transport>) -> Account {
    let (secret, name) = (|| "demo-password".to_owned().into(), || "demo".to_owned());
    let login = match provider {
        ProviderKind::Sectigo => ProviderSettings::Sectigo { login_name: name(), login_password: secret() },
        ProviderKind::Namecom => {
            ProviderSettings::Namecom { username: name(), token: secret(), key_lifetime: Duration::from_secs(3_000) }
        }
        ProviderKind::Debitsuccess => ProviderSettings::Debitsuccess {
            username: name(),
            password: secret(),
            path: "/DSWebService/DSServices.svc".to_owned(),
            service_namespace: "http://tempuri.org/".to_owned(),
            data_namespace: "http://schemas.datacontract.org/2004/07/DSWebService".to_owned(),
            action_prefix: "http://tempuri.org/IDSServices/".to_owned(),
        },
    };
    let settings = AccountSettings {
        name: AccountName::parse(provider.as_str()).unwrap(),
        endpoint: "https://provider.example/".parse().unwrap(),
        currency: Currency::parse(if provider == ProviderKind::Debitsuccess { "AUD" } else { "USD" }).unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(60),
        reuse_connections: false,
        max_in_flight: 16,
        requests_per_second: 0,
        requests_per_hour: 0,
        pending_limit: Duration::from_secs(86_400),
        settle_time: Duration::from_secs(600),
        provider_settings: login,
        former: Vec::new(),
    };
    let clock = Arc::new(ManualClock::new(NOW));
    Account::connect_with_transport(transport, settings, clock).map_err(|error| error.to_string()).unwrap()
}
