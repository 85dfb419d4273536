//! Every curl command of the README works, in the README's order, and every control call has one.

use std::{collections::BTreeSet, net::SocketAddr};

use reqwest::Method;
use serde_json::Value;

use crate::support::{PROVIDERS, TestBench, matches_template};

/// A curl command with the options that the README uses.
#[derive(Default)]
struct Curl {
    method: Option<String>,
    url: String,
    headers: Vec<(String, String)>,
    data: Vec<String>,
    user: Option<String>,
}

#[tokio::test]
async fn every_curl_command_works_and_every_call_has_one() {
    let bench = TestBench::start().await;
    let simulators = &bench.simulators;
    let ports = [
        ("localhost:7100", simulators.control_addr()),
        ("localhost:7101", simulators.sectigo_addr()),
        ("localhost:7102", simulators.namecom_addr()),
        ("localhost:7103", simulators.debitsuccess_addr()),
        ("localhost:7112", simulators.namecom_plaintext_addr()),
        ("localhost:7113", simulators.debitsuccess_plaintext_addr()),
    ];
    let mut called = Vec::new();
    for line in lines(include_str!("../../README.md")) {
        let curl = Curl::read(&words(&line));
        let (status, body) = curl.send(&bench, &ports).await;
        assert!((200..300).contains(&status), "{line}\n{status} {body}");
        if let Some(path) = curl.url.strip_prefix("localhost:7100") {
            called.push((curl.method(), path.split('?').next().unwrap().to_owned()));
        }
    }

    // The last command restores the demo data.
    for provider in PROVIDERS {
        let (status, answer) = bench.refund(provider).await.unwrap();
        assert!(status == 200 && !answer.starts_with('-') && !answer.contains(">Failed<"), "{answer}");
    }

    let (_, document) = bench.control(Method::GET, "/openapi.json", "").await;
    let mut missing = BTreeSet::new();
    let paths = document["paths"].as_object().unwrap();
    for (template, methods) in paths {
        // Calls about a world are documented twice: for the demo world and for any world.
        if template != "/v1/worlds/{world}"
            && paths.contains_key(&template.replacen("/v1/worlds/{world}/", "/v1/", 1))
            && template.starts_with("/v1/worlds/{world}/")
        {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            if !called.iter().any(|(with, path)| with.eq_ignore_ascii_case(method) && matches_template(path, template))
            {
                missing.insert(format!("{method} {template}"));
            }
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_setting_is_in_the_readme() {
    let settings = serde_json::to_value(simulators::Settings::default()).unwrap();
    let readme = include_str!("../../README.md");
    for (provider, settings) in settings.as_object().unwrap() {
        for name in settings.as_object().unwrap().keys() {
            assert!(readme.contains(&format!("`{name}`")), "{provider}.{name}");
        }
    }
}

/// Behaviour that no provider document describes is a choice, and every choice is a setting.
#[test]
fn every_undocumented_behaviour_has_a_setting() {
    let readme = include_str!("../../README.md");
    let (_, fidelity) = readme.split_once("\n## Fidelity\n").unwrap();
    let rows: Vec<Vec<&str>> = fidelity
        .lines()
        .filter(|line| line.starts_with("| ") && line.ends_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let open: Vec<_> = rows
        .iter()
        .filter(|row| ["observed", "inferred", "unknown"].iter().any(|mark| row[1].contains(mark)))
        .collect();
    assert!(open.len() > 60, "{}", open.len());
    let settings = serde_json::to_value(simulators::Settings::default()).unwrap();
    let names: BTreeSet<&String> =
        settings.as_object().unwrap().values().flat_map(|settings| settings.as_object().unwrap().keys()).collect();
    for row in open {
        let choice = row.get(2).copied().unwrap_or_default();
        assert!(choice.split('`').skip(1).step_by(2).any(|quoted| names.contains(&quoted.to_owned())), "{row:?}");
    }
}

/// The curl commands of the shell blocks, with their continuation lines.
fn lines(readme: &str) -> Vec<String> {
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let mut lines: Vec<String> = Vec::new();
    for block in blocks {
        let mut is_curl = false;
        for line in block.lines() {
            let begins = line.starts_with("curl ");
            if begins {
                lines.push(line.to_owned());
            } else if is_curl && line.starts_with(' ') {
                let whole = lines.last_mut().unwrap();
                whole.push('\n');
                whole.push_str(line);
            }
            is_curl = begins || (is_curl && line.starts_with(' '));
        }
    }
    lines
}

/// Splits a command like a shell: at spaces outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    assert!(!quoted, "{line}");
    words
}

impl Curl {
    fn read(words: &[String]) -> Curl {
        let mut curl = Curl::default();
        let mut words = words.iter().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap().clone();
            match word.as_str() {
                "-X" => curl.method = Some(value()),
                "-u" => curl.user = Some(value()),
                "-d" => curl.data.push(value()),
                "--cacert" => assert_eq!(value(), "sectigo-ca.pem"),
                "-H" => {
                    let header = value();
                    let (name, value) = header.split_once(": ").unwrap();
                    curl.headers.push((name.to_owned(), value.to_owned()));
                }
                url => curl.url = url.to_owned(),
            }
        }
        curl
    }

    fn method(&self) -> String {
        self.method.clone().unwrap_or_else(|| if self.data.is_empty() { "GET" } else { "POST" }.to_owned())
    }

    async fn send(&self, bench: &TestBench, ports: &[(&str, SocketAddr)]) -> (u16, String) {
        let url = if self.url.contains("://") { self.url.clone() } else { format!("http://{}", self.url) };
        let url = ports.iter().fold(url, |url, (documented, bound)| url.replace(documented, &bound.to_string()));
        let mut request = bench.client.request(self.method().parse().unwrap(), url);
        let mut has_type = false;
        for (name, value) in &self.headers {
            has_type |= name == "content-type";
            request = request.header(name, value);
        }
        if let Some((username, password)) = self.user.as_ref().and_then(|user| user.split_once(':')) {
            request = request.basic_auth(username, Some(password));
        }
        if !self.data.is_empty() {
            if !has_type {
                request = request.header("content-type", "application/x-www-form-urlencoded");
            }
            request = request.body(self.data.join("&"));
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body = response.text().await.unwrap();
        // Sectigo answers errors with 200 and a negative code.
        assert!(!body.starts_with('-') || body.starts_with("-----BEGIN CERTIFICATE-----"), "{body}");
        assert!(!body.starts_with('{') || serde_json::from_str::<Value>(&body).is_ok());
        (status, body)
    }
}
