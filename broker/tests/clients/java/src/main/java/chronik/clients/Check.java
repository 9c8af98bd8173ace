package chronik.clients;

import java.util.Arrays;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;

/** Says what was expected and what came instead. */
final class Check {
    /** The broker, or the client, did something else than expected. */
    static final class Mismatch extends RuntimeException {
        private static final long serialVersionUID = 1;

        Mismatch(String what, Throwable cause) {
            super(what, cause);
        }
    }

    private Check() {}

    static void that(boolean condition, Object... what) {
        if (!condition) {
            String said = Arrays.stream(what).map(String::valueOf).collect(Collectors.joining(" "));
            throw new Mismatch(said.substring(0, Math.min(said.length(), 1000)), null);
        }
    }

    static void equal(String what, Object have, Object want) {
        that(Objects.equals(have, want), what, "is", have, "but expected", want);
    }

    /** Kafka's metadata may be answered from just before a change that it has acknowledged. */
    static void eventually(String what, Callable<Boolean> holds) throws Exception {
        long deadline = System.nanoTime() + Main.WAIT.toNanos();
        while (!holds.call()) {
            that(System.nanoTime() < deadline, what, "did not come about in time");
        }
    }

    /** The call must fail with this error, be it thrown as it is or as a future's cause. */
    static void fails(Class<? extends Throwable> expected, String what, Callable<?> call) {
        Object answer;
        try {
            answer = call.call();
        } catch (Exception error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            if (!expected.isInstance(cause)) {
                throw new Mismatch(what + ": expected " + expected.getSimpleName() + ", got " + cause, cause);
            }
            return;
        }
        throw new Mismatch(what + ": expected " + expected.getSimpleName() + ", got the answer " + answer, null);
    }
}
