package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	recoup "recoup.dev/api/recoup/v1"
)

// The gateway answers shortly before it, with the refund as it then is.
const deadline = 30 * time.Second

// settings say where the gateway is and who calls.
type settings struct {
	server    string
	authority *x509.CertPool
	token     bearerToken
	// Of the channel: which calls it repeats by itself.
	serviceConfig string
}

// gateway is recoup's gateway over TLS, with a token and a deadline on every call.
type gateway struct {
	connection *grpc.ClientConn
	refunds    recoup.RefundServiceClient
	validation recoup.ValidationStatusServiceClient
}

// bearerToken is sent with every call, over TLS alone.
type bearerToken string

func (token bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (token bearerToken) RequireTransportSecurity() bool { return true }

// settingsFromEnvironment names every variable that is missing.
func settingsFromEnvironment() (settings, error) {
	values := map[string]string{}
	var missing []error
	for _, name := range []string{"RECOUP_SERVER", "RECOUP_CA_FILE", "RECOUP_TOKEN_FILE"} {
		if values[name] = os.Getenv(name); values[name] == "" {
			missing = append(missing, fmt.Errorf("%s is not set", name))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return settings{}, err
	}
	authority, err := os.ReadFile(values["RECOUP_CA_FILE"])
	if err != nil {
		return settings{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return settings{}, fmt.Errorf("%s has no certificate", values["RECOUP_CA_FILE"])
	}
	token, err := os.ReadFile(values["RECOUP_TOKEN_FILE"])
	if err != nil {
		return settings{}, err
	}
	serviceConfig, err := os.ReadFile("../service_config.json")
	if err != nil {
		return settings{}, err
	}
	return settings{
		server:        values["RECOUP_SERVER"],
		authority:     pool,
		token:         bearerToken(strings.TrimSpace(string(token))),
		serviceConfig: string(serviceConfig),
	}, nil
}

func connect(settings settings) (*gateway, error) {
	connection, err := grpc.NewClient(
		settings.server,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: settings.authority})),
		grpc.WithPerRPCCredentials(settings.token),
		grpc.WithDefaultServiceConfig(settings.serviceConfig),
	)
	if err != nil {
		return nil, err
	}
	return &gateway{
		connection: connection,
		refunds:    recoup.NewRefundServiceClient(connection),
		validation: recoup.NewValidationStatusServiceClient(connection),
	}, nil
}

func (gateway *gateway) close() { gateway.connection.Close() }

func (gateway *gateway) createRefund(ctx context.Context, account, order, refundID string) (*recoup.CreateRefundResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return gateway.refunds.CreateRefund(ctx, &recoup.CreateRefundRequest{
		RefundId: refundID,
		Account:  account,
		Target: &recoup.CreateRefundRequest_Sectigo{Sectigo: &recoup.SectigoTarget{
			OrderNumber: order,
			Reason:      recoup.SectigoRefundReason_SECTIGO_REFUND_REASON_OTHER,
		}},
	})
}

// waitRefund returns when the refund has changed, or shortly before the deadline.
func (gateway *gateway) waitRefund(ctx context.Context, seen *recoup.Refund) (*recoup.WaitRefundResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return gateway.refunds.WaitRefund(ctx, &recoup.WaitRefundRequest{
		Name:          seen.GetName(),
		AfterRevision: seen.GetRevision(),
	})
}

func (gateway *gateway) validationStatus(ctx context.Context, account, order string) (*recoup.ValidationStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	response, err := gateway.validation.GetValidationStatus(ctx, &recoup.GetValidationStatusRequest{
		Account:     account,
		OrderNumber: order,
	})
	return response.GetValidationStatus(), err
}

// events are those of the ledger after the sequence, until the context ends.
func (gateway *gateway) events(ctx context.Context, after int64) (grpc.ServerStreamingClient[recoup.StreamRefundEventsResponse], error) {
	return gateway.refunds.StreamRefundEvents(ctx, &recoup.StreamRefundEventsRequest{AfterSequence: after})
}

// isUnanswered says whether the error leaves open what became of the refund, or passes by itself.
// Only an error with an ErrorInfo says that the call recorded nothing.
func isUnanswered(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || detail[*errdetails.ErrorInfo](err) == nil
}

// detail is the error's detail of this type, or nil.
func detail[T any](err error) T {
	var none T
	for _, found := range status.Convert(err).Details() {
		if found, ok := found.(T); ok {
			return found
		}
	}
	return none
}
