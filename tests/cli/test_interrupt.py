import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_ctrl_c_writes_nothing_and_exits_130(model, tmp_path: Path) -> None:
    """On a terminal of its own: wait for the bar of denoising, then interrupt, and again."""
    master, terminal = pty.openpty()
    command = [
        "generate",
        "a red circle",
        "--model",
        model,
        "--candidates",
        "2",
        "--steps",
        "1000",
        "--out",
        "a.mp4",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", "from seedbed.cli import main; main()", *command],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # A shell that runs the tests in the background has them, and so this process, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(terminal)
    shown, sent, deadline = "", False, time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([master], [], [], 1)
        if ready:
            try:
                shown += os.read(master, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        if not sent and "generation" in shown:
            for _ in range(3):
                os.kill(process.pid, signal.SIGINT)
                time.sleep(0.05)
            sent = True
        if process.poll() is not None and not ready:
            break
    assert sent, shown
    assert process.wait(10) == 130
    assert process.stdout is not None and process.stdout.read() == b""
    process.stdout.close()
    os.close(master)
    assert shown.count("interrupted: nothing was written") == 1
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
