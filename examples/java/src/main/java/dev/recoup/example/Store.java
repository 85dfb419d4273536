package dev.recoup.example;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;

/**
 * What must survive a crash of this program: which refund belongs to which order, and how far the
 * event stream has been read. A shop keeps both in its database.
 */
final class Store {
  private static final Gson GSON = new GsonBuilder().setPrettyPrinting().create();

  private static final class Content {
    Map<String, String> refunds = new TreeMap<>();
    long lastSequence;
  }

  private final Path path;
  private final Content content;

  private Store(Path path, Content content) {
    this.path = path;
    this.content = content;
  }

  static Store open(Path path) throws IOException {
    if (Files.notExists(path)) {
      return new Store(path, new Content());
    }
    return new Store(path, GSON.fromJson(Files.readString(path), Content.class));
  }

  /** The order's refund id. A new one is on disk before it is returned. */
  String refundId(String order) throws IOException {
    String refundId = content.refunds.get(order);
    if (refundId == null) {
      refundId = UUID.randomUUID().toString();
      content.refunds.put(order, refundId);
      save();
    }
    return refundId;
  }

  long lastSequence() {
    return content.lastSequence;
  }

  /** Not on disk before {@link #save}. */
  void setLastSequence(long sequence) {
    content.lastSequence = sequence;
  }

  /** A new file replaces the old one at once, so that a crash leaves one of the two. */
  void save() throws IOException {
    Path next = path.resolveSibling(path.getFileName() + ".new");
    try (FileChannel file =
        FileChannel.open(
            next,
            StandardOpenOption.CREATE,
            StandardOpenOption.TRUNCATE_EXISTING,
            StandardOpenOption.WRITE)) {
      ByteBuffer json = StandardCharsets.UTF_8.encode(GSON.toJson(content));
      while (json.hasRemaining()) {
        file.write(json);
      }
      file.force(true);
    }
    Files.move(next, path, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    try (FileChannel folder = FileChannel.open(path.toAbsolutePath().getParent())) {
      folder.force(true);
    }
  }
}
