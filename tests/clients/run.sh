#!/usr/bin/env bash
# Foreign clients against the real gateway and the simulators: Python with a token over TLS, Go with
# a client certificate, grpcurl over the unix socket. Each creates a refund and is refused what its
# scopes do not include; the history names each.
#
#   tests/clients/run.sh
#
# Needs Python 3 with venv, Go, openssl, and the packages that pip and go fetch.
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
children=()
cleanup() {
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

echo '== programs'
cd "$tree"
cargo build --quiet --locked --package recoup --package simulators --bins
programs=${CARGO_TARGET_DIR:-$tree/target}/debug
python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet grpcio==1.85.3 grpcio-tools==1.85.1 grpcio-status==1.85.3
export GOBIN="$work/go/bin" GOFLAGS=-modcacherw
go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

echo '== stubs'
mkdir "$work/stubs"
protos=(proto/recoup/v1/*.proto)
"$work/python/bin/python" -m grpc_tools.protoc -I proto --python_out="$work/stubs" --grpc_python_out="$work/stubs" "${protos[@]}"
cp -r tests/clients/go "$work/client"
mapping=()
for proto in "${protos[@]}"; do
    mapping+=("--go_opt=M${proto#proto/}=recoup.dev/clients/recoupv1" "--go-grpc_opt=M${proto#proto/}=recoup.dev/clients/recoupv1")
done
PATH="$GOBIN:$PATH" "$work/python/bin/python" -m grpc_tools.protoc -I proto \
    --go_out="$work/client" --go_opt=module=recoup.dev/clients \
    --go-grpc_out="$work/client" --go-grpc_opt=module=recoup.dev/clients "${mapping[@]}" "${protos[@]}"
(cd "$work/client" && go build -o "$work/go/client" .)

echo '== certificates, tokens, configuration'
cd "$work"
certificate() { # NAME SUBJECT_ALTERNATIVE_NAME
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out "$1.pem" \
        -extfile <(printf 'subjectAltName=%s\n' "$2") 2>/dev/null
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca 2>/dev/null
certificate server DNS:localhost
certificate shop URI:spiffe://test/go
token() { # CALLER: writes the token, prints its line for the access file
    (umask 077 && "$programs/recoup" token new --caller "$1" > "$1.token" 2> "$1.line")
    grep -o '{ id = .* }' "$1.line"
}
cat > access.toml <<TOML
[callers.python]
scopes = ["refunds:create", "refunds:read"]
accounts = ["*"]
tokens = [$(token python)]

[callers.go]
scopes = ["refunds:create", "refunds:read"]
accounts = ["*"]
certificates = [{ spiffe = "spiffe://test/go" }]

[callers.local]
scopes = ["refunds:create", "refunds:read"]
accounts = ["*"]
unix_users = [$(id -u)]
TOML
chmod 600 access.toml
mkdir -m 700 socket
# Free ports, which the two programs take a moment later.
read -r control sectigo public < <("$work/python/bin/python" -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[one.getsockname()[1] for one in sockets])')
any=127.0.0.1:0
"$programs/simulators" --control "127.0.0.1:$control" --sectigo "127.0.0.1:$sectigo" --sectigo-plaintext "$any" \
    --namecom "$any" --namecom-plaintext "$any" --debitsuccess "$any" --debitsuccess-plaintext "$any" \
    --ca-file "$work/simulators-ca.pem" > simulators.log 2>&1 &
children+=($!)
printf 'demo-password' > password
chmod 600 password
cat > recoup.toml <<TOML
ledger.path = "$work/recoup.db"
[listeners.public]
address = "127.0.0.1:$public"
certificate_file = "$work/server.pem"
key_file = "$work/server.key"
client_ca_file = "$work/ca.pem"
client_certificates = "optional"
[listeners.local]
unix = "$work/socket/recoup.sock"
[access]
file = "$work/access.toml"
[accounts.sectigo]
provider = "sectigo"
endpoint = "https://127.0.0.1:$sectigo"
ca_file = "$work/simulators-ca.pem"
login_name = "demo"
login_password_file = "$work/password"
TOML
until grep -q '^ready' simulators.log; do kill -0 "${children[0]}"; sleep 0.1; done
"$programs/recoup" serve --config recoup.toml > gateway.log 2>&1 &
children+=($!)
until "$programs/recoup" health --server "unix:$work/socket/recoup.sock" >/dev/null 2>&1; do
    kill -0 "${children[1]}" || { cat gateway.log >&2; exit 1; }
    sleep 0.1
done

echo '== clients'
PYTHONPATH="$work/stubs" "$work/python/bin/python" "$tree/tests/clients/client.py" "localhost:$public" ca.pem python.token from-python 1000001
"$work/go/client" "localhost:$public" ca.pem shop.pem shop.key from-go 1000002
grpcurl=("$GOBIN/grpcurl" -plaintext -max-time 30)
"${grpcurl[@]}" -d '{"refund_id":"from-grpcurl","account":"sectigo","sectigo":{"order_number":"1000003","reason":"SECTIGO_REFUND_REASON_OTHER"}}' \
    "unix://$work/socket/recoup.sock" recoup.v1.RefundService/CreateRefund | grep -q STATE_SUCCEEDED
if refused=$("${grpcurl[@]}" -d '{"account":"sectigo","reason":"x"}' "unix://$work/socket/recoup.sock" recoup.v1.AccountService/PauseAccount 2>&1); then
    echo 'PauseAccount was not refused' >&2
    exit 1
fi
grep -q SCOPE_MISSING <<< "$refused"
echo 'grpcurl: from-grpcurl created over the unix socket, PauseAccount refused'

echo '== the history names each, and the simulator refunded each once'
for pair in from-python:python:token: from-go:go:x509: from-grpcurl:local:uid:; do
    IFS=: read -r refund caller kind <<< "${pair%:}"
    history=$("${grpcurl[@]}" -d "{\"name\":\"refunds/$refund\"}" "unix://$work/socket/recoup.sock" recoup.v1.RefundService/ListRefundEvents)
    grep -q "\"actor\": \"$caller\"" <<< "$history"
    grep -q "\"credential\": \"$kind:" <<< "$history"
    grep -q '"policy": "[0-9a-f]\{8\}"' <<< "$history"
    printf '%s: actor %s, %s\n' "$refund" "$caller" "$(grep -o '"credential": "[^"]*"' <<< "$history" | head -n 1)"
done
effects=$("$work/python/bin/python" -c 'import json, sys, urllib.request
books = json.load(urllib.request.urlopen(sys.argv[1]))
entries = books["entries"] if isinstance(books, dict) else books
print(len(entries))' "http://127.0.0.1:$control/v1/books")
[ "$effects" = 3 ]
echo 'three refunds, three effects in the books'
