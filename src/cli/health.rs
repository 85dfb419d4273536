//! `recoup health`: whether a running gateway accepts refunds, as one sentence and an exit status,
//! for supervisors.
//!
//! It uses the gRPC port, so success means that callers can reach the gateway too.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use recoup::api::{EndpointSettings, ListenerSettings, ProtocolSettings};
use recoup::proto::code_name;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::client::{connection, failure_of, message_of};
use super::context::{ClientArguments, ClientOptions, ConfiguredServer};
use super::{Failure, print_line};

/// The arguments of `recoup health`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 it is SERVING, 1 it is not or cannot be reached, 2 the command line or the configuration is wrong."
)]
pub(crate) struct HealthArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// The gateway's configuration; only its listeners are read. Asks the unix socket, else
    /// `listen`, else a port with TLS. Default: the file that RECOUP_CONFIG names, or
    /// RECOUP_LISTEN, or the default address.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One service, such as recoup.v1.RefundService. Default: the whole gateway.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    /// Time limit for connection and answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

impl HealthArguments {
    /// Whether they say where the gateway is, so that its configuration need not be read.
    pub(crate) fn name_a_server(&self) -> bool {
        self.client.name_a_server()
    }

    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Runs `recoup health`. `configured` is the address in the gateway's configuration.
pub(crate) async fn health(arguments: &HealthArguments, configured: Option<ConfiguredServer>) -> ExitCode {
    let options = match arguments.client.resolve(configured) {
        Ok(options) => options,
        Err(failure) => return failure.report(false),
    };
    let server = &options.server;
    let limit = Duration::from_millis(arguments.timeout_ms);
    let checked = tokio::time::timeout(limit, check(&options, &arguments.service)).await;
    let late = |_| Err(Failure::new(format!("no answer from {server} within {} ms", arguments.timeout_ms)));
    match checked.unwrap_or_else(late) {
        Ok(sentence) => {
            print_line(&mut std::io::stdout(), &sentence);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(false),
    }
}

async fn check(options: &ClientOptions, service: &str) -> Result<String, Failure> {
    let server = &options.server;
    if server.ends_with(":0") {
        return Err(Failure::usage("the gateway listens on any free port (port 0): name it with --server"));
    }
    let mut client = HealthClient::new(connection(options).await?);
    let what = if service.is_empty() { "the gateway".to_owned() } else { service.to_owned() };
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(request).await.map_err(|status| match status.code() {
        Code::NotFound => Failure::new(format!("the gateway at {server} has no service {service}")),
        _ if status.get_error_details().error_info().is_some() => failure_of(&status),
        // A health check has no outcome that could be unknown: most likely this is not a gateway.
        code => Failure::new(format!(
            "{server} does not answer a health check ({}): {}; is it the gateway's port?",
            code_name(code),
            message_of(&status)
        )),
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(format!("{what} at {server} is SERVING")),
        other => Err(Failure::new(format!("{what} at {server} is {}", other.as_str_name()))),
    }
}

/// Which of its listeners the gateway is asked at: a unix socket, else the short form, else a named
/// port, by its own certificate.
pub(crate) fn server_among(listeners: &[ListenerSettings]) -> Option<ConfiguredServer> {
    let rank = |listener: &&ListenerSettings| match listener.endpoint {
        EndpointSettings::Unix { .. } => 0,
        EndpointSettings::Plaintext(_) => 1,
        EndpointSettings::Tls(..) => 2,
    };
    let grpc = listeners.iter().filter(|listener| listener.protocol == ProtocolSettings::Grpc);
    let listener = grpc.min_by_key(rank)?;
    Some(match &listener.endpoint {
        EndpointSettings::Unix { path, .. } => {
            ConfiguredServer { server: format!("unix:{}", path.display()), certificate: None }
        }
        EndpointSettings::Plaintext(address) => {
            ConfiguredServer { server: format!("http://{}", reachable(*address)), certificate: None }
        }
        EndpointSettings::Tls(address, tls) => ConfiguredServer {
            server: format!("https://{}", reachable(*address)),
            certificate: Some(tls.certificate_file.clone()),
        },
    })
}

/// This machine, where the port is open at every address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}
