"""Times calls on a queue of work so that only the device counts, not the host that fills the queue.

A window is a start mark, some calls, and an end mark. If the device were idle at its start, it would wait for the host between
the calls, and a call of 5 us would seem to take as long as the host needs for it. So a *hold* is queued first: work that keeps
the device busy until the host has queued the whole window. If the device got to the start mark before the host was done, the
window does not count and is repeated behind a hold of twice the length.

`python3 windows.py` checks this on a simulated device.
"""
import math

# Shortest hold in seconds, and longest; a window that needs more has the host as its limit, and says so.
SHORTEST, LONGEST = 2e-4, 0.5
# Least duration of a window in seconds: the clock of a GPU has a resolution of half a microsecond.
LEAST = 5e-4
# Most calls of a window: CUDA lets the host wait at about a thousand launches, and a call may launch several kernels.
MOST = 256


class HostBound(Exception):
    """The host cannot queue the calls of a window within the longest hold."""


class Windows:
    """Windows on a queue: `host()` seconds, `hold(seconds)`, `mark()`, `passed(mark)` and `between(start, end)` seconds."""

    def __init__(self, queue):
        self.queue, self.length = queue, SHORTEST

    def seconds(self, call, calls):
        """Mean seconds of one call among `calls` of a window."""
        while True:
            self.queue.hold(self.length)
            start = self.queue.mark()
            for _ in range(calls):
                call()
            end = self.queue.mark()
            late = self.queue.passed(start)
            seconds = self.queue.between(start, end)
            if not late:
                return seconds / calls
            if self.length >= LONGEST:
                raise HostBound(f"{calls} calls are queued more slowly than the device can be held")
            self.length = min(2 * self.length, LONGEST)

    def calls(self, call, least):
        """Calls of a window: enough for its least duration, a multiple of `least`, and no more than a queue takes."""
        one = self.seconds(call, least)
        times = math.ceil(LEAST / max(one * least, 1e-9))
        return least * max(1, min(times, MOST // least))


def interleaved(queue, calls, rounds, least=1, warm_up=3):
    """Seconds of each call, one per round, and why other calls could not be timed. Calls alternate, in reverse order every
    second round. A window has a multiple of `least` calls, so that a call that goes through copies of its weight reads all of
    them equally often."""
    windows = {name: Windows(queue) for name in calls}
    counts, seconds, failed = {}, {name: [] for name in calls}, {}
    for name, call in calls.items():
        for _ in range(warm_up):
            call()
        try:
            counts[name] = windows[name].calls(call, least)
        except HostBound as reason:
            failed[name] = str(reason)
    for turn in range(rounds):
        names = [name for name in calls if name not in failed]
        for name in names if turn % 2 == 0 else names[::-1]:
            try:
                seconds[name].append(windows[name].seconds(calls[name], counts[name]))
            except HostBound as reason:
                failed[name] = str(reason)
    return {name: found for name, found in seconds.items() if name not in failed}, failed


class Simulated:
    """A device that starts work as soon as it is queued and the work before it is done, and a host that needs time to queue."""

    def __init__(self):
        self.host_time = self.device_time = 0.0

    def launch(self, host, device):
        self.host_time += host
        self.device_time = max(self.device_time, self.host_time) + device

    def hold(self, seconds):
        self.launch(0.0, seconds)

    def mark(self):
        return max(self.device_time, self.host_time)

    def passed(self, mark):
        return mark < self.host_time

    def between(self, start, end):
        self.host_time = max(self.host_time, end)
        return end - start


def check():
    def close(got, want):
        assert abs(got - want) < 1e-9, (got, want)

    queue = Simulated()
    fast, slow = lambda: queue.launch(20e-6, 5e-6), lambda: queue.launch(10e-6, 300e-6)
    # What this is for: on an idle device the host's 20 us would be measured.
    start = queue.mark()
    fast()
    close(queue.between(start, queue.mark()), 25e-6)
    stuck = lambda: queue.launch(1.0, 1e-6)
    found, failed = interleaved(queue, {"fast": fast, "stuck": stuck, "slow": slow}, 5)
    # A host that is slower than any hold is named, and the others are still timed.
    assert list(failed) == ["stuck"], failed
    assert [len(found[name]) for name in ("fast", "slow")] == [5, 5]
    for seconds in found["fast"]:
        close(seconds, 5e-6)
    for seconds in found["slow"]:
        close(seconds, 300e-6)
    # Each of seven copies is read equally often.
    reads = [0] * 7
    def rotating():
        rotating.at = (getattr(rotating, "at", -1) + 1) % 7
        reads[rotating.at] += 1
        queue.launch(20e-6, 5e-6)
    interleaved(queue, {"rotating": rotating}, 4, least=7, warm_up=0)
    assert len(set(reads)) == 1, reads
    print("right")


if __name__ == "__main__":
    check()
