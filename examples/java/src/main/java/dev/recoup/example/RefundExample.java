package dev.recoup.example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import dev.recoup.v1.CreateRefundResponse;
import dev.recoup.v1.Refund;
import dev.recoup.v1.RefundEvent;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
 * shows the same refund.
 *
 * <p>Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong
 * usage.
 */
public final class RefundExample {
  private static final int MOVED = 0;
  private static final int REFUSED = 1;
  private static final int WRONG_USAGE = 2;
  private static final int NOT_MOVED = 4;
  private static final int UNDECIDED = 5;

  /** How long to go on asking before the program leaves the refund to its next run. */
  private static final Duration PATIENCE = Duration.ofMinutes(2);

  private static final Duration PAUSE = Duration.ofSeconds(2);

  private final Gateway gateway;
  private final Store store;

  private RefundExample(Gateway gateway, Store store) {
    this.gateway = gateway;
    this.store = store;
  }

  public static void main(String[] arguments) {
    System.exit(run(arguments));
  }

  private static int run(String[] arguments) {
    if (arguments.length != 3) {
      System.err.println("usage: recoup-example ACCOUNT ORDER STORE");
      return WRONG_USAGE;
    }
    Gateway.Settings settings;
    try {
      settings = Gateway.Settings.fromEnvironment();
    } catch (IllegalArgumentException e) {
      System.err.println(e.getMessage());
      return WRONG_USAGE;
    }
    try (Gateway gateway = Gateway.connect(settings)) {
      Store store = Store.open(Path.of(arguments[2]));
      return new RefundExample(gateway, store).refund(arguments[0], arguments[1]);
    } catch (StatusRuntimeException e) {
      System.err.println(e.getMessage());
      return REFUSED;
    } catch (IOException e) {
      System.err.println(e);
      return REFUSED;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return UNDECIDED;
    }
  }

  private int refund(String account, String order) throws IOException, InterruptedException {
    String refundId = store.refundId(order);

    Optional<Refund> decided = refundUntilDecided(account, order, refundId);
    if (decided.isEmpty()) {
      System.err.printf("refund %s is undecided: run the same command again%n", refundId);
      return UNDECIDED;
    }
    Refund refund = decided.get();
    System.out.printf("created %s %s %s%n", refundId, stateName(refund), verdictName(refund));
    if (needsPerson(refund)) {
      System.err.printf(
          "refund %s waits for a person: run it again when they have decided%n", refundId);
      return UNDECIDED;
    }

    CreateRefundResponse again = gateway.createRefund(account, order, refundId);
    System.out.printf("replayed %s %b%n", refundId, again.getReplayed());
    showRefusal(account, refundId);
    followEvents(refund);
    System.out.printf(
        "validation %s%n", gateway.validationStatus(account, order).getOrderStatusText());

    return switch (refund.getMoneyVerdict()) {
      case MONEY_VERDICT_MOVED -> MOVED;
      case MONEY_VERDICT_NOT_MOVED -> NOT_MOVED;
      default -> UNDECIDED;
    };
  }

  /**
   * Creates the refund and waits until it is decided or needs a person. After a call without an
   * answer it asks again, always under the same id. Empty: patience has run out.
   */
  private Optional<Refund> refundUntilDecided(String account, String order, String refundId)
      throws InterruptedException {
    Instant giveUp = Instant.now().plus(PATIENCE);
    Refund refund = null;
    while (Instant.now().isBefore(giveUp)) {
      try {
        refund =
            refund == null
                ? gateway.createRefund(account, order, refundId).getRefund()
                : gateway.waitRefund(refund).getRefund();
        if (isTerminal(refund) || needsPerson(refund)) {
          return Optional.of(refund);
        }
      } catch (StatusRuntimeException e) {
        if (!isUnanswered(e)) {
          throw e;
        }
        System.err.printf(
            "no answer about %s (%s): asking again%n", refundId, e.getStatus().getCode());
        Thread.sleep(PAUSE.toMillis());
      }
    }
    return Optional.empty();
  }

