package dev.recoup.example;

import com.google.gson.Gson;
import dev.recoup.v1.CreateRefundRequest;
import dev.recoup.v1.CreateRefundResponse;
import dev.recoup.v1.GetValidationStatusRequest;
import dev.recoup.v1.Refund;
import dev.recoup.v1.RefundEvent;
import dev.recoup.v1.RefundServiceGrpc;
import dev.recoup.v1.RefundServiceGrpc.RefundServiceBlockingStub;
import dev.recoup.v1.SectigoRefundReason;
import dev.recoup.v1.SectigoTarget;
import dev.recoup.v1.StreamRefundEventsRequest;
import dev.recoup.v1.StreamRefundEventsResponse;
import dev.recoup.v1.ValidationStatus;
import dev.recoup.v1.ValidationStatusServiceGrpc;
import dev.recoup.v1.ValidationStatusServiceGrpc.ValidationStatusServiceBlockingStub;
import dev.recoup.v1.WaitRefundRequest;
import dev.recoup.v1.WaitRefundResponse;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Iterator;
import java.util.Map;
import java.util.concurrent.Executor;

/** recoup's gateway over TLS, with a token and a deadline on every call. */
final class Gateway implements AutoCloseable {
  /** The gateway answers shortly before it, with the refund as it then is. */
  private static final Duration DEADLINE = Duration.ofSeconds(30);

  private final ManagedChannel channel;
  private final RefundServiceBlockingStub refunds;
  private final ValidationStatusServiceBlockingStub validation;

  /** Where the gateway is and what it knows the caller by. */
  record Settings(String server, Path caFile, Path tokenFile) {
    static Settings fromEnvironment() {
      return new Settings(
          read("RECOUP_SERVER"),
          Path.of(read("RECOUP_CA_FILE")),
          Path.of(read("RECOUP_TOKEN_FILE")));
    }

    private static String read(String name) {
      String value = System.getenv(name);
      if (value == null) {
        throw new IllegalArgumentException(name + " is not set");
      }
      return value;
    }
  }

  private Gateway(ManagedChannel channel, BearerToken token) {
    this.channel = channel;
    refunds = RefundServiceGrpc.newBlockingStub(channel).withCallCredentials(token);
    validation = ValidationStatusServiceGrpc.newBlockingStub(channel).withCallCredentials(token);
  }

  static Gateway connect(Settings settings) throws IOException {
    ChannelCredentials tls =
        TlsChannelCredentials.newBuilder().trustManager(settings.caFile().toFile()).build();
    ManagedChannel channel =
        Grpc.newChannelBuilder(settings.server(), tls)
            .defaultServiceConfig(serviceConfig())
            .build();
    return new Gateway(channel, new BearerToken(Files.readString(settings.tokenFile()).strip()));
  }

  CreateRefundResponse createRefund(String account, String order, String refundId) {
    SectigoTarget target =
        SectigoTarget.newBuilder()
            .setOrderNumber(order)
            .setReason(SectigoRefundReason.SECTIGO_REFUND_REASON_OTHER)
            .build();
    CreateRefundRequest request =
        CreateRefundRequest.newBuilder()
            .setRefundId(refundId)
            .setAccount(account)
            .setSectigo(target)
            .build();
    return refunds.withDeadlineAfter(DEADLINE).createRefund(request);
  }

  /** Returns when the refund has changed, or shortly before the deadline. */
  WaitRefundResponse waitRefund(Refund seen) {
    WaitRefundRequest request =
        WaitRefundRequest.newBuilder()
            .setName(seen.getName())
            .setAfterRevision(seen.getRevision())
            .build();
    return refunds.withDeadlineAfter(DEADLINE).waitRefund(request);
  }

  ValidationStatus validationStatus(String account, String order) {
    GetValidationStatusRequest request =
        GetValidationStatusRequest.newBuilder().setAccount(account).setOrderNumber(order).build();
    return validation
        .withDeadlineAfter(DEADLINE)
        .getValidationStatus(request)
        .getValidationStatus();
  }

  /** The events of the ledger after the sequence, until the deadline. */
  Events streamEvents(long afterSequence, Duration deadline) {
    return new Events(
        refunds.withDeadlineAfter(deadline),
        StreamRefundEventsRequest.newBuilder().setAfterSequence(afterSequence).build());
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }

  /** A stream of events that ends at its deadline, or when it is closed. */
  static final class Events implements Iterator<RefundEvent>, AutoCloseable {
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Iterator<StreamRefundEventsResponse> responses;

    private Events(RefundServiceBlockingStub refunds, StreamRefundEventsRequest request) {
      Context outer = context.attach();
      try {
        responses = refunds.streamRefundEvents(request);
      } finally {
        context.detach(outer);
      }
    }

    @Override
    public boolean hasNext() {
      try {
        return responses.hasNext();
      } catch (StatusRuntimeException e) {
        if (e.getStatus().getCode() == Status.Code.DEADLINE_EXCEEDED) {
          return false;
        }
        throw e;
      }
    }

    @Override
    public RefundEvent next() {
      return responses.next().getEvent();
    }

    @Override
    public void close() {
      context.cancel(null);
    }
  }

  /** Goes with every call, over TLS only. */
  private static final class BearerToken extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final Metadata headers = new Metadata();

    BearerToken(String token) {
      headers.put(AUTHORIZATION, "Bearer " + token);
    }

    @Override
    public void applyRequestMetadata(
        RequestInfo request, Executor executor, MetadataApplier applier) {
      applier.apply(headers);
    }
  }

  private static Map<String, ?> serviceConfig() throws IOException {
    InputStream resource = Gateway.class.getResourceAsStream("/service_config.json");
    try (Reader reader = new InputStreamReader(resource, StandardCharsets.UTF_8)) {
      return new Gson().<Map<String, ?>>fromJson(reader, Map.class);
    }
  }
}
