package chronik.clients;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** SIGTERM asks a program that otherwise goes on for ever to end in order, with exit code 0. */
final class Termination {
    private static final CountDownLatch ASKED = new CountDownLatch(1);
    private static volatile int status;
    private static volatile boolean failedBefore;

    private Termination() {}

    /** For the main thread, before its work. */
    static void handle() {
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            if (failedBefore) {
                return;
            }
            ASKED.countDown();
            try {
                main.join();
            } catch (InterruptedException error) {
                status = 1;
            }
            Runtime.getRuntime().halt(status);
        }));
    }

    static boolean asked() {
        return ASKED.getCount() == 0;
    }

    /** Waits for a while, or until it is asked. */
    static boolean askedWithin(long milliseconds) throws InterruptedException {
        return ASKED.await(milliseconds, TimeUnit.MILLISECONDS);
    }

    /** The last that the main thread does after a failure. */
    static void fail() {
        if (asked()) {
            status = 1;
        } else {
            failedBefore = true;
            System.exit(1);
        }
    }
}
