package chronik.clients;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/** The records that every client writes and expects: ../README.md of this folder's parent. */
final class Records {
    /** Old on purpose: a broker that takes its own clock for the record's is found out. */
    private static final long BASE_TIMESTAMP_MS = 1_700_000_000_000L;

    private Records() {}

    /** The top bytes of xorshift32: the same few lines in each language. */
    private static byte[] pseudoRandomBytes(int seed, int count) {
        int state = seed == 0 ? 1 : seed;
        byte[] out = new byte[count];
        for (int at = 0; at < count; at++) {
            state ^= state << 13;
            state ^= state >>> 17;
            state ^= state << 5;
            out[at] = (byte) (state >>> 24);
        }
        return out;
    }

    static long timestampMs(int partition, int index) {
        long late = index % 5 == 3 ? 5000 : 0;
        return BASE_TIMESTAMP_MS + partition * 1_000_000L + index * 1000L - late;
    }

    /** Written by a client that refuses null header values, or a record without key and value. */
    private static boolean limited(String topic) {
        return List.of(".kafkajs.", ".kafka-python.", ".aiokafka.").stream().anyMatch(topic::contains);
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static ProducerRecord<byte[], byte[]> expected(String topic, int partition, int index) {
        CRC32 crc = new CRC32();
        crc.update(utf8(topic + "/" + partition + "/" + index));
        int seed = (int) crc.getValue();
        byte[] key = switch (index % 5) {
            case 0 -> null;
            case 1 -> new byte[0];
            case 2 -> utf8("key-" + index);
            case 3 -> pseudoRandomBytes(seed, 16);
            default -> utf8("ключ-" + index);
        };
        byte[] value = switch (index % 7) {
            case 0 -> pseudoRandomBytes(seed, 256);
            case 1 -> new byte[0];
            case 2 -> null;
            case 3 -> utf8("value " + index + " of " + topic + "/" + partition);
            case 4 -> pseudoRandomBytes(seed, 1 + Integer.remainderUnsigned(seed, 1000));
            case 5 -> utf8("{\"i\":" + index + "}");
            default -> pseudoRandomBytes(seed, 17);
        };
        if (index == 10) {
            value = new byte[100_000];
            for (int at = 0; at < value.length; at += 1000) {
                System.arraycopy(pseudoRandomBytes(seed, 1000), 0, value, at, 1000);
            }
        }
        List<Header> headers = new ArrayList<>();
        switch (index % 4) {
            case 1 -> headers.add(new RecordHeader("h", utf8("1")));
            case 2 -> {
                headers.add(new RecordHeader("trace", pseudoRandomBytes(seed, 8)));
                headers.add(new RecordHeader("empty", new byte[0]));
            }
            case 3 -> List.of("a", "b", "a").forEach(v -> headers.add(new RecordHeader("twice", utf8(v))));
            default -> { }
        }
        if (limited(topic)) {
            value = key == null && value == null ? new byte[0] : value;
        } else if (index % 4 == 2) {
            headers.add(new RecordHeader("null", (byte[]) null));
        }
        return new ProducerRecord<>(topic, partition, timestampMs(partition, index), key, value, headers);
    }

    static void compare(ConsumerRecord<byte[], byte[]> have, int index) {
        ProducerRecord<byte[], byte[]> want = expected(have.topic(), have.partition(), index);
        String where = have.topic() + "/" + have.partition() + " record " + index;
        Check.equal(where + " offset", have.offset(), (long) index);
        Check.equal(where + " timestamp", have.timestamp(), want.timestamp());
        Check.that(Arrays.equals(have.key(), want.key()), where, "key", Arrays.toString(have.key()));
        Check.that(Arrays.equals(have.value(), want.value()), where, "value", Arrays.toString(have.value()));
        Check.equal(where + " headers", List.of(have.headers().toArray()), List.of(want.headers().toArray()));
    }

    /** The first offset, in the log's order, whose timestamp is at least {@code time}; null if there is none. */
    static Long offsetForTime(int partition, int records, long time) {
        for (int index = 0; index < records; index++) {
            if (timestampMs(partition, index) >= time) {
                return (long) index;
            }
        }
        return null;
    }
}
