// Command example refunds a Sectigo order through recoup. Run again with the same arguments it
// sends nothing, and shows the same refund.
//
// Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong
// usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	recoup "recoup.dev/api/recoup/v1"
)

const (
	refused    = 1
	wrongUsage = 2
	notMoved   = 4
	undecided  = 5

	// How long to go on asking before the program leaves the refund to its next run.
	patience = 2 * time.Minute
	pause    = 2 * time.Second
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: example ACCOUNT ORDER STORE")
		os.Exit(wrongUsage)
	}
	settings, err := settingsFromEnvironment()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
	code, err := run(context.Background(), settings, os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = refused
	}
	os.Exit(code)
}

func run(ctx context.Context, settings settings, account, order, path string) (int, error) {
	gateway, err := connect(settings)
	if err != nil {
		return 0, err
	}
	defer gateway.close()
	store, err := openStore(path)
	if err != nil {
		return 0, err
	}
	refundID, err := store.refundID(order)
	if err != nil {
		return 0, err
	}

	refund, err := refundUntilDecided(ctx, gateway, account, order, refundID)
	if err != nil {
		return 0, err
	}
	if refund == nil {
		fmt.Fprintf(os.Stderr, "refund %s is undecided: run the same command again\n", refundID)
		return undecided, nil
	}
	fmt.Println("created", refundID, stateName(refund), verdictName(refund))
	if needsAPerson(refund) {
		fmt.Fprintf(os.Stderr, "refund %s waits for a person: run the same command again when they have decided\n", refundID)
		return undecided, nil
	}

	again, err := gateway.createRefund(ctx, account, order, refundID)
	if err != nil {
		return 0, err
	}
	fmt.Println("replayed", refundID, again.GetReplayed())
	if err := showRefusal(ctx, gateway, account, refundID); err != nil {
		return 0, err
	}
	if err := followEvents(ctx, gateway, store, refund); err != nil {
		return 0, err
	}
	validation, err := gateway.validationStatus(ctx, account, order)
	if err != nil {
		return 0, err
	}
	fmt.Println("validation", validation.GetOrderStatusText())

	switch refund.GetMoneyVerdict() {
	case recoup.Refund_MONEY_VERDICT_MOVED:
		return 0, nil
	case recoup.Refund_MONEY_VERDICT_NOT_MOVED:
		return notMoved, nil
	default:
		return undecided, nil
	}
}

// refundUntilDecided creates the refund and waits until it is decided or needs a person. After a
// call without an answer it asks again, always under the same id. Without a refund, patience has
// run out.
func refundUntilDecided(ctx context.Context, gateway *gateway, account, order, refundID string) (*recoup.Refund, error) {
	var seen *recoup.Refund
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp); {
		refund, err := createOrWait(ctx, gateway, account, order, refundID, seen)
		switch {
		case err == nil && (isTerminal(refund) || needsAPerson(refund)):
			return refund, nil
		case err == nil:
			seen = refund
		case isUnanswered(err):
			fmt.Fprintf(os.Stderr, "no answer about %s (%s): asking again\n", refundID, status.Code(err))
			time.Sleep(pause)
		default:
			return nil, err
		}
	}
	return nil, nil
}

func createOrWait(ctx context.Context, gateway *gateway, account, order, refundID string, seen *recoup.Refund) (*recoup.Refund, error) {
	if seen == nil {
		response, err := gateway.createRefund(ctx, account, order, refundID)
		return response.GetRefund(), err
	}
	response, err := gateway.waitRefund(ctx, seen)
	return response.GetRefund(), err
}

// showRefusal asks for another order under the same id, which is refused, and prints why.
func showRefusal(ctx context.Context, gateway *gateway, account, refundID string) error {
	_, err := gateway.createRefund(ctx, account, "another-order", refundID)
	if err == nil {
		return fmt.Errorf("another order was taken under the id %s", refundID)
	}
	info := detail[*errdetails.ErrorInfo](err)
	if info == nil {
		return err
	}
	var fields []string
	if differing, ok := info.GetMetadata()["differing_fields"]; ok {
		fields = append(fields, differing)
	}
	for _, violation := range detail[*errdetails.BadRequest](err).GetFieldViolations() {
		fields = append(fields, violation.GetField())
	}
	fmt.Println("refused", info.GetReason(), strings.Join(fields, ","))
	return nil
}

// followEvents prints the refund's events that the store has not seen, then opens the stream once
// more where it ended, as a program does after a restart.
func followEvents(ctx context.Context, gateway *gateway, store *store, refund *recoup.Refund) error {
	seen, err := readEvents(ctx, gateway, store, refund, 5*time.Second)
	if err != nil {
		return err
	}
	if len(seen) == 0 {
		fmt.Println("events 0")
	} else {
		fmt.Printf("events %d %d..%d\n", len(seen), seen[0], seen[len(seen)-1])
	}
	after := store.LastSequence
	if _, err := readEvents(ctx, gateway, store, refund, time.Second); err != nil {
		return err
	}
	fmt.Println("resumed after", after)
	return nil
}

// readEvents returns the sequences of the refund's events after the store's last one, up to its
// latest revision.
func readEvents(ctx context.Context, gateway *gateway, store *store, refund *recoup.Refund, deadline time.Duration) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	stream, err := gateway.events(ctx, store.LastSequence)
	if err != nil {
		return nil, err
	}
	var seen []int64
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.DeadlineExceeded {
			break
		}
		if err != nil {
			return nil, err
		}
		event := response.GetEvent()
		if event.GetSequence() <= store.LastSequence {
			return nil, fmt.Errorf("event %d came twice", event.GetSequence())
		}
		store.LastSequence = event.GetSequence()
		if event.GetRefund() != refund.GetName() {
			continue
		}
		fmt.Fprintf(os.Stderr, "%6d %s\n", event.GetSequence(), event.GetNote())
		seen = append(seen, event.GetSequence())
		if event.GetRevision() >= refund.GetRevision() {
			break
		}
	}
	// Only now: after a crash, what was read since the last time comes again.
	return seen, store.save()
}

func isTerminal(refund *recoup.Refund) bool {
	switch refund.GetState() {
	case recoup.Refund_STATE_SUCCEEDED, recoup.Refund_STATE_PARTIALLY_SUCCEEDED,
		recoup.Refund_STATE_FAILED, recoup.Refund_STATE_CANCELLED:
		return true
	}
	return false
}

func needsAPerson(refund *recoup.Refund) bool {
	state := refund.GetState()
	return state == recoup.Refund_STATE_NEEDS_REVIEW || state == recoup.Refund_STATE_AWAITING_APPROVAL
}

func stateName(refund *recoup.Refund) string {
	return strings.TrimPrefix(refund.GetState().String(), "STATE_")
}

func verdictName(refund *recoup.Refund) string {
	return strings.TrimPrefix(refund.GetMoneyVerdict().String(), "MONEY_VERDICT_")
}
