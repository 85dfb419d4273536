// A caller with a certificate (mTLS): creates a refund, and is refused what its scopes do not
// include.
//
// Usage: client SERVER CA_FILE CERTIFICATE_FILE KEY_FILE REFUND_ID ORDER_NUMBER
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	recoup "recoup.dev/clients/recoupv1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 7 {
		log.Fatal("usage: client SERVER CA_FILE CERTIFICATE_FILE KEY_FILE REFUND_ID ORDER_NUMBER")
	}
	server, refundID, orderNumber := os.Args[1], os.Args[5], os.Args[6]
	authorities := x509.NewCertPool()
	pem, err := os.ReadFile(os.Args[2])
	check(err)
	if !authorities.AppendCertsFromPEM(pem) {
		log.Fatal("the CA file holds no certificate")
	}
	certificate, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
	check(err)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: authorities}
	connection, err := grpc.NewClient(server, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	check(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	answer, err := recoup.NewRefundServiceClient(connection).CreateRefund(ctx, &recoup.CreateRefundRequest{
		RefundId: refundID,
		Account:  "sectigo",
		Target: &recoup.CreateRefundRequest_Sectigo{Sectigo: &recoup.SectigoTarget{
			OrderNumber: orderNumber,
			Reason:      recoup.SectigoRefundReason_SECTIGO_REFUND_REASON_OTHER,
		}},
	})
	check(err)
	if answer.Refund.State != recoup.Refund_STATE_SUCCEEDED || answer.Refund.CreatedBy != "go" {
		log.Fatalf("unexpected refund: %v", answer.Refund)
	}
	_, err = recoup.NewAccountServiceClient(connection).PauseAccount(ctx, &recoup.PauseAccountRequest{
		Account: "sectigo", Reason: "x",
	})
	if status.Code(err) != codes.PermissionDenied || reason(err) != "SCOPE_MISSING" {
		log.Fatalf("PauseAccount was not refused: %v", err)
	}
	fmt.Printf("go: %s created with a client certificate, PauseAccount refused\n", refundID)
}

func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
