//! Which threads the kernel lets run first when the processors are busy.

use std::time::Duration;

/// The niceness (`nice(2)`) of threads that have time.
const BEHIND: i32 = 10;
/// The least that Linux grants.
const SLICE: Duration = Duration::from_micros(100);

/// Gives this thread a lower priority than those that serve and commit: old records must not hold up new ones.
pub fn step_back() {
    // Linux keeps it by thread. One that may not goes on as it is.
    let _ = rustix::process::setpriority_process(None, BEHIND);
}

/// Asks for short time slices for this thread (`sched_setattr(2)`; since Linux 6.12, EEVDF lets a thread that wakes up run the
/// sooner, the less time it asks for at once). Whoever commits or answers has little to do each time, and others wait for it;
/// between threads that compute it would wait for the end of their slices, which are longer than a flush. Its share of the
/// processors stays what it was, so no privilege is needed.
pub fn run_soon() {
    let attr = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: rustix::process::getpriority_process(None).unwrap_or(0),
        sched_priority: 0,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads a structure of the size that it says it has, and keeps no pointer to it.
    #[allow(unsafe_code)]
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done != 0 {
        // An older kernel, or a seccomp profile: the thread goes on as it is.
        tracing::debug!("no short time slices: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slice that the kernel tells of this thread, in nanoseconds; not told by every kernel.
    fn slice_ns() -> Option<u64> {
        let told = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = told.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit_once(':')?.1.trim().parse().ok()
    }

    #[test]
    fn a_thread_asks_for_short_slices_and_keeps_its_niceness() {
        let thread = std::thread::spawn(|| {
            step_back();
            let before = slice_ns();
            run_soon();
            (rustix::process::getpriority_process(None), before, slice_ns())
        });
        let (nice, before, after) = thread.join().unwrap();
        assert_eq!(nice, Ok(BEHIND));
        if let (Some(before), Some(after)) = (before, after) {
            assert!(after < before, "{before} {after}");
        }
    }
}