  /** Asks for another order under the same id, which is refused, and prints why. */
  private void showRefusal(String account, String refundId) {
    try {
      gateway.createRefund(account, "another-order", refundId);
    } catch (StatusRuntimeException e) {
      ErrorInfo info = detail(e, ErrorInfo.class).orElseThrow(() -> e);
      List<String> fields = new ArrayList<>();
      if (info.containsMetadata("differing_fields")) {
        fields.add(info.getMetadataOrThrow("differing_fields"));
      }
      detail(e, BadRequest.class)
          .map(BadRequest::getFieldViolationsList)
          .ifPresent(found -> found.forEach(violation -> fields.add(violation.getField())));
      System.out.printf("refused %s %s%n", info.getReason(), String.join(",", fields));
      return;
    }
    throw new IllegalStateException("another order was taken under the id " + refundId);
  }

  /**
   * Prints the refund's events that the store has not seen, then opens the stream once more where
   * it ended, as a program does after a restart.
   */
  private void followEvents(Refund refund) throws IOException {
    List<RefundEvent> seen = readEvents(refund, Duration.ofSeconds(5));
    if (seen.isEmpty()) {
      System.out.println("events 0");
    } else {
      long first = seen.get(0).getSequence();
      long last = seen.get(seen.size() - 1).getSequence();
      System.out.printf("events %d %d..%d%n", seen.size(), first, last);
    }
    long after = store.lastSequence();
    readEvents(refund, Duration.ofSeconds(1));
    System.out.printf("resumed after %d%n", after);
  }

  /** The refund's events after the store's last sequence, up to its latest revision. */
  private List<RefundEvent> readEvents(Refund refund, Duration deadline) throws IOException {
    List<RefundEvent> seen = new ArrayList<>();
    try (Gateway.Events events = gateway.streamEvents(store.lastSequence(), deadline)) {
      while (events.hasNext()) {
        RefundEvent event = events.next();
        if (event.getSequence() <= store.lastSequence()) {
          throw new IllegalStateException("event " + event.getSequence() + " came twice");
        }
        store.setLastSequence(event.getSequence());
        if (event.getRefund().equals(refund.getName())) {
          System.err.printf("%6d %s%n", event.getSequence(), event.getNote());
          seen.add(event);
          if (event.getRevision() >= refund.getRevision()) {
            break;
          }
        }
      }
    }
    // Only now: after a crash, what was read since the last time comes again.
    store.save();
    return seen;
  }

  private static boolean isTerminal(Refund refund) {
    return switch (refund.getState()) {
      case STATE_SUCCEEDED, STATE_PARTIALLY_SUCCEEDED, STATE_FAILED, STATE_CANCELLED -> true;
      default -> false;
    };
  }

  private static boolean needsPerson(Refund refund) {
    return switch (refund.getState()) {
      case STATE_NEEDS_REVIEW, STATE_AWAITING_APPROVAL -> true;
      default -> false;
    };
  }

  /**
   * Whether the error leaves open what became of the refund, or passes by itself. Only an error
   * with an ErrorInfo says that the call recorded nothing.
   */
  private static boolean isUnanswered(StatusRuntimeException e) {
    Status.Code code = e.getStatus().getCode();
    return code == Status.Code.UNAVAILABLE
        || code == Status.Code.DEADLINE_EXCEEDED
        || detail(e, ErrorInfo.class).isEmpty();
  }

  private static <T extends com.google.protobuf.Message> Optional<T> detail(
      StatusRuntimeException e, Class<T> type) {
    com.google.rpc.Status status = StatusProto.fromThrowable(e);
    if (status == null) {
      return Optional.empty();
    }
    return status.getDetailsList().stream().filter(any -> any.is(type)).findFirst().map(any -> {
      try {
        return any.unpack(type);
      } catch (InvalidProtocolBufferException malformed) {
        throw e;
      }
    });
  }

  private static String stateName(Refund refund) {
    return refund.getState().name().replaceFirst("^STATE_", "");
  }

  private static String verdictName(Refund refund) {
    return refund.getMoneyVerdict().name().replaceFirst("^MONEY_VERDICT_", "");
  }
}
