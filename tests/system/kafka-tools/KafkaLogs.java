// Opens a log directory with Kafka's own LogManager, as a Kafka broker would at start.
//
//   KafkaLogs DIR read                            prints what it found, stops cleanly
//   KafkaLogs DIR append TOPIC PARTITION PID N    appends N batches of three records, in turn with every codec, each of the
//                                                 idempotent producer PID, which Kafka must know already from the log
//   KafkaLogs DIR clean TOPIC PARTITION           lets Kafka's cleaner compact the log once
//
// Lines on stdout, tab-separated: "clean true|false", "log TOPIC PARTITION START END SEGMENTS EPOCH PRODUCERS" and
// "record TOPIC PARTITION OFFSET TIMESTAMP KEY VALUE" (text; not of internal topics). What Kafka has to complain about goes to stderr.
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Properties;
import java.util.Set;

import kafka.log.LogManager;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.storage.log.FetchIsolation;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.checkpoint.CleanShutdownFileHandler;
import org.apache.kafka.storage.internals.log.CleanerConfig;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.UnifiedLog;
import org.apache.kafka.storage.log.metrics.BrokerTopicStats;
import scala.jdk.javaapi.CollectionConverters;

public class KafkaLogs {
    private static final long NEVER = 1L << 40; // of background tasks: what happens, happens here
    private static final KafkaScheduler scheduler = new KafkaScheduler(1);

    private static LogManager open(File dir, String compacted) {
        Properties p = new Properties(), compact = new Properties();
        compact.put("cleanup.policy", "compact");
        p.put("internal.segment.bytes", "20000");
        p.put("index.interval.bytes", "500");
        p.put("retention.ms", "-1");
        p.put("min.cleanable.dirty.ratio", "0.001");
        CleanerConfig cleaner = new CleanerConfig(1, 4 << 20, 0.9, 1 << 20, 32 << 20, Double.MAX_VALUE, 100, true);
        LogManager m = new LogManager(CollectionConverters.asScala(List.of(dir)).toSeq(), CollectionConverters.asScala(List.<File>of()).toSeq(),
            resource -> compact, new LogConfig(p), cleaner, 1, NEVER, NEVER, NEVER, NEVER, 900000,
            new ProducerStateManagerConfig(86400000, false), 600000, scheduler, new BrokerTopicStats(), new LogDirFailureChannel(1), Time.SYSTEM,
            true, NEVER);
        scheduler.startup();
        m.startup(CollectionConverters.asScala(compacted == null ? Set.<String>of() : Set.of(compacted)).toSet(), log -> false);
        return m;
    }

    private static String text(ByteBuffer b) {
        return b == null ? "" : StandardCharsets.UTF_8.decode(b.duplicate()).toString();
    }

    private static void read(UnifiedLog log) throws Exception {
        TopicPartition tp = log.topicPartition();
        System.out.printf("log\t%s\t%d\t%d\t%d\t%d\t%d\t%d%n", tp.topic(), tp.partition(), log.logStartOffset(), log.logEndOffset(),
            log.numberOfSegments(), log.latestEpoch().orElse(-1), log.producerIdCount());
        for (long at = log.logStartOffset(); at < log.logEndOffset();) {
            long next = at;
            for (RecordBatch batch : log.read(at, 1 << 20, FetchIsolation.LOG_END, true).records.batches()) {
                batch.ensureValid();
                for (Record r : batch) {
                    if (r.offset() >= at && !tp.topic().startsWith("__"))
                        System.out.printf("record\t%s\t%d\t%d\t%d\t%s\t%s%n", tp.topic(), tp.partition(), r.offset(), r.timestamp(), text(r.key()), text(r.value()));
                }
                next = batch.nextOffset();
            }
            if (next == at)
                break;
            at = next;
        }
    }

    private static void append(UnifiedLog log, long producer, int batches) throws Exception {
        int sequence = log.activeProducersWithLastSequence().get(producer) + 1;
        short epoch = log.producerStateManager().lastEntry(producer).get().producerEpoch();
        List<CompressionType> codecs = List.of(CompressionType.NONE, CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4, CompressionType.ZSTD);
        for (int i = 0; i < batches; i++, sequence += 3) {
            SimpleRecord[] records = new SimpleRecord[3];
            for (int k = 0; k < records.length; k++)
                records[k] = new SimpleRecord(System.currentTimeMillis(), ("k" + (i * 3 + k) % 37).getBytes(), ("kafka-" + "y".repeat(80) + i + "." + k).getBytes());
            Compression codec = Compression.of(codecs.get(i % codecs.size())).build();
            log.appendAsLeader(MemoryRecords.withIdempotentRecords(codec, producer, epoch, sequence, records), log.latestEpoch().orElse(0));
        }
    }

    public static void main(String[] args) throws Exception {
        File dir = new File(args[0]);
        String verb = args[1];
        System.out.println("clean\t" + new CleanShutdownFileHandler(dir.getPath()).exists());
        LogManager m = open(dir, verb.equals("clean") ? args[2] : null);
        if (!verb.equals("read")) {
            TopicPartition tp = new TopicPartition(args[2], Integer.parseInt(args[3]));
            UnifiedLog log = m.getLog(tp, false).get();
            log.updateHighWatermark(log.logEndOffset());
            if (verb.equals("append")) {
                append(log, Long.parseLong(args[4]), Integer.parseInt(args[5]));
            } else {
                log.roll();
                log.updateHighWatermark(log.logEndOffset());
                if (!m.cleaner().awaitCleaned(tp, log.activeSegment().baseOffset(), 30000))
                    throw new IllegalStateException("the cleaner did not come to an end");
            }
        }
        for (UnifiedLog log : CollectionConverters.asJava(m.allLogs()))
            read(log);
        if (m.hasOfflineLogDirs())
            throw new IllegalStateException("Kafka took the directory offline");
        m.shutdown(-1);
        scheduler.shutdown();
    }
}
